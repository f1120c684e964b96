// SPDX-License-Identifier: Apache-2.0
//! Mounts that the system does not know, before they are mounted here.
use mount::{Activate, Mount};
use types::{Kind, Labels, Result};

use crate::Client;

impl Client {
    /// Has the mount manager perform what the system cannot, and returns what is left to mount. Where
    /// there is nothing to perform, or no manager, that is what was given. Whoever activates the same
    /// name again gets what is active already.
    pub async fn activate(
        &self,
        name: &str,
        mounts: Vec<Mount>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let Some(manager) = &self.mounts else { return Ok(mounts) };
        let options = Activate { labels, ..Activate::default() };
        match manager.activate(name, &mounts, options).await {
            Ok(info) => Ok(info.system),
            Err(error) if error.kind() == Kind::Unimplemented => Ok(mounts),
            Err(error) if error.is_already_exists() => Ok(manager.info(name).await?.system),
            Err(error) => Err(error.context("failed to activate mounts")),
        }
    }

    /// Undoes [`Client::activate`], also where there was nothing to do.
    pub async fn deactivate(&self, name: &str) -> Result<()> {
        let Some(manager) = &self.mounts else { return Ok(()) };
        match manager.deactivate(name).await {
            Err(error) if error.is_not_found() || error.kind() == Kind::Unimplemented => Ok(()),
            outcome => outcome,
        }
    }
}
