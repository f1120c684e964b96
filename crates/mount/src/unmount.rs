// SPDX-License-Identifier: Apache-2.0
use std::{io, path::Path, thread, time::Duration};

use fs_err as fs;
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount as call},
};
use types::Result;

use crate::{Mount, attach::resolve, failure::failed, mountinfo};

/// How long a busy mount is waited for: containerd tries 50 times, 50 ms apart
/// (`core/mount/mount_unix.go`). We look more often at first, as most are free at once.
const PATIENCE: Duration = Duration::from_millis(2500);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Takes away the topmost mount at a target. What is not mounted stays so, without error.
///
/// A mount in use is waited for a little; with [`UnmountFlags::DETACH`] it is taken out of sight at
/// once, and ends when its last user does.
pub fn unmount(target: &Path, flags: UnmountFlags) -> Result<()> {
    patiently(target, flags)
        .map(|_mounted| ())
        .map_err(|error| failed("unmount target", target, error))
}

/// Takes away all mounts at a target, however many are stacked. An empty target, or one that does
/// not exist, has none.
pub fn unmount_all(target: &Path, flags: UnmountFlags) -> Result<()> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if target.as_os_str().is_empty() || fs::metadata(target).is_err_and(|error| missing(&error)) {
        return Ok(());
    }
    while patiently(target, flags).map_err(|error| failed("unmount target", target, error))? {}
    Ok(())
}

/// Takes away what [`all`](crate::all) mounted, the last first. It stops at the first that fails:
/// what is below cannot go either.
pub fn unmount_mounts(mounts: &[Mount], target: &Path, flags: UnmountFlags) -> Result<()> {
    mounts.iter().rev().try_for_each(|mount| match resolve(target, &mount.target) {
        Ok(place) => unmount_all(&place, flags),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("unmount target", &target.join(&mount.target), error)),
    })
}

/// Takes away the mounts at a target and everything mounted below it, the deepest first. A target
/// that is empty or does not exist has none.
pub fn unmount_recursive(target: &Path, flags: UnmountFlags) -> Result<()> {
    if target.as_os_str().is_empty() {
        return Ok(());
    }
    let target = match fs::canonicalize(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        target => target?,
    };
    let mut places: Vec<_> =
        mountinfo::below(&target)?.into_iter().map(|entry| entry.mount_point).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.as_os_str().len()));
    places.dedup();
    places.iter().try_for_each(|place| unmount_all(place, flags))
}

/// Unmounts once; answers whether there was a mount. `EINVAL` says that there was none.
fn patiently(target: &Path, flags: UnmountFlags) -> Result<bool, Errno> {
    let (mut waited, mut pause) = (Duration::ZERO, Duration::from_millis(1));
    loop {
        match call(target, flags) {
            Ok(()) => return Ok(true),
            Err(Errno::INVAL) => return Ok(false),
            Err(Errno::BUSY) if waited < PATIENCE => {
                thread::sleep(pause);
                waited += pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(Errno::PERM) if unmount_fuse(target) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// Asks the setuid helper, which may do for FUSE what we may not when we are not root.
fn unmount_fuse(target: &Path) -> bool {
    let kind = mountinfo::lookup(target).map(|entry| entry.kind).unwrap_or_default();
    let helpers = ["fusermount3", "fusermount"];
    kind.starts_with("fuse")
        && helpers.into_iter().any(|helper| {
            let run = sys::Command::new(helper).arg("-u").arg(target).output();
            run.is_ok_and(|output| output.exit.success())
        })
}
