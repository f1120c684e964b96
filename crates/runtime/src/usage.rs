// SPDX-License-Identifier: Apache-2.0
//! What tasks use: read from their control groups in one pass, without asking their shims.
//!
//! A shim that hangs so keeps no statistics back, and a hundred tasks cost one blocking thread. Only
//! tasks whose processes are not on this host, such as those in virtual machines, are asked for
//! through their shims.
use std::{path::Path, sync::Arc, time::SystemTime};

use api::containerd::task::v3 as pb;
use cgroups::Cgroup;
use fs_err as fs;
use futures_util::future::join_all;
use types::{Any, Error, Kind, Result};

use crate::{
    shim::{Shim, domain_any},
    shims::Shims,
};

/// What one task uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The namespace of the task.
    pub namespace: String,
    /// The task.
    pub id: String,
    /// The name of its runtime: `io.containerd.runc.v2`.
    pub runtime: String,
    /// When it was read.
    pub at: SystemTime,
    /// The statistics, `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`.
    pub data: Any,
}

impl Shims {
    /// What the tasks of all namespaces use. Those whose shim had to be asked and did not answer
    /// are left out.
    pub async fn usage(&self) -> Vec<Usage> {
        self.measure(self.table.live()).await
    }

    /// What the tasks of `shims` use.
    pub(crate) async fn measure(&self, shims: Vec<Arc<Shim>>) -> Vec<Usage> {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            shims.into_iter().partition(|shim| shim.cgroup().is_some());
        let read =
            tokio::task::spawn_blocking(move || here.iter().filter_map(|it| read(it)).collect());
        let asked = join_all(elsewhere.into_iter().map(|shim| self.ask(shim)));
        let (read, asked) = tokio::join!(read, asked);
        let mut usage: Vec<Usage> = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to read statistics");
            Vec::new()
        });
        usage.extend(asked.into_iter().flatten());
        usage.sort_by(|a, b| (&a.namespace, &a.id).cmp(&(&b.namespace, &b.id)));
        usage
    }

    async fn ask(&self, shim: Arc<Shim>) -> Option<Usage> {
        let request = pb::StatsRequest { id: shim.bundle.id.clone() };
        let patience = self.config.timeouts.stats;
        match shim.tell::<_, pb::StatsResponse>("Stats", &request, patience).await {
            Ok(answer) => Some(usage(&shim, domain_any(answer.stats?))),
            Err(error) => {
                tracing::debug!(id = shim.bundle.id, %error, "a shim does not tell statistics");
                None
            }
        }
    }
}

/// A task that has ended has no control group any more, and so uses nothing.
fn read(shim: &Shim) -> Option<Usage> {
    match shim.cgroup()?.metrics() {
        Ok(metrics) => Some(usage(shim, domain_any(shim::metrics::pack(metrics)))),
        Err(error) => {
            tracing::debug!(id = shim.bundle.id, %error, "failed to read statistics");
            None
        }
    }
}

fn usage(shim: &Shim, data: Any) -> Usage {
    Usage {
        namespace: shim.bundle.namespace.clone(),
        id: shim.bundle.id.clone(),
        runtime: runtime_of(&shim.program),
        at: SystemTime::now(),
        data,
    }
}

/// Finds the control group of a task of runc's, so that the daemon can look there itself. What its
/// first process is in now counts only if nothing was written down before: it may have moved.
///
/// Errors: `NotFound` when it has ended, or was never there.
pub(crate) fn settle(shim: &Shim, pid: u32) -> Result<()> {
    if !is_runc(&shim.program) {
        return Ok(());
    }
    let membership = match shim.bundle.membership() {
        Some(membership) => membership,
        None if pid == 0 => return Err(Error::not_found("process of the task")),
        None => {
            let gone = |e| Error::caused(Kind::NotFound, "process of the task", e);
            let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(gone)?;
            shim.bundle.remember_membership(&membership)?;
            membership
        }
    };
    shim.is_in(Cgroup::of_membership(&membership)?);
    Ok(())
}

fn is_runc(program: &Path) -> bool {
    let name = program.file_name().and_then(|name| name.to_str());
    matches!(name, Some("containerd-shim-runc-v1" | "containerd-shim-runc-v2"))
}

/// The name of the runtime that a program is of; its path if it is named as none is.
fn runtime_of(program: &Path) -> String {
    let name = program.file_name().and_then(|name| name.to_str());
    let words = name.and_then(|name| name.strip_prefix("containerd-shim-")?.rsplit_once('-'));
    match words {
        Some((name, version)) => format!("io.containerd.{name}.{version}"),
        None => program.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_of_a_runtime() {
        let name = |path: &str| runtime_of(Path::new(path));
        assert_eq!(name("/usr/bin/containerd-shim-runc-v2"), "io.containerd.runc.v2");
        assert_eq!(name("/opt/containerd-shim-kata-qemu-v2"), "io.containerd.kata-qemu.v2");
        assert_eq!(name("/opt/other"), "/opt/other");
        assert!(is_runc(Path::new("/x/containerd-shim-runc-v2")));
        assert!(!is_runc(Path::new("/x/containerd-shim-kata-v2")));
    }
}
