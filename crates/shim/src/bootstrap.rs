// SPDX-License-Identifier: Apache-2.0
//! How a daemon starts a shim, and what the shim answers: one vocabulary for both sides.
//!
//! ```text
//! daemon --exec: -namespace N -address A -publish-binary B -id I [-debug] start--> shim
//!          stdin: runtime options (Any); env: see below; cwd: the bundle
//! daemon <--stdout: {"version":3,"address":"unix:///...","protocol":"ttrpc"}------ shim
//! ```
//!
//! Since containerd 2.3 the input may be a `BootstrapParams` instead, and then the answer is a
//! `BootstrapResult`, both protobuf: see [`Params`].
//!
//! Facts from containerd `core/runtime/v2/{binary,shim}.go` and `pkg/shim`.
use api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult, LogLevel};
use prost::Message;
use serde::{Deserialize, Serialize};
use types::{Any, Error, Result};

use crate::Flags;

/// Environment variable with the address of the daemon's ttrpc socket.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Environment variable with the address of the daemon's gRPC socket.
pub const GRPC_ADDRESS: &str = "GRPC_ADDRESS";
/// Environment variable with the namespace.
pub const NAMESPACE: &str = "NAMESPACE";
/// Environment variable with the newest task API that the daemon speaks. A daemon that does not set
/// it (1.6 and older) reads a bare address and knows nothing of JSON.
pub const MAX_SHIM_VERSION: &str = "MAX_SHIM_VERSION";

/// The newest task API of ours.
pub const VERSION: u32 = 3;

/// Where a shim that has started can be spoken to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The task API that it speaks: 2 or 3.
    pub version: u32,
    /// `unix://` and a path.
    pub address: String,
    /// `ttrpc` or `grpc`.
    pub protocol: String,
}

impl Answer {
    /// An answer of a shim that speaks ttrpc.
    pub fn ttrpc(version: u32, address: impl Into<String>) -> Self {
        Self { version, address: address.into(), protocol: "ttrpc".into() }
    }

    /// Reads JSON, or the bare address that older shims print.
    ///
    /// Errors: `Unimplemented` for a version newer than ours; `InvalidArgument` for an empty answer.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let answer = match serde_json::from_str::<Self>(text) {
            Ok(answer) if answer.version >= 2 => answer,
            _ => Self::ttrpc(2, text),
        };
        if answer.version > VERSION {
            return Err(Error::unimplemented(format!(
                "unsupported shim version ({})",
                answer.version
            )));
        }
        if answer.address.is_empty() {
            return Err(Error::invalid("the shim answered without an address"));
        }
        Ok(answer)
    }

    /// The JSON that goes into a bundle's `bootstrap.json` and to daemons that read it.
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// What a daemon tells a shim that it starts, in whichever way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// The task that the shim is started for.
    pub id: String,
    /// The namespace that owns it.
    pub namespace: String,
    /// The daemon's gRPC socket.
    pub address: String,
    /// The daemon's ttrpc socket, for events.
    pub ttrpc_address: String,
    /// A program that publishes events.
    pub publish_binary: String,
    /// Where the shim's socket shall be, if not in the usual place.
    pub socket_dir: Option<String>,
    /// Whether the log shall say more.
    pub debug: bool,
    /// Options of the runtime, and whatever else was said.
    pub options: Vec<Any>,
    reply: Reply,
}

/// In which form the daemon takes an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reply {
    #[default]
    Address,
    Json(u32),
    Message,
}

impl Params {
    /// Reads what a daemon said in flags, input and environment.
    ///
    /// Options of older daemons happen to decode as `BootstrapParams` too. So it is one only if it
    /// repeats what the flags say (containerd `pkg/shim/compat.go`).
    pub fn read(flags: &Flags, input: &[u8], env: impl Fn(&str) -> Option<String>) -> Self {
        match BootstrapParams::decode(input) {
            Ok(params) if says_what_flags_say(&params, flags) => Self::from_message(params, flags),
            _ => Self::from_flags(flags, input, env),
        }
    }

    fn from_message(params: BootstrapParams, flags: &Flags) -> Self {
        let options = params.extensions.into_iter().filter_map(|extension| extension.value);
        Self {
            debug: flags.debug || params.log_level <= LogLevel::Debug as i32,
            id: params.instance_id,
            namespace: params.namespace,
            address: params.containerd_grpc_address,
            ttrpc_address: params.containerd_ttrpc_address,
            publish_binary: params.containerd_binary,
            socket_dir: params.socket_dir.filter(|directory| !directory.is_empty()),
            options: options.map(|any| Any::new(any.type_url, any.value)).collect(),
            reply: Reply::Message,
        }
    }

    fn from_flags(flags: &Flags, input: &[u8], env: impl Fn(&str) -> Option<String>) -> Self {
        let options = prost_types::Any::decode(input).ok().filter(|any| !any.type_url.is_empty());
        let reply = match env(MAX_SHIM_VERSION).map(|version| version.parse::<u32>()) {
            None => Reply::Address,
            Some(version) => Reply::Json(version.unwrap_or(2).clamp(2, VERSION)),
        };
        Self {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            address: flags.address.clone(),
            ttrpc_address: env(TTRPC_ADDRESS).unwrap_or_default(),
            publish_binary: flags.publish_binary.clone(),
            socket_dir: None,
            debug: flags.debug,
            options: options.into_iter().map(|any| Any::new(any.type_url, any.value)).collect(),
            reply,
        }
    }

    /// Says where the shim listens, in the form that this daemon takes.
    pub fn answer(&self, address: &str) -> Vec<u8> {
        match self.reply {
            Reply::Address => address.into(),
            Reply::Json(version) => Answer::ttrpc(version, address).to_json().into(),
            Reply::Message => BootstrapResult {
                version: VERSION as i32,
                address: address.into(),
                protocol: "ttrpc".into(),
                ..Default::default()
            }
            .encode_to_vec(),
        }
    }
}

fn says_what_flags_say(params: &BootstrapParams, flags: &Flags) -> bool {
    let said = (params.instance_id.as_str(), params.namespace.as_str());
    !said.0.is_empty() && said == (flags.id.as_str(), flags.namespace.as_str())
}

#[cfg(test)]
mod tests {
    use api::containerd::runc::v1::Options;

    use super::*;

    #[test]
    fn json_and_bare_addresses_are_read() {
        let json = r#"{"version":3,"address":"unix:///run/s/a","protocol":"ttrpc"}"#;
        let answer = Answer::ttrpc(3, "unix:///run/s/a");
        assert_eq!(Answer::parse(json).unwrap(), answer);
        assert_eq!(Answer::parse(&answer.to_json()).unwrap(), answer);
        assert_eq!(
            Answer::parse("unix:///run/s/b\n").unwrap(),
            Answer::ttrpc(2, "unix:///run/s/b")
        );
    }

    #[test]
    fn a_newer_shim_and_an_empty_answer_are_refused() {
        assert!(Answer::parse(r#"{"version":4,"address":"a","protocol":"ttrpc"}"#).is_err());
        assert!(Answer::parse("").is_err());
    }

    fn flags() -> Flags {
        let args = "-namespace n -id a -address /run/c.sock start";
        Flags::parse(args.split(' ').map(str::to_owned)).unwrap()
    }

    fn options() -> prost_types::Any {
        api::pack(&Options { shim_cgroup: "/x".into(), ..Default::default() })
    }

    #[test]
    fn older_daemons_say_it_in_flags_and_environment() {
        let input = options().encode_to_vec();
        let env = |key: &str| (key == TTRPC_ADDRESS).then(|| "/run/t".to_owned());
        let params = Params::read(&flags(), &input, env);
        assert_eq!((params.id.as_str(), params.namespace.as_str()), ("a", "n"));
        assert_eq!(
            (params.address.as_str(), params.ttrpc_address.as_str()),
            ("/run/c.sock", "/run/t")
        );
        assert!(params.options[0].is("containerd.runc.v1.Options"));
        assert_eq!(params.answer("unix:///s"), b"unix:///s");
    }

    #[test]
    fn a_daemon_that_names_a_version_is_answered_in_json() {
        for (max, want) in [("2", 2), ("3", 3), ("9", 3), ("", 2)] {
            let env = |key: &str| (key == MAX_SHIM_VERSION).then(|| max.to_owned());
            let answer = Params::read(&flags(), b"", env).answer("unix:///s");
            let answer = Answer::parse(str::from_utf8(&answer).unwrap()).unwrap();
            assert_eq!(answer, Answer::ttrpc(want, "unix:///s"));
        }
    }

    #[test]
    fn newer_daemons_say_it_in_one_message() {
        let message = BootstrapParams {
            instance_id: "a".into(),
            namespace: "n".into(),
            log_level: LogLevel::Debug as i32,
            socket_dir: Some("/run/s".into()),
            extensions: vec![api::containerd::runtime::bootstrap::v1::Extension {
                value: Some(options()),
            }],
            ..Default::default()
        };
        let params = Params::read(&flags(), &message.encode_to_vec(), |_| None);
        assert_eq!(params.socket_dir.as_deref(), Some("/run/s"));
        assert!(params.debug && params.options[0].is("containerd.runc.v1.Options"));
        let answer = BootstrapResult::decode(params.answer("unix:///s").as_slice()).unwrap();
        assert_eq!((answer.version, answer.address.as_str()), (3, "unix:///s"));
    }

    #[test]
    fn a_message_about_another_task_is_none() {
        let other = BootstrapParams {
            instance_id: "b".into(),
            namespace: "n".into(),
            socket_dir: Some("/evil".into()),
            ..Default::default()
        };
        let params = Params::read(&flags(), &other.encode_to_vec(), |_| None);
        assert_eq!((params.id.as_str(), params.socket_dir), ("a", None));
    }
}
