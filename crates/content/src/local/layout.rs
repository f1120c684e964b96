// SPDX-License-Identifier: Apache-2.0
use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use fs_err as fs;
use jiff::Timestamp;
use types::{Algorithm, Digest, Error, Result};

use crate::Status;

/// Where things lie.
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the root, and forgets what was cut short: aborts, and ingests that cannot be gone on with.
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        make_all(&root)?;
        let layout = Self { root };
        layout.settle()?;
        layout.sweep();
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// Where a blob is put whose bytes are wrong.
    pub(super) fn quarantined(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        self.root.join("quarantine").join(name)
    }

    /// The directory of the ingest `reference`: the name's digest has a length that a file name can
    /// have.
    pub(super) fn ingest(&self, reference: &str) -> Directory {
        Directory { path: self.root.join("ingest").join(Digest::of(reference).hex()) }
    }

    /// The directories of all ingests.
    pub(super) fn ingests(&self) -> Result<Vec<Directory>> {
        let entries = match fs::read_dir(self.root.join("ingest")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut ingests = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension() != Some(OsStr::new("tmp")) {
                ingests.push(Directory { path });
            }
        }
        Ok(ingests)
    }

    /// Names that the last process gave are made durable: it may have been killed between a rename
    /// and its sync.
    fn settle(&self) -> Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            match sync_directory(&self.blobs(algorithm)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("ingest")) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let directory = Directory { path };
            if directory.is_lost()
                && let Err(error) = directory.remove()
            {
                tracing::warn!(%error, "cannot remove what is left of an ingest");
            }
        }
    }
}

/// The directory of one ingest.
#[derive(Clone)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Makes a new ingest, in place of whatever is there.
    ///
    /// Nothing here is synced: an ingest that a power cut damages is begun anew.
    pub(super) fn create(&self, reference: &str, total: u64, now: SystemTime) -> Result<()> {
        self.remove()?;
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(&self.path)?;
        fs::write(self.path.join("ref"), reference)?;
        fs::write(self.path.join("startedat"), text(now))?;
        fs::write(self.path.join("updatedat"), text(now))?;
        if total != 0 {
            self.set_total(total)?;
        }
        Ok(())
    }

    pub(super) fn set_total(&self, total: u64) -> Result<()> {
        Ok(fs::write(self.path.join("total"), total.to_string())?)
    }

    /// Notes when it was last written to. The file's own time tells nearly the same, so a failure
    /// is of no consequence.
    pub(super) fn set_updated(&self, time: SystemTime) {
        let path = self.path.join("updatedat");
        let temporary = self.path.join("updatedat.tmp");
        let written = fs::write(&temporary, text(time)).and_then(|()| fs::rename(temporary, path));
        if let Err(error) = written {
            tracing::debug!(%error, "cannot note when an ingest was written to");
        }
    }

    /// Whether nobody can ever go on with it: it was being aborted, or a crash came before it was
    /// made, or a power cut before its reference was on the disk.
    fn is_lost(&self) -> bool {
        let is_aborted = self.path.extension() == Some(OsStr::new("tmp"));
        is_aborted || self.status().is_err_and(|error| error.is_not_found())
    }

    /// Reads the status. What is needed and missing is `NotFound`, as is an ingest whose reference is
    /// not the one that it lies under; a time that cannot be read is taken from the data.
    pub(super) fn status(&self) -> Result<Status> {
        let data = fs::metadata(self.data()).map_err(missing)?;
        let reference = fs::read_to_string(self.path.join("ref")).map_err(missing)?;
        if self.path.file_name() != Some(OsStr::new(Digest::of(&reference).hex())) {
            return Err(Error::not_found(format!("ingest ref {reference:?}")));
        }
        let modified = data.modified()?;
        let updated = self.time("updatedat").map_or(modified, |time| time.max(modified));
        Ok(Status {
            reference,
            offset: data.len(),
            total: self.total(),
            expected: None,
            started_at: self.time("startedat").unwrap_or(modified),
            updated_at: updated,
        })
    }

    fn total(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("total")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn time(&self, name: &str) -> Option<SystemTime> {
        let text = fs::read_to_string(self.path.join(name)).ok()?;
        Some(text.trim().parse::<Timestamp>().ok()?.into())
    }

    /// Removes it, if it is there.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Throws it away: it is gone at once, whatever happens while its files are removed.
    pub(super) fn abort(&self, reference: &str) -> Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let doomed = self.path.with_extension(format!("{}-{count}.tmp", process::id()));
        match fs::rename(&self.path, &doomed) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::not_found(format!("ingest ref {reference:?}")))
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(fs::remove_dir_all(doomed)?),
        }
    }
}

/// RFC 3339, which is how Go's `time.Time` writes itself.
fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}

fn missing(error: io::Error) -> Error {
    let absent = error.kind() == ErrorKind::NotFound;
    let error = Error::from(error);
    if absent { Error::not_found(error.to_string()) } else { error }
}

/// Makes a directory and its parents, each durably.
pub(super) fn make_all(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent() else { return Err(error) };
            make_all(parent)?;
            return make_all(path);
        }
        Err(error) => return Err(error),
    }
    match path.parent() {
        Some(parent) if parent != Path::new("") => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
