// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashMap,
    ffi::CStr,
    io::{self, Read, Seek, SeekFrom as From, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use fs_err::{self as fs, File};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, SeekFrom, Timespec, Timestamps, Uid, XattrFlags,
        chownat, copy_file_range, ioctl_ficlone, lgetxattr, llistxattr, llistxattr_query,
        lsetxattr, mknodat, seek, utimensat,
    },
    io::Errno,
};
use std::fs::Metadata;

/// Copies the directory `from`, with all below it, to `to`, which must not exist yet.
///
/// Everything that a filesystem keeps comes along: owners, modes, times, extended attributes, devices,
/// hard links among what is copied, and holes. Data is shared where the filesystem can do that.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    Copier::default().copy(from, to)
}

#[derive(Default)]
struct Copier {
    /// Where files with several names went, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        if metadata.is_dir() {
            return self.copy_directory(from, to, &metadata);
        }
        if self.link(to, &metadata)? {
            return Ok(());
        }
        if metadata.is_file() {
            copy_data(from, to, &metadata)?;
        } else if metadata.is_symlink() {
            fs::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        } else {
            make_node(to, &metadata)?;
        }
        copy_attributes(from, to, &metadata)
    }

    /// Attributes come last: writing into a directory changes its time.
    ///
    /// Recursion is bounded, as a path is: one too long is an error.
    fn copy_directory(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            self.copy(&from.join(&name), &to.join(&name))?;
        }
        copy_attributes(from, to, metadata)
    }

    /// Makes `to` another name of what has been copied already; answers whether it has.
    fn link(&mut self, to: &Path, metadata: &Metadata) -> io::Result<bool> {
        if metadata.nlink() < 2 {
            return Ok(false);
        }
        let identity = (metadata.dev(), metadata.ino());
        if let Some(first) = self.links.get(&identity) {
            return fs::hard_link(first, to).map(|()| true);
        }
        self.links.insert(identity, to.to_owned());
        Ok(false)
    }
}

fn make_node(to: &Path, metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_block_device() => FileType::BlockDevice,
        () if kind.is_char_device() => FileType::CharacterDevice,
        () if kind.is_fifo() => FileType::Fifo,
        () => FileType::Socket,
    };
    mknodat(CWD, to, kind, Mode::RUSR | Mode::WUSR, metadata.rdev()).map_err(|e| super::at(to, e))
}

fn copy_data(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::create_new(to)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    target.set_len(metadata.len())?;
    let mut at = 0;
    while let Some((start, end)) = data_after(&source, at, metadata.len())? {
        copy_range(&source, &target, start, end)?;
        at = end;
    }
    Ok(())
}

/// Where the next data lies; the rest is holes. A filesystem that knows no holes is all data.
fn data_after(file: &File, at: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= len {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some((at, len))),
        start => start?,
    };
    let end = seek(file, SeekFrom::Hole(start))?.min(len);
    Ok((start < end).then_some((start, end)))
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(source, Some(&mut read), target, Some(&mut written), left) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_hand(source, target, read, end);
            }
            Err(error) => return Err(super::at(target.path(), error)),
        }
    }
    Ok(())
}

fn copy_by_hand(mut source: &File, mut target: &File, start: u64, end: u64) -> io::Result<()> {
    source.seek(From::Start(start))?;
    target.seek(From::Start(start))?;
    io::copy(&mut source.take(end - start), &mut target)?;
    target.flush()
}

/// Owner first: changing it takes away set-user-id bits and file capabilities.
fn copy_attributes(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| super::at(to, error))?;
    copy_xattrs(from, to)?;
    if !metadata.is_symlink() {
        fs::set_permissions(to, metadata.permissions())?;
    }
    let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| super::at(to, error))
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let size = match llistxattr_query(from) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        size => size.map_err(|error| super::at(from, error))?,
    };
    let mut names = vec![0; size];
    let size = llistxattr(from, &mut names[..]).map_err(|error| super::at(from, error))?;
    for name in names[..size].split_inclusive(|&byte| byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        copy_xattr(from, to, name)?;
    }
    Ok(())
}

/// What the target cannot keep, such as labels of a security module, is left out, as Go does
/// (containerd `plugins/snapshots/native/native.go`).
fn copy_xattr(from: &Path, to: &Path, name: &CStr) -> io::Result<()> {
    let mut value = vec![0; 64 << 10]; // XATTR_SIZE_MAX
    let size = lgetxattr(from, name, &mut value[..]).map_err(|error| super::at(from, error))?;
    match lsetxattr(to, name, &value[..size], XattrFlags::empty()) {
        Err(error @ (Errno::OPNOTSUPP | Errno::PERM)) => {
            tracing::debug!(%error, ?name, path = %to.display(), "failed to copy xattr");
            Ok(())
        }
        set => set.map_err(|error| super::at(to, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{makedev, stat};

    use super::*;

    fn lstat(path: &Path) -> Metadata {
        fs::symlink_metadata(path).unwrap()
    }

    /// Everything that comes with a file but its times.
    fn identity(path: &Path) -> (u32, u32, u32, u64, u64) {
        let it = lstat(path);
        (it.mode(), it.uid(), it.gid(), it.rdev(), if it.is_dir() { 0 } else { it.len() })
    }

    #[test]
    fn a_copy_is_like_its_original() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("d/empty")).unwrap();
        fs::write(from.join("d/f"), "content").unwrap();
        fs::hard_link(from.join("d/f"), from.join("link")).unwrap();
        fs::os::unix::fs::symlink("nowhere", from.join("symlink")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, from.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        mknodat(CWD, from.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        mknodat(CWD, from.join("socket"), FileType::Socket, mode, 0).unwrap();
        let (uid, gid) = (Some(Uid::from_raw(1234)), Some(Gid::from_raw(567)));
        for name in ["d", "d/f", "symlink", "fifo"] {
            chownat(CWD, from.join(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        fs::set_permissions(from.join("d/f"), PermissionsExt::from_mode(0o6755)).unwrap();
        fs::set_permissions(&from, PermissionsExt::from_mode(0o1777)).unwrap();
        lsetxattr(from.join("d/f"), c"user.colour", b"red", XattrFlags::empty()).unwrap();
        lsetxattr(from.join("symlink"), c"trusted.t", b"\0", XattrFlags::empty()).unwrap();

        copy(&from, &to).unwrap();

        for name in ["", "d", "d/empty", "d/f", "link", "symlink", "null", "fifo", "socket"] {
            let (from, to) = (from.join(name), to.join(name));
            assert_eq!(identity(&from), identity(&to), "{name}");
            assert_eq!(lstat(&from).modified().unwrap(), lstat(&to).modified().unwrap(), "{name}");
        }
        assert_eq!(lstat(&to.join("link")).ino(), lstat(&to.join("d/f")).ino());
        assert_ne!(lstat(&to.join("d/f")).ino(), lstat(&from.join("d/f")).ino());
        assert_eq!(fs::read_link(to.join("symlink")).unwrap(), Path::new("nowhere"));
        let mut value = [0; 8];
        assert_eq!(lgetxattr(to.join("d/f"), c"user.colour", &mut value[..]).unwrap(), 3);
        assert_eq!(&value[..3], b"red");
        assert_eq!(lgetxattr(to.join("symlink"), c"trusted.t", &mut value[..]).unwrap(), 1);
    }

    #[test]
    fn holes_stay_holes() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        let mut file = File::create(from.join("f")).unwrap();
        file.seek(From::Start(64 << 20)).unwrap();
        file.write_all(b"in the middle").unwrap();
        file.set_len(256 << 20).unwrap();
        copy(&from, &to).unwrap();
        let copied = stat(to.join("f")).unwrap();
        assert_eq!(copied.st_size, 256 << 20);
        assert!(copied.st_blocks * 512 < 1 << 20);
        let mut text = [0; 13];
        std::os::unix::fs::FileExt::read_exact_at(
            &std::fs::OpenOptions::new().read(true).open(to.join("f")).unwrap(),
            &mut text,
            64 << 20,
        )
        .unwrap();
        assert_eq!(&text, b"in the middle");
    }
}
