// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{SpliceFlags, splice},
};
use tokio::{
    sync::watch,
    task::yield_now,
};
use tracing::warn;

use super::Carrier;
use crate::ready::{Ready, nonblocking};

/// As much as a pipe holds.
const AT_ONCE: usize = 64 << 10;

/// Passes bytes from one pipe to another. The kernel moves them: none is ever copied into the shim.
#[derive(Debug)]
pub(super) struct Relay {
    carrier: Carrier,
    finish: watch::Sender<bool>,
}

impl Relay {
    pub(super) fn start(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        let (from, to) = (Ready::to_read(nonblocking(from)?)?, Ready::to_write(nonblocking(to)?)?);
        let (finish, finishing) = watch::channel(false);
        let carrier = Carrier::spawn(async move {
            if let Err(error) = carry(&from, &to, finishing).await {
                warn!(%error, "error copying a stream");
            }
        });
        Ok(Self { carrier, finish })
    }

    /// Passes on what is there, and ends.
    pub(super) async fn finish(&mut self) {
        self.finish.send_replace(true);
        self.carrier.finished().await;
    }
}

async fn carry(
    from: &Ready<OwnedFd>,
    to: &Ready<OwnedFd>,
    mut finishing: watch::Receiver<bool>,
) -> io::Result<()> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        match splice(from.file(), None, to.file(), None, AT_ONCE, flags) {
            // The end, or a reader that has gone: there is nothing more to do.
            Ok(0) | Err(Errno::PIPE) => return Ok(()),
            // One stream must not keep the others from their turn.
            Ok(_) => yield_now().await,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if has_bytes(from) => to.writable().await?,
            Err(Errno::AGAIN) if *finishing.borrow_and_update() => return Ok(()),
            Err(Errno::AGAIN) => tokio::select! {
                ready = from.readable() => ready?,
                _ = finishing.changed() => {}
            },
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether it is the other side that cannot go on.
fn has_bytes(from: &Ready<OwnedFd>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(from.file().as_fd(), PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
        && fds[0].revents().contains(PollFlags::IN)
}
