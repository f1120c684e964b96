// SPDX-License-Identifier: Apache-2.0
//! The words in which `ctr run` is told things.
use std::str::FromStr;

use types::{Error, Kind, Result};

use crate::{IdMapping, Mount, Namespace, Rlimit};

/// The namespaces that can be joined (containerd `cmd/ctr/commands/run/run_unix.go`).
const NAMESPACES: [&str; 7] = ["pid", "network", "uts", "mount", "user", "ipc", "cgroup"];

impl FromStr for Mount {
    type Err = Error;

    /// Reads `type=bind,src=/a,dst=/b,options=rbind:ro` (containerd `cmd/ctr/commands/run/run.go`).
    /// A field with a comma in it is put in quotation marks, as in a table of comma-separated values.
    fn from_str(text: &str) -> Result<Self> {
        let mut mount = Self::default();
        for field in fields(text) {
            let Some((key, value)) = field.split_once('=') else {
                return Err(bad("invalid mount specification: expected key=val"));
            };
            match key {
                "type" => value.clone_into(&mut mount.kind),
                "source" | "src" => value.clone_into(&mut mount.source),
                "destination" | "dst" => value.clone_into(&mut mount.destination),
                "options" => mount.options = value.split(':').map(str::to_owned).collect(),
                _ => return Err(bad(format!("mount option {key:?} not supported"))),
            }
        }
        Ok(mount)
    }
}

/// The fields of a line of comma-separated values (RFC 4180).
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("there is a first field, and none is taken away");
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

impl FromStr for Namespace {
    type Err = Error;

    /// Reads `kind:path`.
    fn from_str(text: &str) -> Result<Self> {
        let Some((kind, path)) = text.split_once(':') else {
            return Err(bad(
                "joining a Linux namespace using --with-ns requires the format 'nstype:path'",
            ));
        };
        if !NAMESPACES.contains(&kind) {
            return Err(bad(format!(
                "the Linux namespace type specified in --with-ns is not valid: {kind}"
            )));
        }
        Ok(Self { kind: kind.to_owned(), path: path.to_owned() })
    }
}

impl FromStr for IdMapping {
    type Err = Error;

    /// Reads `container-id:host-id:size`.
    fn from_str(text: &str) -> Result<Self> {
        let [container_id, host_id, size] = text.split(':').collect::<Vec<_>>()[..] else {
            return Err(bad(
                "user namespace mappings require the format `container-id:host-id:size`",
            ));
        };
        let number = |text: &str, what: &str| {
            let what = format!("invalid {what} for user namespace remapping: {text:?}");
            text.parse().map_err(|error| Error::caused(Kind::InvalidArgument, what, error))
        };
        Ok(Self {
            container_id: number(container_id, "container id")?,
            host_id: number(host_id, "host id")?,
            size: number(size, "size")?,
        })
    }
}

/// Reads the limit of open files: `soft:hard`, or one number for both.
pub fn rlimit_nofile(text: &str) -> Result<Rlimit> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let number = |limit: &str| {
        let what = format!("failed to parse rlimit-nofile {text:?}");
        limit.parse().map_err(|error| Error::caused(Kind::InvalidArgument, what, error))
    };
    Ok(Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: number(hard)?, soft: number(soft)? })
}

/// The entries of a file of environment variables: its lines, as they are.
pub fn env_file(contents: &str) -> Vec<String> {
    contents.lines().map(str::to_owned).collect()
}

fn bad(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::said(Kind::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_in_fields() {
        let mount: Mount = "type=bind,src=/a=b,destination=/c,options=rbind:ro".parse().unwrap();
        assert_eq!(mount, Mount::new("/c", "bind", "/a=b", &["rbind", "ro"]));
        let mount: Mount = r#"type=tmpfs,"dst=/a,b","src=""x""""#.parse().unwrap();
        assert_eq!(mount, Mount::new("/a,b", "tmpfs", "\"x\"", &[]));
        assert!("type".parse::<Mount>().is_err());
        let error = "typ=bind".parse::<Mount>().unwrap_err();
        assert_eq!(error.to_string(), "mount option \"typ\" not supported");
    }

    #[test]
    fn only_known_namespaces_are_joined() {
        let joined: Namespace = "network:/var/run/netns/x".parse().unwrap();
        assert_eq!((joined.kind.as_str(), joined.path.as_str()), ("network", "/var/run/netns/x"));
        assert!("network".parse::<Namespace>().is_err());
        assert!("dream:/x".parse::<Namespace>().is_err());
    }

    #[test]
    fn mappings_and_limits_are_numbers() {
        let mapping: IdMapping = "0:1000:10".parse().unwrap();
        assert_eq!(mapping, IdMapping { container_id: 0, host_id: 1000, size: 10 });
        for bad in ["0:1", "0:1:2:3", "a:1:2", "0:1:-1"] {
            assert!(bad.parse::<IdMapping>().is_err(), "{bad}");
        }
        let limit = rlimit_nofile("10:20").unwrap();
        assert_eq!((limit.soft, limit.hard), (10, 20));
        assert_eq!(rlimit_nofile("7").unwrap().hard, 7);
        assert!(rlimit_nofile("7:x").is_err());
    }
}
