// SPDX-License-Identifier: Apache-2.0
//! Removing a container.
use sys::failpoint;
use tokio::time::timeout;
use tracing::error;
use types::Result;

use super::{Message, Owner};
use crate::{
    manager,
    process::{Facts, LAST_EXIT},
    runc::Failure,
    state::{Action, State},
};

impl Owner {
    /// Removes the container, which does not run. Then there is nothing left to own.
    pub(super) async fn delete(&mut self) -> Result<Facts> {
        self.init.allow(Action::Delete)?;
        failpoint::reach("shim.delete.begun")?;
        let was_created = self.init.state() == State::Created;
        if was_created {
            // runc ends a container that was never started, which would write no more.
            self.init.io.close_stdin();
        } else {
            std::mem::take(&mut self.init.io).finish().await;
        }
        let called = self.handle.runc.delete(&self.handle.id, false).await;
        let deleted = called.or_else(Failure::unless_gone);
        if was_created && deleted.is_ok() {
            self.wait_for_last_exit().await;
            std::mem::take(&mut self.init.io).finish().await;
        }
        failpoint::reach("shim.delete.deleted")?;
        self.unmount().await;
        failpoint::reach("shim.delete.unmounted")?;
        deleted.map_err(|failure| failure.named("failed to delete task"))?;
        Ok(self.init.facts())
    }

    /// Waits for the exit of a process that was ended by being deleted, so that it is told.
    async fn wait_for_last_exit(&mut self) {
        let exited = timeout(LAST_EXIT, async {
            while self.init.state() == State::Created {
                match self.inbox.recv().await {
                    Some(Message::Exited { exec_id, exited }) => {
                        self.exited(&exec_id, exited).await;
                    }
                    Some(Message::Call(call)) => drop(call),
                    Some(Message::Started { .. }) | None => {}
                }
            }
        });
        if exited.await.is_err() {
            error!(id = self.handle.id, "a deleted container did not end in time");
        }
    }

    async fn unmount(&self) {
        let bundle = self.handle.bundle.clone();
        let unmount = move || {
            manager::unmount_rootfs(&bundle);
            Ok(())
        };
        // It reports itself what it could not do.
        drop(super::create::blocking(unmount).await);
    }
}
