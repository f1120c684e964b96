// SPDX-License-Identifier: Apache-2.0
//! Changing the attributes of a mount, or of a whole tree of them, at once: `mount_setattr(2)`.
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::mount::MountAttrFlags;

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// What to change. Nothing, unless set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'fd> {
    /// Attributes to set.
    pub set: Option<MountAttrFlags>,
    /// Attributes to clear.
    pub clear: Option<MountAttrFlags>,
    /// The user namespace whose mapping shifts the owners of files. Only for a mount that is not
    /// attached anywhere yet.
    pub id_map: Option<BorrowedFd<'fd>>,
    /// Whether all mounts below change too.
    pub recursive: bool,
}

/// Changes the mount that is open as `mount`, which may be detached. All of it happens or nothing.
pub fn change(mount: impl AsFd, change: &Change<'_>) -> io::Result<()> {
    let attr = to_attr(change);
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path is an empty string with its end, and `attr` is laid
    // out as the kernel's struct mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn to_attr(change: &Change<'_>) -> Attr {
    let bits = |flags: Option<MountAttrFlags>| flags.map_or(0, |flags| u64::from(flags.bits()));
    let id_map = if change.id_map.is_some() { MOUNT_ATTR_IDMAP } else { 0 };
    Attr {
        set: bits(change.set) | id_map,
        clear: bits(change.clear),
        propagation: 0,
        user_namespace: change.id_map.map_or(0, |fd| fd.as_raw_fd() as u64),
    }
}

/// `struct mount_attr` (linux/mount.h).
#[repr(C)]
struct Attr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}
