// SPDX-License-Identifier: Apache-2.0
use ::registry::{Reference, Registry};
use async_trait::async_trait;
use types::{Descriptor, Result, Scope};

/// Who has to agree before an image is pulled.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Refuses an image whose name has been resolved, before anything of it is fetched.
    async fn admit(&self, scope: &Scope, image: &Resolved<'_>) -> Result<()>;
}

/// An image that is to be pulled.
#[derive(Clone, Copy)]
pub struct Resolved<'a> {
    /// What it is called where it comes from.
    pub source: &'a str,
    /// What it will be called here.
    pub name: &'a str,
    /// What that means.
    pub target: &'a Descriptor,
    /// The registry, with the pull's own credentials.
    pub registry: &'a Registry,
    /// Where it is there.
    pub reference: &'a Reference,
}

/// Lets everything pass.
#[derive(Clone, Copy, Debug)]
pub struct Open;

#[async_trait]
impl Gate for Open {
    async fn admit(&self, _: &Scope, _: &Resolved<'_>) -> Result<()> {
        Ok(())
    }
}
