// SPDX-License-Identifier: Apache-2.0
use std::{io, path::Path, time::SystemTime};

use fs_err as fs;
use rustix::mount::UnmountFlags;
use sys::loop_device::{LoopDevice, Params};
use types::{Error, Result};

use super::{ActiveMount, Handler};
use crate::{Mount, attach, failure::failed, mountinfo, unmount};

/// Type `erofs`: an image mounted from its file, or from a loop device where the kernel wants a block
/// device (before Linux 6.12).
#[derive(Clone, Copy, Debug, Default)]
pub struct Erofs;

impl Handler for Erofs {
    fn mount(&self, mount: &Mount, at: &str, _: &[ActiveMount]) -> Result<ActiveMount> {
        if mount.kind != "erofs" {
            return Err(Error::unimplemented(format!("type {:?} of an erofs mount", mount.kind)));
        }
        match fs::create_dir(at) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let mut mount = mount.clone();
        // The snapshotter says so for those who mount without a handler.
        mount.options.retain(|option| option != "loop");
        let target = Path::new(at);
        match attach::one(&mount, target) {
            Err(error) if wants_a_block_device(&error) => through_loops(&mut mount, target)?,
            mounted => mounted?,
        }
        Ok(ActiveMount {
            mount,
            mounted_at: Some(SystemTime::now()),
            mount_point: at.to_owned(),
            data: [].into(),
        })
    }

    fn unmount(&self, at: &str) -> Result<()> {
        unmount::unmount_all(at.as_ref(), UnmountFlags::empty())?;
        match fs::remove_dir(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn is_mounted(&self, at: &str) -> Result<bool> {
        Ok(Path::new(at).exists() && mountinfo::is_mount_point(at.as_ref())?)
    }
}

/// `ENOTBLK`, in the words that every error of a mount ends with.
fn wants_a_block_device(error: &Error) -> bool {
    error.to_string().ends_with("err: block device required")
}

/// Mounts with devices in place of files; mounting keeps them.
fn through_loops(mount: &mut Mount, target: &Path) -> Result<()> {
    let params = Params { read_only: true, autoclear: true, direct_io: false };
    let attach_to = |file: &str| {
        LoopDevice::attach(file.as_ref(), params)
            .map_err(|error| failed("attach a loop device to", file.as_ref(), error))
    };
    let mut devices = vec![attach_to(&mount.source)?];
    mount.source = devices[0].path().display().to_string();
    for option in &mut mount.options {
        if let Some(file) = option.strip_prefix("device=") {
            let device = attach_to(file)?;
            *option = format!("device={}", device.path().display());
            devices.push(device);
        }
    }
    attach::one(mount, target)
}
