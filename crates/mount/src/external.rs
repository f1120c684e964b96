// SPDX-License-Identifier: Apache-2.0
//! Filesystems in user space, mounted by a program of their own.
use std::{io, path::Path};

use sys::Command;
use types::{Error, Kind, Result};

use crate::Mount;

/// A helper and the prefix of the types that are left to it (containerd
/// `core/mount/mount_linux.go`, `allowedHelperBinaries`).
const HELPERS: [Helper; 2] = [
    Helper { program: "mount.fuse", prefix: "fuse." },
    Helper { program: "mount.fuse3", prefix: "fuse3." },
];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Helper {
    program: &'static str,
    prefix: &'static str,
}

/// The helper that a type is left to, if any.
pub(crate) fn of(kind: &str) -> Option<Helper> {
    HELPERS.into_iter().find(|helper| kind.starts_with(helper.prefix))
}

impl Helper {
    pub(crate) fn mount(self, mount: &Mount, target: &Path) -> Result<()> {
        let args = self.args(mount, target);
        let call = || format!("mount helper [{} [{}]] failed", self.program, args.join(" "));
        let output = Command::new(self.program).args(&args).combined_output().map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("exec: {:?}: executable file not found in $PATH", self.program)
                }
                _ => sys::errno::text(&error),
            };
            Error::said(Kind::Unknown, format!("{}: {why}", call()))
        })?;
        if output.exit.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Err(Error::said(Kind::Unknown, format!("{}: {said:?}: {}", call(), output.exit)))
    }

    /// `mount.fuse3 overlay /target -o lowerdir=/a -o ro -t fuse-overlayfs`
    fn args(self, mount: &Mount, target: &Path) -> Vec<String> {
        let mut args = vec![mount.source.clone(), target.to_string_lossy().into_owned()];
        for option in &mount.options {
            args.extend(["-o".to_owned(), option.clone()]);
        }
        let program = mount.kind.strip_prefix(self.prefix).unwrap_or(&mount.kind);
        args.extend(["-t".to_owned(), program.to_owned()]);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_called_as_containerd_calls_it() {
        let mount = Mount {
            kind: "fuse3.fuse-overlayfs".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["lowerdir=/a".into(), "ro".into()],
        };
        let args = of(&mount.kind).unwrap().args(&mount, Path::new("/t"));
        assert_eq!(args.join(" "), "overlay /t -o lowerdir=/a -o ro -t fuse-overlayfs");
    }

    #[test]
    fn only_fuse_has_helpers() {
        assert!(of("fuse.sshfs").is_some());
        assert!(of("fuse").is_none() && of("overlay").is_none() && of("fuseblk").is_none());
    }
}
