// SPDX-License-Identifier: Apache-2.0
//! Files that one process keeps from the others.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};
use std::{io, thread};

/// How long a holder that is gone may still be in the way: a child that it started has a copy of the
/// descriptor, and with it of the lock, until it has become its program.
const PATIENCE: Duration = Duration::from_millis(500);

/// Locks a file for as long as it is open, against every other lock; tells whether that could be
/// done. It waits a moment for a holder that has just let go or ended, and not for one that stays.
pub fn exclusive(file: &File) -> io::Result<bool> {
    soon(|| file.try_lock())
}

/// Locks a file for as long as it is open, against exclusive locks alone; as [`exclusive`] else.
pub fn shared(file: &File) -> io::Result<bool> {
    soon(|| file.try_lock_shared())
}

fn soon(mut lock: impl FnMut() -> Result<(), TryLockError>) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() > PATIENCE => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_its_holder_lets_go() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || path.reopen().unwrap();
        let held = open();
        assert!(exclusive(&held).unwrap());
        assert!(!exclusive(&open()).unwrap() && !shared(&open()).unwrap());
        thread::scope(|scope| {
            let next = scope.spawn(|| exclusive(&open()).unwrap());
            thread::sleep(Duration::from_millis(50));
            drop(held);
            assert!(next.join().unwrap());
        });
    }

    #[test]
    fn readers_share_a_lock() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || path.reopen().unwrap();
        let (one, two) = (open(), open());
        assert!(shared(&one).unwrap() && shared(&two).unwrap());
        assert!(!exclusive(&open()).unwrap());
    }
}
