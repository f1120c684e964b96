// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use types::{Context as _, Error, Kind, Result};

use crate::{Device, DeviceRule};

/// What lies below `/dev` and is no device of the host's (containerd `pkg/oci/utils_unix.go`).
const SKIPPED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// All devices of this machine, in the order of their names.
pub fn host_devices() -> Result<Vec<Device>> {
    devices(Path::new("/dev"))
}

/// The device at `path`, or all below it.
///
/// A link is followed when it is named, so that udev's stable names can be used, but not when it is
/// met below: each device is there once, under its own name (containerd `pkg/oci/utils_unix.go`).
pub fn devices(path: &Path) -> Result<Vec<Device>> {
    let path = fs_err::canonicalize(path).context(|| "error resolving device path")?;
    if !fs_err::metadata(&path)?.is_dir() {
        let device = device(&path)?.ok_or_else(|| {
            let what = format!("get device path: {:?}: not a device node", path.display());
            Error::said(Kind::InvalidArgument, what)
        })?;
        return Ok(vec![device]);
    }
    let mut found = Vec::new();
    walk(&path, &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<Device>) -> Result<()> {
    let mut entries = fs_err::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.contains(&name.as_ref()) {
                walk(&path, found)?;
            }
        } else if name != "console" {
            found.extend(device(&path)?.filter(|device| device.kind != "p"));
        }
    }
    Ok(())
}

/// The device at `path`, without following links; `None` when it is something else, or gone.
fn device(path: &Path) -> Result<Option<Device>> {
    let metadata = match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_block_device() => "b",
        () if kind.is_char_device() => "c",
        () if kind.is_fifo() => "p",
        () => return Ok(None),
    };
    let number = metadata.rdev();
    Ok(Some(Device {
        path: path.to_string_lossy().into_owned(),
        kind: kind.to_owned(),
        major: i64::from(rustix::fs::major(number)),
        minor: i64::from(rustix::fs::minor(number)),
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        ..Device::default()
    }))
}

impl DeviceRule {
    /// Allows `access` to `device`.
    pub fn allow(device: &Device, access: &str) -> Self {
        Self {
            allow: true,
            kind: device.kind.clone(),
            major: Some(device.major),
            minor: Some(device.minor),
            access: access.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_by_its_numbers() {
        let null = devices(Path::new("/dev/null")).unwrap().remove(0);
        assert_eq!((null.kind.as_str(), null.major, null.minor), ("c", 1, 3));
        assert_eq!(null.file_mode, Some(0o666));
        assert_eq!(DeviceRule::allow(&null, "r").minor, Some(3));
    }

    #[test]
    fn a_link_is_followed_only_when_named() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert_eq!(devices(&link).unwrap()[0].path, "/dev/null");
        assert!(devices(folder.path()).unwrap().is_empty());
        assert!(devices(Path::new("/etc/passwd")).is_err());
    }

    #[test]
    fn all_devices_are_those_of_the_host_alone() {
        let all = host_devices().unwrap();
        assert!(all.iter().any(|device| device.path == "/dev/null"));
        assert!(!all.iter().any(|device| device.path.starts_with("/dev/pts/")));
        assert!(!all.iter().any(|device| device.path == "/dev/console"));
    }
}
