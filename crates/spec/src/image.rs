// SPDX-License-Identifier: Apache-2.0
use serde::Deserialize;
use types::{Error, Kind, Result};

use crate::document::nullable;

/// The search path of images that set none (containerd `pkg/oci/spec.go`).
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How the author of an image meant it to run (OCI image spec, config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// The program, and arguments that stay.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Arguments that may be replaced; the program if there is no entrypoint.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// The environment, `KEY=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The directory to start in; empty for the root.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// Who to run as: `user`, `uid`, `user:group`; empty for root.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
}

impl ImageConfig {
    /// Takes the config out of the blob that an image's manifest calls its config.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Image {
            #[serde(default, deserialize_with = "nullable")]
            config: ImageConfig,
        }
        let image: Image = serde_json::from_slice(json)
            .map_err(|error| Error::caused(Kind::InvalidArgument, "decode image config", error))?;
        Ok(image.config)
    }

    /// The command line, with `args` in place of those that may be replaced, if there are any
    /// (containerd `pkg/oci/spec_opts.go`, `WithImageConfigArgs`).
    pub fn command(&self, args: &[String]) -> Vec<String> {
        let args = if args.is_empty() { &self.cmd } else { args };
        [self.entrypoint.as_slice(), args].concat()
    }

    /// The environment: where to look for programs, if nothing else.
    pub(crate) fn environment(&self) -> Vec<String> {
        if self.env.is_empty() { vec![PATH.to_owned()] } else { self.env.clone() }
    }

    pub(crate) fn directory(&self) -> String {
        if self.working_dir.is_empty() { "/".to_owned() } else { self.working_dir.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_taken_from_an_image_as_docker_writes_it() {
        let json = br#"{"os":"linux","config":{"Cmd":["sh"],"Entrypoint":null,"User":"u","X":1}}"#;
        let config = ImageConfig::from_json(json).unwrap();
        assert_eq!((config.cmd, config.user.as_str()), (vec!["sh".to_owned()], "u"));
        assert_eq!(ImageConfig::from_json(b"{}").unwrap(), ImageConfig::default());
        assert!(ImageConfig::from_json(b"7").is_err());
    }

    #[test]
    fn arguments_replace_the_command_but_not_the_entrypoint() {
        let own = |it: &[&str]| it.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let config =
            ImageConfig { entrypoint: own(&["e"]), cmd: own(&["c"]), ..Default::default() };
        assert_eq!(config.command(&[]), ["e", "c"]);
        assert_eq!(config.command(&own(&["x"])), ["e", "x"]);
    }
}
