// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::SystemTime,
};

use fs_err as fs;
use sys::loop_device::{self, LoopDevice, Params};
use types::{Context, Error, Result};

use super::{ActiveMount, Handler};
use crate::{Mount, failure::failed};

/// Type `loop`: a file as a block device. Where it is "mounted" is a link to the device, so that
/// `{{ mount 0 }}` names it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loop;

impl Handler for Loop {
    fn mount(&self, mount: &Mount, at: &str, _: &[ActiveMount]) -> Result<ActiveMount> {
        if mount.kind != "loop" {
            return Err(Error::unimplemented(format!("type {:?} of a loop device", mount.kind)));
        }
        let has = |name: &str| mount.options.iter().any(|option| option == name);
        let params = Params { read_only: has("ro"), autoclear: true, direct_io: has("direct-io") };
        let backing = fs::canonicalize(&mount.source)
            .map_err(|error| failed("attach a loop device to", mount.source.as_ref(), error))?;
        let device = LoopDevice::attach(&backing, params)
            .map_err(|error| failed("attach a loop device to", &backing, error))?;
        // Until the link says which device it is, the device goes with us.
        fs::write(note(at), backing.as_os_str().as_encoded_bytes())?;
        symlink(device.path(), at).context(|| format!("link to {}", device.path().display()))?;
        device.keep().map_err(|error| failed("keep", device.path(), error))?;
        Ok(ActiveMount {
            mount: mount.clone(),
            mounted_at: Some(SystemTime::now()),
            mount_point: at.to_owned(),
            data: [].into(),
        })
    }

    fn unmount(&self, at: &str) -> Result<()> {
        if let Some(device) = device(at)? {
            loop_device::detach(&device).map_err(|error| failed("detach", &device, error))?;
        }
        for path in [Path::new(at), &note(at)] {
            absent(fs::remove_file(path))?;
        }
        Ok(())
    }

    fn is_mounted(&self, at: &str) -> Result<bool> {
        Ok(device(at)?.is_some())
    }
}

/// Beside the link stands which file it is about: after a reboot the device may be another's.
fn note(at: &str) -> PathBuf {
    PathBuf::from(format!("{at}-backing"))
}

/// The device behind the link, if it is still ours.
fn device(at: &str) -> Result<Option<PathBuf>> {
    let device = match fs::read_link(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        device => device?,
    };
    let Ok(noted) = fs::read(note(at)) else { return Ok(None) };
    match loop_device::backing(&device) {
        Ok(backing) if is_same(backing.as_os_str().as_encoded_bytes(), &noted) => Ok(Some(device)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", &device, error)),
    }
}

/// The kernel says so where the file was removed meanwhile.
fn is_same(backing: &[u8], noted: &[u8]) -> bool {
    backing.strip_suffix(b" (deleted)").unwrap_or(backing) == noted
}

fn absent(removed: io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed?),
    }
}
