// SPDX-License-Identifier: Apache-2.0
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
    pipe::{SpliceFlags, splice},
};
use tokio::{sync::watch, task::yield_now};
use tracing::warn;

use super::Carrier;
use crate::ready::{Ready, nonblocking};

/// As much as a pipe holds.
const AT_ONCE: usize = 64 << 10;

/// As much as is copied into a file at once.
const BUFFER: usize = 4096;

/// Where bytes are passed on to.
#[derive(Debug)]
pub(super) enum Target {
    /// The kernel moves them: none is ever copied into the shim.
    Pipe(OwnedFd),
    /// The kernel moves nothing to the end of a file, so they are copied.
    File(File),
}

/// Passes bytes on from a pipe.
#[derive(Debug)]
pub(super) struct Relay {
    carrier: Carrier,
    finish: watch::Sender<bool>,
}

impl Relay {
    pub(super) fn start(from: OwnedFd, to: Target) -> io::Result<Self> {
        let from = Ready::to_read(nonblocking(from)?)?;
        let (finish, finishing) = watch::channel(false);
        let carrier = match to {
            Target::Pipe(to) => {
                let to = Ready::to_write(nonblocking(to)?)?;
                Carrier::spawn(async move { report(carry(&from, &to, finishing).await) })
            }
            Target::File(to) => {
                Carrier::spawn(async move { report(copy(&from, &to, finishing).await) })
            }
        };
        Ok(Self { carrier, finish })
    }

    /// Passes on what is there, and ends.
    pub(super) async fn finish(&mut self) {
        self.finish.send_replace(true);
        self.carrier.finished().await;
    }
}

fn report(carried: io::Result<()>) {
    if let Err(error) = carried {
        warn!(%error, "error copying a stream");
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
            // The end: what was passed on may still have to be read.
            Ok(0) => return hold_until_read(to, finishing).await,
            Err(Errno::PIPE) => return Ok(()),
            // One stream must not keep the others from their turn.
            Ok(_) => yield_now().await,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if has_bytes(from) => to.writable().await?,
            Err(Errno::AGAIN) if *finishing.borrow() => return Ok(()),
            Err(Errno::AGAIN) => readable_or_finishing(from, &mut finishing).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn copy(
    from: &Ready<OwnedFd>,
    mut to: &File,
    mut finishing: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match read(from.file(), &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => {
                to.write_all(&buffer[..bytes])?;
                yield_now().await;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if *finishing.borrow() => return Ok(()),
            Err(Errno::AGAIN) => readable_or_finishing(from, &mut finishing).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn readable_or_finishing(
    from: &Ready<OwnedFd>,
    finishing: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    tokio::select! {
        ready = from.readable() => ready,
        _ = finishing.wait_for(|finish| *finish) => Ok(()),
    }
}

/// Keeps a fifo alive for a reader that is away, but no longer than the streams live.
async fn hold_until_read(
    to: &Ready<OwnedFd>,
    mut finishing: watch::Receiver<bool>,
) -> io::Result<()> {
    tokio::select! {
        () = super::hold_until_read(to.file()) => {}
        _ = finishing.wait_for(|finish| *finish) => {}
    }
    Ok(())
}

/// Whether it is the other side that cannot go on.
fn has_bytes(from: &Ready<OwnedFd>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(from.file().as_fd(), PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
        && fds[0].revents().contains(PollFlags::IN)
}
