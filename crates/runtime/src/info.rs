// SPDX-License-Identifier: Apache-2.0
//! What a runtime says of itself.
use api::containerd::types as pb;
use types::{Any, Context, Labels, Result};

use crate::{Shims, binary, shim::domain_any};

/// What a runtime says of itself (containerd `api/types/introspection.proto`, `RuntimeInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Its name: `io.containerd.runc.v2`.
    pub name: String,
    /// The version of its shim.
    pub version: String,
    /// The revision that the shim was built from.
    pub revision: String,
    /// The options that it was asked about.
    pub options: Option<Any>,
    /// What it can do, usually OCI's `features.json`.
    pub features: Option<Any>,
    /// Whatever else it tells.
    pub annotations: Labels,
}

impl Shims {
    /// Asks the program of a runtime, by its name or path, what it can do with `options`.
    ///
    /// Errors: as for a task of that runtime; `Unimplemented` when it does not tell.
    pub async fn info(&self, runtime: &str, options: Option<&Any>) -> Result<RuntimeInfo> {
        let program = binary::find(runtime, self.config.beside.as_deref())
            .context(|| "failed to resolve runtime path")?;
        let told = binary::info(&self.config, &program, options).await?;
        let pb::RuntimeVersion { version, revision } = told.version.unwrap_or_default();
        Ok(RuntimeInfo {
            name: told.name,
            version,
            revision,
            options: told.options.map(domain_any),
            features: told.features.map(domain_any),
            annotations: told.annotations,
        })
    }
}
