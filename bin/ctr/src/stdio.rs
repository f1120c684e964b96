// SPDX-License-Identifier: Apache-2.0
//! Where a process reads and writes: here, in a log, or nowhere.
use std::path::{Path, PathBuf};

use clap::Args;
use client::{Io, Streams};
use types::Result;

/// Where the named pipes are made (containerd `defaults/defaults_unix.go`).
const FIFOS: &str = "/run/containerd/fifo";

/// Where the process reads and writes.
#[derive(Clone, Debug, Args)]
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
    pub(crate) fn io(&self, id: &str, terminal: bool) -> Result<Io> {
        if let Some(uri) = &self.log_uri {
            return Ok(Io::log(uri, terminal));
        }
        // An empty one stands for the default, as in Go.
        let is_said = !self.fifo_dir.as_os_str().is_empty();
        let root = if is_said { &*self.fifo_dir } else { Path::new(FIFOS) };
        Io::streams(root, id, terminal, ours())
    }
}

/// Our own streams.
pub(crate) fn ours() -> Streams {
    Streams {
        stdin: Some(Box::new(tokio::io::stdin())),
        stdout: Some(Box::new(tokio::io::stdout())),
        stderr: Some(Box::new(tokio::io::stderr())),
    }
}
