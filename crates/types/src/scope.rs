// SPDX-License-Identifier: Apache-2.0
use crate::{Result, identifiers};

/// On whose behalf a request is made: a namespace, and the lease that what it creates belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    namespace: String,
    lease: Option<String>,
}

impl Scope {
    /// A scope of the namespace `namespace`, which must be a valid identifier.
    pub fn new(namespace: impl Into<String>) -> Result<Self> {
        let namespace = namespace.into();
        identifiers::validate(&namespace).map_err(|e| e.context("namespace validation"))?;
        Ok(Self { namespace, lease: None })
    }

    /// The same namespace, with what is created held by `lease`. An empty lease is none.
    pub fn with_lease(mut self, lease: impl Into<String>) -> Self {
        self.lease = Some(lease.into()).filter(|lease| !lease.is_empty());
        self
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The lease that holds what this request creates.
    pub fn lease(&self) -> Option<&str> {
        self.lease.as_deref()
    }
}
