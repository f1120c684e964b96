// SPDX-License-Identifier: Apache-2.0
//! Finding the shims again that were there before the daemon, while it serves already.
//!
//! ```text
//! bundle --boot is another----------------------------------------------> dead
//!        --connect--refused---------------------------------------------> dead --clean, tell--> gone
//!                 `--State--> its state, or no answer in time--> live
//!                         `-- no such task--> the shim is ended --------------------------> gone
//! ```
use std::sync::Arc;

use api::containerd::task::v3 as pb;
use tokio::sync::Semaphore;
use types::{Error, Kind, Result};

use crate::{
    bundle::{Bundle, existing, note_boot, remove_stray_work},
    log::Forwarding,
    shim::Shim,
    shims::Shims,
    table::Reservation,
};

/// How many dead shims are cleaned up after at a time: each is a process, and an OCI runtime's.
const CLEANERS: usize = 8;

impl Shims {
    /// Looks for the shims that were there before, without waiting for them: each task is there at
    /// once, and whoever names it waits for its shim alone.
    pub(crate) fn load_all(self: &Arc<Self>) -> Result<()> {
        let is_same_boot = note_boot(&self.config.state, &self.config.boot_id)?;
        if !is_same_boot {
            tracing::info!("the machine was started anew: no shim can be left");
        }
        remove_stray_work(&self.config.root, &self.config.state);
        let cleaners = Arc::new(Semaphore::new(CLEANERS));
        for bundle in existing(&self.config.root, &self.config.state) {
            let reservation = self.table.load(&bundle.namespace, &bundle.id)?;
            let (shims, cleaners) = (self.clone(), cleaners.clone());
            self.watchers.spawn(async move {
                shims.load(bundle, is_same_boot, reservation, &cleaners).await;
            });
        }
        Ok(())
    }

    /// Reaches the shim of a bundle, if it still has its task; cleans up after it if not.
    async fn load(
        self: &Arc<Self>,
        bundle: Bundle,
        is_same_boot: bool,
        reservation: Reservation,
        cleaners: &Semaphore,
    ) {
        let reached = if is_same_boot {
            self.reach(&bundle).await
        } else {
            Err(Error::not_found("shim after a start of the machine"))
        };
        match reached {
            Ok(Some((shim, log, pid))) => {
                let shim = Arc::new(shim);
                reservation.live(shim.clone());
                self.watch(shim, log, pid);
            }
            Ok(None) => {
                tracing::info!(id = bundle.id, "a shim without a task is ended");
                bundle.remove();
            }
            Err(error) => {
                tracing::info!(id = bundle.id, %error, "the shim of a task is gone");
                // Never closed: it lives as long as those who wait for it.
                let _turn = cleaners.acquire().await;
                let exit = self.clean(&bundle, bundle.binary()).await;
                self.publish_end(&bundle, exit).await;
                reservation.gone(exit);
            }
        }
    }

    /// Errors when the shim is dead; `None` when it lives but has no task. One that does not answer
    /// in time is taken as alive: it is shown as unknown until it does.
    async fn reach(&self, bundle: &Bundle) -> Result<Option<(Shim, Forwarding, u32)>> {
        let patience = self.config.timeouts.load;
        let answer =
            bundle.answer().ok_or_else(|| Error::not_found("address of the shim in its bundle"))?;
        let log = Forwarding::open(&bundle.log(), &bundle.id)?;
        let program = bundle.binary().unwrap_or_default();
        let grpc = self.config.grpc.as_deref();
        let shim = Shim::connect(bundle.clone(), program, answer, grpc, patience).await?;
        let request = pb::StateRequest { id: bundle.id.clone(), exec_id: String::new() };
        match shim.tell::<_, pb::StateResponse>("State", &request, patience).await {
            Err(error) if error.is_not_found() => {
                self.shut_down(&shim).await;
                Ok(None)
            }
            Err(error) if shim.is_closed() => Err(error),
            Err(error) => {
                if error.kind() != Kind::DeadlineExceeded {
                    tracing::warn!(id = bundle.id, %error, "a shim does not tell its state");
                }
                let pid = bundle.init_pid().unwrap_or_default();
                Ok(Some((shim, log, pid)))
            }
            Ok(state) => {
                keep_answer(&shim);
                Ok(Some((shim, log, state.pid)))
            }
        }
    }
}

/// Writes down what a shim turned out to speak, and what older daemons wrote down in other words.
pub(crate) fn keep_answer(shim: &Shim) {
    if shim.bundle.is_remembered() && !shim.was_turned_down() {
        return;
    }
    if let Err(error) = shim.bundle.remember_answer(&shim.answer()) {
        tracing::warn!(id = shim.bundle.id, %error, "failed to remember what a shim speaks");
    }
}
