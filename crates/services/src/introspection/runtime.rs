// SPDX-License-Identifier: Apache-2.0
//! What a runtime can do, asked through the plugin that runs tasks.
use std::sync::Arc;

use ::runtime::Shims;
use api::containerd::types::{RuntimeInfo, RuntimeRequest};
use prost::{Message, Name};
use prost_types::Any;
use types::{Error, Kind, Result};

/// The plugin that is asked (containerd `core/runtime/v2/task_manager.go`).
const PLUGIN: (&str, &str) = ("io.containerd.runtime.v2", "task");

/// More about a plugin than its listing tells, if it is one that tells more.
///
/// Errors: `Unimplemented` for options that it does not know; what the runtime's program says.
pub(super) async fn extra(
    shims: Option<&Arc<Shims>>,
    plugin: (&str, &str),
    options: Option<Any>,
) -> Result<Option<Any>> {
    let Some(shims) = shims.filter(|_| plugin == PLUGIN) else { return Ok(None) };
    let request = request(options)?;
    let options = request.options.map(|any| any.encode_to_vec()).unwrap_or_default();
    let told = shims.info(&request.runtime_path, &options).await?;
    RuntimeInfo::decode(told.as_slice())
        .map_err(|e| Error::caused(Kind::Internal, "answer of shim -info", e))?;
    Ok(Some(Any { type_url: RuntimeInfo::full_name(), value: told }))
}

fn request(options: Option<Any>) -> Result<RuntimeRequest> {
    let Some(any) = options else { return Err(unknown("<nil>")) };
    let request = api::unpack::<RuntimeRequest>(&any).ok_or_else(|| unknown(&any.type_url))?;
    request.map_err(|e| Error::caused(Kind::InvalidArgument, "runtime request", e))
}

fn unknown(name: &str) -> Error {
    Error::unimplemented(format!("unknown request type {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_runtime_request_is_understood() {
        let good = RuntimeRequest { runtime_path: "io.containerd.runc.v2".into(), options: None };
        assert_eq!(request(Some(api::pack(&good))).unwrap(), good);
        let none = request(None).unwrap_err();
        assert_eq!(none.to_string(), "unknown request type <nil>: not implemented");
        let other = request(Some(api::pack(&RuntimeInfo::default()))).unwrap_err();
        assert_eq!(other.kind(), Kind::Unimplemented);
    }
}
