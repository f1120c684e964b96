// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use fs_err as fs;
use runtime::Stdio;
use rustix::{
    fs::{CWD, Mode, mkdirat, mkfifoat},
    io::Errno,
};
use types::{Error, Kind, Result, identifiers};

use super::Streams;

/// The named pipes of a process.
#[derive(Debug, Default)]
pub struct Fifos {
    stdio: Stdio,
    /// The directory that was made for them.
    directory: Option<PathBuf>,
}

impl Fifos {
    /// Makes a named pipe for each of `streams` that there is, in a new directory in `root`:
    /// `<root>/<random>/<id>-stdout` (containerd `pkg/cio/io_unix.go`, `NewFIFOSetInDir`).
    pub fn create(root: &Path, id: &str, terminal: bool, streams: &Streams) -> Result<Self> {
        identifiers::validate(id)?;
        fs::create_dir_all(root)?;
        let directory = make_directory(root)?;
        let mut fifos = Self { stdio: Stdio { terminal, ..Stdio::default() }, directory: None };
        let outcome = fifos.make(&directory, id, streams);
        fifos.directory = Some(directory);
        if let Err(error) = outcome {
            fifos.remove();
            return Err(error);
        }
        Ok(fifos)
    }

    fn make(&mut self, directory: &Path, id: &str, streams: &Streams) -> Result<()> {
        let Stdio { stdin, stdout, stderr, .. } = &mut self.stdio;
        for (path, name, is_wanted) in [
            (stdin, "stdin", streams.stdin.is_some()),
            (stdout, "stdout", streams.stdout.is_some()),
            (stderr, "stderr", streams.stderr.is_some()),
        ] {
            if is_wanted {
                *path = make_pipe(&directory.join(format!("{id}-{name}")))?;
            }
        }
        Ok(())
    }

    /// Those that a process has, whoever made them.
    pub fn existing(stdio: &Stdio) -> Self {
        Self { stdio: stdio.clone(), directory: None }
    }

    /// Where they are.
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    /// Removes the pipes, and the directories that held only them.
    pub fn remove(&self) {
        if let Some(directory) = &self.directory {
            return report(directory, fs::remove_dir_all(directory));
        }
        let mut directories = BTreeSet::new();
        for path in [&self.stdio.stdin, &self.stdio.stdout, &self.stdio.stderr] {
            let path = Path::new(path);
            if is_fifo(path) {
                report(path, fs::remove_file(path));
                directories.extend(path.parent());
            }
        }
        for directory in directories {
            // There may be other pipes in it, and then it stays.
            drop(fs::remove_dir(directory));
        }
    }
}

/// Whether this is a named pipe, and not nothing, a file or the URI of a log.
pub(super) fn is_fifo(path: &Path) -> bool {
    path.is_absolute() && fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo())
}

fn report(path: &Path, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(path = %path.display(), %error, "failed to remove fifo");
    }
}

fn make_directory(root: &Path) -> Result<PathBuf> {
    loop {
        let random = RandomState::new().build_hasher().finish() as u32;
        let directory = root.join(random.to_string());
        match mkdirat(CWD, &directory, Mode::RWXU) {
            Ok(()) => return Ok(directory),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("mkdir", &directory, error)),
        }
    }
}

fn make_pipe(path: &Path) -> Result<String> {
    mkfifoat(CWD, path, Mode::RWXU).map_err(|error| failed("mkfifo", path, error))?;
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(Kind::InvalidArgument, format!("path {} is not UTF-8", path.display()))
    })
}

fn failed(what: &str, path: &Path, error: Errno) -> Error {
    Error::from(io::Error::from(error)).context(format!("{what} {}", path.display()))
}
