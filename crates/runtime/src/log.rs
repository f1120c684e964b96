// SPDX-License-Identifier: Apache-2.0
//! What shims log: a fifo in each bundle, which the daemon passes on to its own log.
use std::path::Path;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    task::JoinHandle,
};
use types::{Context, Result};

/// A line longer than this is cut, in bytes.
const LONGEST: usize = 8 << 10;

/// Passes on the lines of a fifo for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Forwarding {
    task: JoinHandle<()>,
}

impl Forwarding {
    /// Makes the fifo at `path` if it is not there, and reads it. It is opened for writing too, so
    /// that it has no end when a shim closes it.
    pub(crate) fn open(path: &Path, id: &str) -> Result<Self> {
        if !path.exists() {
            sys::fifo::create(path, 0o700).context(|| "make the log fifo of a shim")?;
        }
        let fifo = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(path)
            .context(|| format!("open the log fifo of shim {id}"))?;
        let task = tokio::spawn(forward(BufReader::with_capacity(LONGEST, fifo), id.to_owned()));
        Ok(Self { task })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut fifo: BufReader<pipe::Receiver>, id: String) {
    loop {
        let Ok(chunk) = fifo.fill_buf().await else { return };
        if chunk.is_empty() {
            return;
        }
        let line = chunk.split_inclusive(|&byte| byte == b'\n').next().unwrap_or(chunk);
        let text = String::from_utf8_lossy(line);
        tracing::info!(target: "shim", id, "{}", text.trim_end());
        let read = line.len();
        fifo.consume(read);
    }
}
