// SPDX-License-Identifier: Apache-2.0
//! Where a process reads and writes: here, in a log, or nowhere.
use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use clap::Args;
use client::{Io, Streams};
use tokio::{io::AsyncWrite, sync::Notify};
use types::Result;

/// Where the named pipes are made (containerd `defaults/defaults_unix.go`).
const FIFOS: &str = "/run/containerd/fifo";

/// Where the process reads and writes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Stdio {
    #[arg(long, value_name = "URI")]
    #[arg(help = "Where its output goes, such as file:///path or binary:///path?key=value")]
    pub(crate) log_uri: Option<String>,
    /// Where its named pipes are made
    #[arg(long, value_name = "DIRECTORY", default_value = FIFOS)]
    fifo_dir: PathBuf,
}

impl Stdio {
    /// What the process called `id` is connected to.
    pub(crate) fn io(&self, id: &str, terminal: bool, listeners: &Listeners) -> Result<Io> {
        if let Some(uri) = &self.log_uri {
            return Ok(Io::log(uri, terminal));
        }
        // An empty one stands for the default, as in Go.
        let is_said = !self.fifo_dir.as_os_str().is_empty();
        let root = if is_said { &*self.fifo_dir } else { Path::new(FIFOS) };
        Io::streams(root, id, terminal, listeners.streams())
    }
}

/// Whoever reads our output. That they went away is told once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners {
    gone: Arc<Notify>,
}

impl Listeners {
    /// Our own streams.
    pub(crate) fn streams(&self) -> Streams {
        let gone = || Arc::clone(&self.gone);
        Streams {
            stdin: Some(Box::new(tokio::io::stdin())),
            stdout: Some(Box::new(Output { inner: tokio::io::stdout(), gone: gone() })),
            stderr: Some(Box::new(Output { inner: tokio::io::stderr(), gone: gone() })),
        }
    }

    /// Waits until somebody went away.
    pub(crate) async fn left(&self) {
        self.gone.notified().await;
    }
}

/// An output that nobody may read any more. What is written then is lost, as it has to be, and it is
/// told: a process whose pipe fills up for ever would never end.
struct Output<W> {
    inner: W,
    gone: Arc<Notify>,
}

impl<W> Output<W> {
    fn survive<T>(&self, written: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone.notify_one();
                Poll::Ready(Ok(instead))
            }
            written => written,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Output<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, data);
        self.survive(written, data.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.survive(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.survive(shut, ())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn output_that_nobody_reads_is_lost_and_told() {
        let (reader, inner) = tokio::io::duplex(8);
        drop(reader);
        let listeners = Listeners::default();
        let mut output = Output { inner, gone: Arc::clone(&listeners.gone) };
        output.write_all(b"far more than fits").await.unwrap();
        output.flush().await.unwrap();
        listeners.left().await;
    }
}
