// SPDX-License-Identifier: Apache-2.0
//! Named pipes, opened without waiting for the other side.
//!
//! | opened | waits | without the other side |
//! |---|---|---|
//! | [`reader`] | never | reads end-of-file |
//! | [`writer`] | never | fails with `ENXIO` |
//! | [`both`] | never | is its own other side: no end-of-file, no broken pipe |
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    path::Path,
};

use fs_err as fs;
use rustix::{
    fs::{CWD, Mode, OFlags, mkfifoat, open},
    io::Errno,
};

/// Makes a named pipe. One that is there already will do.
pub fn create(path: &Path, mode: u32) -> io::Result<()> {
    match mkfifoat(CWD, path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) if is_fifo(path) => Ok(()),
        made => Ok(made?),
    }
}

/// Whether this is a named pipe. What does not exist is none.
pub fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// Opens the reading end.
pub fn reader(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDONLY)
}

/// Opens the writing end. Without a reader it is `ENXIO`.
pub fn writer(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::WRONLY)
}

/// Opens both ends as one. Whoever holds it keeps the pipe alive: its readers see no end-of-file
/// and its writers no broken pipe while their peers come and go.
pub fn both(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDWR)
}

fn open_as(path: &Path, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd: OwnedFd = open(path, flags, Mode::empty())?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pipe() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        create(&path, 0o700).unwrap();
        (dir, path)
    }

    #[test]
    fn a_pipe_can_be_made_twice_but_not_over_a_file() {
        let (dir, path) = pipe();
        create(&path, 0o700).unwrap();
        assert!(is_fifo(&path));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(create(&file, 0o700).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_writer_without_a_reader_is_refused() {
        let (_dir, path) = pipe();
        assert_eq!(writer(&path).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let _reader = reader(&path).unwrap();
        writer(&path).unwrap();
    }

    #[test]
    fn whoever_holds_both_ends_keeps_the_pipe_open() {
        let (_dir, path) = pipe();
        let _held = both(&path).unwrap();
        let mut reading = reader(&path).unwrap();
        writer(&path).unwrap().write_all(b"x").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(reading.read(&mut buffer).unwrap(), 1);
        assert_eq!(reading.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
