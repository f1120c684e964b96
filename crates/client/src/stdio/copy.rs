// SPDX-License-Identifier: Apache-2.0
use std::{io, path::Path, time::Duration};

use runtime::Stdio;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use types::{Context, Error, Kind, Result};

use super::{Streams, fifos::is_fifo};

/// How much is copied at once.
const CHUNK: usize = 64 << 10;
/// How often to look whether the shim has opened standard input.
const LOOK: Duration = Duration::from_millis(10);

/// The copying of what a process reads and writes. Dropped, it ends at once.
#[derive(Debug, Default)]
pub(crate) struct Copying {
    /// What the process writes.
    output: JoinSet<io::Result<()>>,
    /// What the process reads.
    input: JoinSet<()>,
    /// Says that the process has ended: nobody new will write.
    ended: CancellationToken,
}

impl Copying {
    /// Opens the pipes of `stdio` for which there are `streams`, and begins. `close` is run when there
    /// is no more standard input.
    pub(crate) fn start(
        stdio: &Stdio,
        streams: Streams,
        close: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self> {
        let mut copying = Self::default();
        for (path, stream) in [(&stdio.stdout, streams.stdout), (&stdio.stderr, streams.stderr)] {
            let Some(to) = stream.filter(|_| is_fifo(Path::new(path))) else { continue };
            let from = pipe::OpenOptions::new().open_receiver(path);
            let from = from.context(|| format!("failed to open fifo {path}"))?;
            copying.output.spawn(drain(from, to, copying.ended.clone()));
        }
        let path = stdio.stdin.clone();
        if let Some(from) = streams.stdin.filter(|_| is_fifo(Path::new(&path))) {
            copying.input.spawn(async move {
                match feed(&path, from).await {
                    Ok(()) => close.await,
                    Err(error) => tracing::debug!(path, %error, "standard input ended"),
                }
            });
        }
        Ok(copying)
    }

    /// Waits until all that a process wrote, which has ended, is copied.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.ended.cancel();
        self.input.shutdown().await;
        let mut outcome = Ok(());
        while let Some(copied) = self.output.join_next().await {
            let copied = match copied {
                Ok(copied) => copied.map_err(Error::from),
                Err(error) => Err(Error::caused(Kind::Internal, "copy", error)),
            };
            outcome = outcome.and(copied);
        }
        outcome
    }

    /// Ends at once, for a process that came to nothing.
    pub(crate) async fn cancel(&mut self) {
        self.input.shutdown().await;
        self.output.shutdown().await;
    }
}

/// Copies until whoever writes has closed the pipe.
///
/// A pipe that nobody has opened yet reads as ended, but does not become readable: so it is only read
/// when it is said to be readable. It never is if nobody comes: so once the process has ended, it is
/// read in any case, and is waited for only if somebody has it open still.
async fn drain(
    from: pipe::Receiver,
    mut to: Box<dyn AsyncWrite + Send + Unpin>,
    ended: CancellationToken,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut has_ended = false;
    loop {
        let read = tokio::select! {
            ready = from.readable() => ready.and_then(|()| from.try_read(&mut buffer)),
            () = ended.cancelled(), if !has_ended => {
                has_ended = true;
                rustix::io::read(&from, &mut *buffer).map_err(io::Error::from)
            }
        };
        match read {
            Ok(0) => return to.flush().await,
            Ok(len) => {
                to.write_all(&buffer[..len]).await?;
                to.flush().await?;
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Copies until there is no more, from when the shim has opened its end: what is written before would
/// be lost if we left before it came.
async fn feed(path: &str, mut from: Box<dyn AsyncRead + Send + Unpin>) -> io::Result<()> {
    let mut to = loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                tokio::time::sleep(LOOK).await;
            }
            opened => break opened?,
        }
    };
    tokio::io::copy(&mut from, &mut to).await.map(drop)
}
