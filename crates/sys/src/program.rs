// SPDX-License-Identifier: Apache-2.0
//! Where programs are, and how one is put there.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, io, thread};

/// `linux/fcntl.h`; the crate `libc` lacks it.
const F_SETSIG: libc::c_int = 10;

/// How long a child of ours may take to become its program.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file that `name` is, in the first of `before` and then of the directories on the PATH that has
/// it. A name with a slash is found nowhere: it is a path already.
pub fn find(name: &str, before: Option<&Path>) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let directories = before.map(Path::to_owned).into_iter().chain(env::split_paths(&on_path));
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Writes a program that can be started as soon as this returns.
///
/// A file that anybody can write to is not executed (`ETXTBSY`), and a child that another thread
/// starts meanwhile has a copy of our descriptor until it becomes its program. That is waited for;
/// children started later have none.
pub fn install(path: &Path, program: &[u8]) -> io::Result<()> {
    fs_err::write(path, program)?;
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o755))?;
    let file = fs_err::File::open(path)?;
    let began = Instant::now();
    while is_written_to(file.file())? {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::from(io::ErrorKind::ExecutableFileBusy));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether anybody has the file open for writing: then, and only then, is a lease for readers
/// refused with `EAGAIN` (fcntl(2)). A filesystem without leases is taken at its word.
fn is_written_to(file: &std::fs::File) -> io::Result<bool> {
    // SAFETY: the calls take an open descriptor and a number, and touch no memory.
    let set = |what: libc::c_int, value: libc::c_int| unsafe {
        libc::fcntl(file.as_raw_fd(), what, value)
    };
    // Who opens it for writing while there is a lease has us told: by a signal that nobody minds.
    set(F_SETSIG, libc::SIGURG);
    if set(libc::F_SETLEASE, libc::F_RDLCK) == 0 {
        set(libc::F_SETLEASE, libc::F_UNLCK);
        return Ok(false);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_program_is_found_where_it_is_looked_for_first() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("sh");
        let elsewhere = find("sh", Some(directory.path())).unwrap();
        assert!(elsewhere.ends_with("sh") && elsewhere != own, "{elsewhere:?}");
        fs_err::write(&own, "").unwrap();
        assert_eq!(find("sh", Some(directory.path())), Some(own));
    }

    #[test]
    fn a_file_that_is_written_to_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = fs_err::File::create(&path).unwrap();
        let reader = fs_err::File::open(&path).unwrap();
        let copy = writer.file().try_clone().unwrap();
        drop(writer);
        assert!(is_written_to(reader.file()).unwrap());
        drop(copy);
        assert!(!is_written_to(reader.file()).unwrap());
    }

    #[test]
    fn a_program_can_be_started_at_once_while_others_are_started() {
        let directory = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    Process::new("/bin/true").status().unwrap();
                }
            });
            let one = |number: usize| -> io::Result<()> {
                let path = directory.path().join(number.to_string());
                install(&path, b"#!/bin/sh\nexit 0\n")?;
                Process::new(&path).status().map(drop)
            };
            let played = (0..200).try_for_each(one);
            done.store(true, Ordering::SeqCst);
            played.unwrap();
        });
    }

    #[test]
    fn a_path_and_what_is_nowhere_are_not_found() {
        assert_eq!(find("/bin/sh", None), None);
        assert_eq!(find("no-such-program", None), None);
    }
}
