// SPDX-License-Identifier: Apache-2.0
//! Overlays by the mount API of Linux 5.2, where each layer is an option of its own.
use std::{
    fmt::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, open},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};
use types::{Error, Kind, Result};

use crate::{failure::Call, options::Options};

/// `fsconfig(2)` takes strings up to this length.
const LONGEST_VALUE: usize = 255;

/// A lower layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) path: String,
    /// Only the contents of its files are reached, from metadata in layers above.
    pub(super) data_only: bool,
}

/// Mounts; answers whether the kernel is too old for it (before Linux 6.7), and nothing happened.
pub(super) fn mount(source: &str, target: &Path, options: &Options) -> Result<bool> {
    let Some(context) = open_context()? else { return Ok(true) };
    let failed = |error| {
        let data = options.data_string();
        let flags = options.flags.bits();
        let said = log_of(context.as_fd());
        let error = Call { source, target, kind: "overlay", flags, data: &data }.failed(error);
        if said.is_empty() { error } else { Error::said(Kind::Unknown, format!("{error}: {said}")) }
    };
    if !configure(context.as_fd(), source, options).map_err(failed)? {
        return Ok(true);
    }
    attach(context.as_fd(), target, options.flags).map_err(failed)?;
    Ok(false)
}

fn open_context() -> Result<Option<OwnedFd>> {
    match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => Ok(Some(context)),
        Err(Errno::NOSYS) => Ok(None),
        Err(error) => {
            let target = Path::new("");
            let call = Call { source: "overlay", target, kind: "overlay", flags: 0, data: "" };
            Err(call.failed(error))
        }
    }
}

/// Sets everything; answers whether the kernel knows of single layers.
fn configure(context: BorrowedFd<'_>, source: &str, options: &Options) -> Result<bool, Errno> {
    fsconfig_set_string(context, "source", source)?;
    for (flag, name) in [
        (MountFlags::RDONLY, "ro"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIRSYNC, "dirsync"),
        (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, "mand"),
    ] {
        if options.flags.contains(flag) {
            fsconfig_set_flag(context, name)?;
        }
    }
    for option in &options.data {
        let set = match option.split_once('=') {
            Some(("lowerdir", value)) => set_layers(context, &split(value)),
            Some((key @ ("upperdir" | "workdir"), value)) => {
                set_dir(context, key, &unescape(value))
            }
            Some((key, value)) => fsconfig_set_string(context, key, value).map(|()| true),
            None => fsconfig_set_flag(context, option.as_str()).map(|()| true),
        };
        if !set? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn set_layers(context: BorrowedFd<'_>, layers: &[Layer]) -> Result<bool, Errno> {
    for layer in layers {
        let key = if layer.data_only { "datadir+" } else { "lowerdir+" };
        if !set_dir(context, key, &layer.path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Names a directory: by a descriptor since Linux 6.13, else by its path, which must be short.
/// `EINVAL` may mean that the kernel knows neither; if not, `mount(2)` finds the same fault.
fn set_dir(context: BorrowedFd<'_>, key: &str, path: &str) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(path, flags, Mode::empty())?;
    let set = match fsconfig_set_fd(context, key, dir) {
        Err(Errno::INVAL | Errno::BADF) if path.len() <= LONGEST_VALUE => {
            fsconfig_set_string(context, key, path)
        }
        set => set,
    };
    match set {
        Err(Errno::INVAL | Errno::BADF) => Ok(false),
        set => set.map(|()| true),
    }
}

fn attach(context: BorrowedFd<'_>, target: &Path, flags: MountFlags) -> Result<(), Errno> {
    fsconfig_create(context)?;
    let mount = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(flags))?;
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The flags that are of the mount and not of the filesystem.
fn attributes(flags: MountFlags) -> MountAttrFlags {
    use {MountAttrFlags as A, MountFlags as M};
    let atime = if flags.contains(M::NOATIME) {
        A::MOUNT_ATTR_NOATIME
    } else if flags.contains(M::STRICTATIME) {
        A::MOUNT_ATTR_STRICTATIME
    } else {
        A::MOUNT_ATTR_RELATIME
    };
    let pairs = [
        (M::RDONLY, A::MOUNT_ATTR_RDONLY),
        (M::NOSUID, A::MOUNT_ATTR_NOSUID),
        (M::NODEV, A::MOUNT_ATTR_NODEV),
        (M::NOEXEC, A::MOUNT_ATTR_NOEXEC),
        (M::NODIRATIME, A::MOUNT_ATTR_NODIRATIME),
    ];
    let present = pairs.into_iter().filter(|(flag, _)| flags.contains(*flag));
    present.fold(atime, |attributes, (_, attribute)| attributes | attribute)
}

/// What the filesystem said about it: `overlay: ...`. More than an errno can.
fn log_of(context: BorrowedFd<'_>) -> String {
    let mut log = String::new();
    let mut line = [0; 1024];
    while let Ok(read @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..read]);
        let text = text.trim_end().trim_start_matches(['e', 'w', 'i', ' ']);
        let separator = if log.is_empty() { "" } else { "; " };
        write!(log, "{separator}{text}").expect("a string takes any text");
    }
    log
}

/// Takes `lowerdir` apart at its colons. After an empty one, layers are of data only.
pub(super) fn split(value: &str) -> Vec<Layer> {
    let mut layers = Vec::new();
    let (mut start, mut escaped, mut data_only) = (0, false, false);
    let mut push = |path: &str| match path {
        "" => data_only = true,
        path => layers.push(Layer { path: unescape(path), data_only }),
    };
    for (at, letter) in value.char_indices() {
        if letter == ':' && !escaped {
            push(&value[start..at]);
            start = at + 1;
        }
        escaped = letter == '\\' && !escaped;
    }
    if start < value.len() {
        push(&value[start..]);
    }
    layers
}

fn unescape(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or(letter) } else { letter });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, want: &[(&str, bool)]) {
        let layers = split(value);
        let got: Vec<_> = layers.iter().map(|l| (l.path.as_str(), l.data_only)).collect();
        assert_eq!(got, want, "{value}");
    }

    #[test]
    fn layers_are_separated_by_colons() {
        check("/a:/b", &[("/a", false), ("/b", false)]);
        check("/a", &[("/a", false)]);
        check("", &[]);
    }

    #[test]
    fn a_colon_can_be_part_of_a_name() {
        check(r"/a\:b:/c", &[("/a:b", false), ("/c", false)]);
        check(r"/a\\:/c", &[(r"/a\", false), ("/c", false)]);
    }

    #[test]
    fn layers_after_a_double_colon_are_of_data_only() {
        check("/a:/b::/c::/d", &[("/a", false), ("/b", false), ("/c", true), ("/d", true)]);
    }
}
