// SPDX-License-Identifier: Apache-2.0
//! How a daemon starts a shim, and what the shim answers: one vocabulary for both sides.
//!
//! ```text
//! daemon --exec: -namespace N -address A -publish-binary B -id I [-debug] start--> shim
//!          stdin: runtime options (Any); env: see below; cwd: the bundle
//! daemon <--stdout: {"version":3,"address":"unix:///...","protocol":"ttrpc"}------ shim
//! ```
//!
//! Facts from containerd `core/runtime/v2/{binary,shim}.go` and `pkg/shim`.
use serde::{Deserialize, Serialize};
use types::{Error, Result};

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

#[cfg(test)]
mod tests {
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
}
