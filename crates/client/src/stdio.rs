// SPDX-License-Identifier: Apache-2.0
//! Where a process reads and writes, and the copying of it.
//!
//! ```text
//! stdin  --> <dir>/<id>-stdin  --> shim --> process
//! stdout <-- <dir>/<id>-stdout <-- shim <-- process        likewise stderr, unless there is a terminal
//! ```
//!
//! Named pipes lose what nobody reads in time and end when nobody writes. So each is opened for
//! reading before the shim can write to it, and is read until whoever wrote has closed it; and
//! standard input is not read before the shim is there to take it.
mod copy;
mod fifos;

use std::{fmt, path::Path};

use runtime::Stdio;
use tokio::io::{AsyncRead, AsyncWrite};
use types::Result;

pub(crate) use self::copy::Copying;
pub use self::fifos::Fifos;

/// What a process is connected to. What there is not, the process does not have either.
#[derive(Default)]
pub struct Streams {
    /// Read by the process.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Written by the process.
    pub stdout: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Written by the process; not with a terminal, which merges it into the other.
    pub stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish()
    }
}

/// Where a process is to read and write. [`Io::default`] is nowhere.
#[derive(Debug, Default)]
pub struct Io {
    fifos: Fifos,
    streams: Streams,
}

impl Io {
    /// Through named pipes in a new directory in `root`, usually `/run/containerd/fifo`, to and from
    /// `streams`. `id` is the name of the task or of the executed process.
    pub fn streams(root: &Path, id: &str, terminal: bool, mut streams: Streams) -> Result<Self> {
        if terminal {
            streams.stderr = None;
        }
        Ok(Self { fifos: Fifos::create(root, id, terminal, &streams)?, streams })
    }

    /// To a log: `binary:///path?key=value` or `file:///path`. The shim sees to it.
    pub fn log(uri: &str, terminal: bool) -> Self {
        let (stdout, stderr) = (uri.to_owned(), uri.to_owned());
        let fifos = Fifos::existing(&Stdio { stdin: String::new(), stdout, stderr, terminal });
        Self { fifos, streams: Streams::default() }
    }

    pub(crate) fn over(fifos: Fifos, streams: Streams) -> Self {
        Self { fifos, streams }
    }

    /// What the shim is told.
    pub(crate) fn stdio(&self) -> Stdio {
        self.fifos.stdio().clone()
    }

    /// Begins to copy. When there is no more standard input, `close` tells the shim.
    pub(crate) fn start(
        self,
        close: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(Fifos, Copying)> {
        let copying = Copying::start(self.fifos.stdio(), self.streams, close);
        match copying {
            Ok(copying) => Ok((self.fifos, copying)),
            Err(error) => {
                self.fifos.remove();
                Err(error)
            }
        }
    }
}
