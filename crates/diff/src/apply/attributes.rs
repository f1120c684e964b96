// SPDX-License-Identifier: Apache-2.0
//! Owner, extended attributes, mode and times, in the order in which none undoes another: changing
//! the owner clears setuid and capabilities, and everything changes times.
use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use tracing::warn;
use types::{Error, Result};

use crate::{
    names,
    root::{self, from_errno},
    tar::{Entry, Time},
    xattrs,
};

/// A file to be given attributes: open, or by its name so that links are not followed.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// Attributes that an archive must not set here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserved {
    /// Only those that need privileges: `trusted.`.
    Trusted,
    /// Those, and the ones by which an overlay mounted with `userxattr` knows its own.
    TrustedAndUserOverlay,
}

impl Node<'_> {
    /// Gives the file everything that the archive says of it.
    pub(super) fn settle(self, entry: &Entry, reserved: Reserved) -> Result<()> {
        let name = || names::show(&entry.name);
        self.chown(owner(entry)?).map_err(|errno| {
            let (uid, gid) = (entry.uid, entry.gid);
            let text = format!("failed to Lchown {:?} for UID {uid}, GID {gid}", name());
            from_errno(errno).context(text)
        })?;
        for (key, value) in &entry.xattrs {
            self.set_xattr(key, value, reserved).map_err(|errno| {
                let key = names::show(key);
                from_errno(errno)
                    .context(format!("failed to setxattr {:?} for key {key:?}", name()))
            })?;
        }
        let mode = Mode::from_raw_mode(entry.mode);
        self.chmod(mode).map_err(|errno| from_errno(errno).context(format!("chmod {}", name())))?;
        self.set_times(&times(entry))
            .map_err(|errno| from_errno(errno).context(format!("chtimes {}", name())))
    }

    pub(super) fn chown(self, (uid, gid): (Uid, Gid)) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, Some(uid), Some(gid)),
            Self::Named(directory, name) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)
            }
        }
    }

    pub(super) fn chmod(self, mode: Mode) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Named(directory, name) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
                // Symbolic links have no mode of their own on Linux.
                if root::kind(&rustix::fs::fstat(&fd)?) == FileType::Symlink {
                    return Ok(());
                }
                rustix::fs::chmod(root::itself(fd.as_fd()), mode)
            }
        }
    }

    pub(super) fn set_times(self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Named(directory, name) => {
                rustix::fs::utimensat(directory, name, times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    /// Sets an attribute, or warns where it cannot be: those that need privileges, those that the
    /// filesystem does not have, and `user.` on what is neither file nor directory (xattr(7)).
    fn set_xattr(self, key: &[u8], value: &[u8], reserved: Reserved) -> Result<(), Errno> {
        if !is_reserved(key, reserved) {
            match self.put_xattr(key, value) {
                Err(Errno::PERM) if key.starts_with(b"user.") && !self.has_user_xattrs()? => {}
                Err(Errno::NOTSUP) => {}
                result => return result,
            }
        }
        warn!("ignored xattr {} in archive", names::show(key));
        Ok(())
    }

    pub(super) fn put_xattr(self, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()),
            Self::Named(directory, name) => {
                let path = root::through(directory, name);
                rustix::fs::lsetxattr(path, key, value, XattrFlags::empty())
            }
        }
    }

    fn has_user_xattrs(self) -> Result<bool, Errno> {
        let stat = match self {
            Self::Open(fd) => rustix::fs::fstat(fd)?,
            Self::Named(directory, name) => root::stat(directory, name)?,
        };
        Ok(matches!(root::kind(&stat), FileType::RegularFile | FileType::Directory))
    }
}

/// Removes the attributes that a directory has and its new description does not mention, so that it
/// comes out as in an overlay, where the new description hides the old one.
pub(super) fn remove_others(directory: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let is_described = |key: &[u8]| entry.xattrs.iter().any(|(described, _)| described == key);
    for (key, _) in xattrs::of(directory)? {
        if xattrs::is_layered(&key) && !is_described(&key) {
            rustix::fs::fremovexattr(directory, &*key)?;
        }
    }
    Ok(())
}

fn is_reserved(key: &[u8], reserved: Reserved) -> bool {
    key.starts_with(b"trusted.")
        || reserved == Reserved::TrustedAndUserOverlay && key.starts_with(b"user.overlay.")
}

/// The owner, if there can be such: the highest number means "leave it", which no archive may say.
pub(super) fn owner(entry: &Entry) -> Result<(Uid, Gid)> {
    let number = |id: i64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    let (Some(uid), Some(gid)) = (number(entry.uid), number(entry.gid)) else {
        let (name, uid, gid) = (names::show(&entry.name), entry.uid, entry.gid);
        return Err(Error::invalid(format!("failed to Lchown {name:?} for UID {uid}, GID {gid}")));
    };
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// Access and modification time, as containerd sets them: a file was read no earlier than changed.
pub(super) fn times(entry: &Entry) -> Timestamps {
    let accessed = entry.accessed.unwrap_or_default().max(entry.modified);
    Timestamps { last_access: bounded(accessed), last_modification: bounded(entry.modified) }
}

/// Compat: times before 1970, and those that do not fit into 64 bits of nanoseconds, become 1970
/// (containerd `pkg/archive/time.go`).
fn bounded(time: Time) -> Timespec {
    let max = Time { seconds: i64::MAX / 1_000_000_000, nanos: (i64::MAX % 1_000_000_000) as u32 };
    let time = if (Time::default()..=max).contains(&time) { time } else { Time::default() };
    Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seconds: i64) -> Entry {
        Entry { modified: Time { seconds, nanos: 5 }, ..Entry::default() }
    }

    #[test]
    fn times_out_of_range_become_1970() {
        for (seconds, want) in [(7, 7), (-7, 0), (i64::MAX, 0), (9_223_372_035, 9_223_372_035)] {
            assert_eq!(times(&entry(seconds)).last_modification.tv_sec, want);
        }
    }

    #[test]
    fn nobody_owns_what_has_no_owner() {
        for id in [-1, i64::from(u32::MAX), 1 << 40] {
            assert!(owner(&Entry { uid: id, ..entry(0) }).is_err(), "{id}");
        }
        assert!(owner(&Entry { uid: 0, gid: 65534, ..entry(0) }).is_ok());
    }
}
