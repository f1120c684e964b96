// SPDX-License-Identifier: Apache-2.0
//! Mounts that are no system's, performed for as long as a layer is applied or made.
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mount::{Activate, Manager, Mount};
use types::{Error, Kind, Result, labels::GC_EXPIRE};

/// How long the mounts stay if this process is killed.
const EXPIRY: Duration = Duration::from_hours(1);

/// Mounts that the system knows, and what was performed for them.
pub(crate) struct Activated {
    pub(crate) mounts: Vec<Mount>,
    made: Option<(Arc<dyn Manager>, String)>,
}

impl Activated {
    /// Has `manager` perform what the system cannot (containerd `plugins/diff/internal/mounts`).
    pub(crate) async fn of(
        manager: Option<&Arc<dyn Manager>>,
        prefix: &str,
        mounts: &[Mount],
    ) -> Result<Self> {
        let as_given = || Self { mounts: mounts.to_vec(), made: None };
        // What is mounted by itself names nothing that was mounted before.
        let is_managed = mounts.iter().any(|mount| mount.kind.contains('/'));
        let Some(manager) = manager.filter(|_| is_managed || mounts.len() > 1) else {
            return Ok(as_given());
        };
        let name = format!("{prefix}-{}", crate::walking::unique_reference()?);
        let expires = jiff::Timestamp::try_from(SystemTime::now() + EXPIRY)
            .map_err(|error| Error::caused(Kind::Internal, "clock", error))?;
        let labels = [(GC_EXPIRE.to_owned(), expires.to_string())].into();
        let options = Activate { labels, ..Activate::default() };
        match manager.activate(&name, mounts, options).await {
            Err(error) if error.kind() == Kind::Unimplemented => Ok(as_given()),
            Err(error) => Err(error.context("failed to activate mounts")),
            Ok(info) => Ok(Self { mounts: info.system, made: Some((Arc::clone(manager), name)) }),
        }
    }

    /// Undoes what was performed. What cannot be undone is left to the collector.
    pub(crate) async fn undo(self) {
        let Some((manager, name)) = self.made else { return };
        if let Err(error) = manager.deactivate(&name).await
            && !error.is_not_found()
        {
            tracing::warn!(name, %error, "failed to deactivate mounts");
        }
    }
}
