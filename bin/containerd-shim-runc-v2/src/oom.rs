// SPDX-License-Identifier: Apache-2.0
use api::containerd::events::TaskOom;
use cgroups::{Cgroup, OomWatch};
use shim::{Publisher, Ready};
use tracing::warn;

/// Whether a container runs out of memory, as long as that can be known.
#[derive(Debug, Default)]
pub(crate) struct Oom {
    watch: Option<Ready<OomWatch>>,
}

impl Oom {
    /// Starts to watch. A host that does not say has containers that never run out of memory.
    pub(crate) fn watch(cgroup: &Cgroup) -> Self {
        let watch = cgroup.watch_oom().and_then(|watch| Ok(Ready::to_read(watch)?));
        let watch = watch.inspect_err(|error| warn!(%error, "add cg to OOM monitor")).ok();
        Self { watch }
    }

    /// Waits until it may have happened.
    pub(crate) async fn happened(&self) {
        match &self.watch {
            // If it cannot be waited for, it is still looked at when the container ends.
            Some(watch) if watch.readable().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }

    /// Tells that it happened, if it has since the last look.
    pub(crate) fn tell(&mut self, id: &str, publisher: &Publisher) {
        let Some(watch) = &mut self.watch else { return };
        let Ok(report) = watch.file_mut().check() else { return self.watch = None };
        if report.oom {
            publisher.publish(&TaskOom { container_id: id.to_owned() });
        }
        if report.gone {
            self.watch = None;
        }
    }
}
