// SPDX-License-Identifier: Apache-2.0
use std::{
    ffi::{CString, OsString},
    os::{fd::AsRawFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, openat, openat2, statvfs},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount},
};
use sys::loop_device::{LoopDevice, Params};
use types::{Error, Kind, Result};

use crate::{
    Mount, external,
    failure::{Call, failed},
    id_map,
    options::{Options, REMOUNT},
    overlay,
};

/// Mounts a list onto a target, in order: a later mount may go below an earlier one.
///
/// When one fails, those before it stay: [`unmount_mounts`](crate::unmount_mounts) takes them away.
pub fn all(mounts: &[Mount], target: &Path) -> Result<()> {
    mounts.iter().try_for_each(|mount| one(mount, target))
}

/// Mounts onto a target, or onto the directory below it that the mount names.
///
/// Types `fuse.*` and `fuse3.*` are left to the helpers `mount.fuse` and `mount.fuse3`. Of the
/// options, `loop` puts a loop device before a file, and `uidmap=` with `gidmap=` shifts owners.
pub fn one(mount: &Mount, target: &Path) -> Result<()> {
    let target = within(target, &mount.target)?;
    if let Some(helper) = external::of(&mount.kind) {
        return helper.mount(mount, &target);
    }
    let options = Options::parse(&mount.options);
    if mount.kind == "overlay" {
        overlay::mount(mount, &target, &options)?;
    } else {
        attach(mount, &target, &options)?;
    }
    finish(mount, &target, &options).inspect_err(|_| undo(&target, &options))
}

/// What takes calls of its own, once the mount is there.
fn finish(mount: &Mount, target: &Path, options: &Options) -> Result<()> {
    spread(target, options)?;
    make_bind_read_only(target, options)?;
    match options.id_maps() {
        Some((uids, gids)) if mount.kind != "overlay" => id_map::remap(target, uids, gids, options),
        _ => Ok(()),
    }
}

/// Takes away a mount that did not become what was asked: it may be writable, or of other owners.
fn undo(target: &Path, options: &Options) {
    if !options.flags.contains(REMOUNT) {
        _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
    }
}

fn within(root: &Path, path: &str) -> Result<PathBuf> {
    resolve(root, path).map_err(|error| {
        let text = sys::errno::text(&error.into());
        let root = root.to_string_lossy();
        let message = format!("failed to join path {path:?} with root {root:?}: {text}");
        Error::said(Kind::Unknown, message)
    })
}

/// A path below a root, which symbolic links cannot lead out of.
pub(crate) fn resolve(root: &Path, path: &str) -> Result<PathBuf, Errno> {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return Ok(root.to_owned());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let found = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let name = rustix::fs::readlink(link, Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(name.into_bytes())))
}

/// The first call. A remount without new data has nothing to do here (moby/moby#34077).
fn attach(mount: &Mount, target: &Path, options: &Options) -> Result<()> {
    let data = options.data_string();
    if options.flags.contains(REMOUNT) && data.is_empty() {
        return Ok(());
    }
    if !options.through_loop {
        return call(&mount.source, target, &mount.kind, options.flags, &data);
    }
    if mount.kind == "erofs" && attach_file(&mount.source, target, options.flags, &data) {
        return Ok(());
    }
    // Mounting keeps the device; dropping it here makes the mount its last user.
    let device = attach_loop(Path::new(&mount.source), options)?;
    call(&device.path().to_string_lossy(), target, &mount.kind, options.flags, &data)
}

/// Mounts an erofs image as it is, which Linux can since 6.12: that spares a device for each layer of
/// an image. Answers whether it worked; if not, the loop device finds out why.
fn attach_file(source: &str, target: &Path, flags: MountFlags, data: &str) -> bool {
    let Ok(data) = CString::new(data) else { return false };
    mount(source, target, "erofs", flags, Some(data.as_c_str())).is_ok()
}

fn attach_loop(file: &Path, options: &Options) -> Result<LoopDevice> {
    let params = Params {
        read_only: options.flags.contains(MountFlags::RDONLY),
        autoclear: true,
        direct_io: options.direct_io,
    };
    LoopDevice::attach(file, params).map_err(|error| failed("attach a loop device to", file, error))
}

/// `mount(2)`, whose data is one page at most.
pub(crate) fn call(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> Result<()> {
    if data.len() > rustix::param::page_size() {
        return Err(Error::said(Kind::Unknown, "mount options is too long"));
    }
    let call = Call { source, target, kind, flags: flags.bits(), data };
    let data = CString::new(data).map_err(|_nul| call.failed(Errno::INVAL))?;
    mount(source, target, kind, flags, Some(data.as_c_str())).map_err(|error| call.failed(error))
}

/// Sets how mounts below spread. The kernel takes this only in a call of its own.
fn spread(target: &Path, options: &Options) -> Result<()> {
    if options.propagation.is_empty() {
        return Ok(());
    }
    let silent = options.flags.contains(MountFlags::SILENT);
    let silent =
        if silent { MountPropagationFlags::SILENT } else { MountPropagationFlags::empty() };
    let flags = options.propagation | silent;
    let call = Call { source: "", target, kind: "", flags: flags.bits(), data: "" };
    mount_change(target, flags).map_err(|error| call.failed(error))
}

/// A bind mount takes over the flags of what it shows: to be read-only it is changed afterwards.
fn make_bind_read_only(target: &Path, options: &Options) -> Result<()> {
    if !options.flags.contains(MountFlags::BIND | MountFlags::RDONLY) {
        return Ok(());
    }
    let locked = if in_user_namespace() { locked_flags(target)? } else { MountFlags::empty() };
    let flags = (options.flags - REMOUNT) | locked;
    let call = Call { source: "", target, kind: "", flags: (flags | REMOUNT).bits(), data: "" };
    mount_remount(target, flags, c"").map_err(|error| call.failed(error))
}

/// Whether ids are mapped here: then some flags of a mount from outside cannot be taken away.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// The flags that the kernel refuses to clear inside a user namespace (`mount_namespaces(7)`).
fn locked_flags(target: &Path) -> Result<MountFlags> {
    use {MountFlags as M, StatVfsMountFlags as S};
    let present =
        statvfs(target).map_err(|error| failed("read the flags of", target, error))?.f_flag;
    let pairs = [
        (S::RDONLY, M::RDONLY),
        (S::NODEV, M::NODEV),
        (S::NOEXEC, M::NOEXEC),
        (S::NOSUID, M::NOSUID),
        (S::NOATIME, M::NOATIME),
        (S::RELATIME, M::RELATIME),
        (S::NODIRATIME, M::NODIRATIME),
    ];
    let locked = pairs.into_iter().filter(|(stat, _)| present.contains(*stat));
    Ok(locked.fold(M::empty(), |flags, (_, flag)| flags | flag))
}
