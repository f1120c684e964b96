// SPDX-License-Identifier: Apache-2.0
//! Mounts: the value that snapshotters and runtimes share, and what carries it out.
//!
//! A [`Mount`] is plain data: a snapshotter answers with a list of them, a runtime mounts the list,
//! and neither knows the other. This crate executes and never decides.
//!
//! ```text
//! snapshots --Vec<Mount>--> mount::all(&mounts, target) --> a root filesystem
//!                           mount::Temporary::mount(&mounts, base) --> one that goes away by itself
//! ```
//!
//! ```no_run
//! # use std::path::Path;
//! # fn main() -> types::Result<()> {
//! let mounts = [mount::Mount::bind("/srv/data", ["rbind", "ro"])];
//! mount::all(&mounts, Path::new("/mnt"))?;
//! mount::unmount_mounts(&mounts, Path::new("/mnt"), mount::UnmountFlags::empty())?;
//! # Ok(())
//! # }
//! ```
//!
//! Some mounts are no system's: images that need a loop device, templates that name what was mounted
//! before. A [`Manager`] performs those and answers with what is left for the system; [`Activator`] is
//! the part of it that touches the system.
//!
//! Everything but the [`Manager`] blocks. Mounts happen in the mount namespace of the calling thread.
use std::fmt;

mod activation;
mod attach;
mod external;
mod failure;
mod id_map;
pub mod mountinfo;
mod options;
mod overlay;
mod read_only;
#[cfg(feature = "suite")]
pub mod suite;
mod temporary;
mod unmount;

pub use activation::{
    Activate, ActivationInfo, Activator, ActiveMount, Erofs, Handler, Loop, Manager, Performed,
    Plan, Transformer,
};
pub use attach::{all, one};
pub use id_map::host_id;
pub use read_only::{read_only, without_volatile};
pub use rustix::mount::UnmountFlags;
pub use temporary::Temporary;
pub use unmount::{unmount, unmount_all, unmount_mounts, unmount_recursive};

/// A filesystem to be mounted, in the words of `mount(8)` and of containerd's wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mount {
    /// The type: `bind`, `overlay`, `tmpfs`, `ext4`, or what a foreign snapshotter names.
    pub kind: String,
    /// What is mounted: a directory, a device, a file.
    pub source: String,
    /// A directory below the target to mount at, relative; usually empty.
    pub target: String,
    /// Options as in `fstab(5)`: `ro`, `rbind`, `lowerdir=...`.
    pub options: Vec<String>,
}

impl Mount {
    /// A directory or file that is seen in another place too.
    pub fn bind<S: Into<String>>(
        source: impl Into<String>,
        options: impl IntoIterator<Item = S>,
    ) -> Self {
        let options = options.into_iter().map(Into::into).collect();
        Self { kind: "bind".into(), source: source.into(), target: String::new(), options }
    }

    /// Directories laid over each other, `lower` from the topmost down. Without `upper`, a directory
    /// for changes and one to work in, it is read-only.
    pub fn overlay<S: AsRef<str>>(
        lower: &[S],
        upper: Option<(&str, &str)>,
        options: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut options: Vec<_> = options.into_iter().collect();
        if let Some((upper, work)) = upper {
            options.extend([format!("workdir={work}"), format!("upperdir={upper}")]);
        }
        let lower: Vec<_> = lower.iter().map(AsRef::as_ref).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        let name = || "overlay".to_owned();
        Self { kind: name(), source: name(), target: String::new(), options }
    }

    /// Whether it is asked to be read-only. An overlay without an upper directory is, unasked.
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }

    /// The value of the option `key=value`, the first if there are several.
    pub fn option(&self, key: &str) -> Option<&str> {
        let value = |option: &'_ String| option.strip_prefix(key)?.strip_prefix('=').map(str::len);
        self.options
            .iter()
            .find_map(|option| value(option).map(|len| &option[option.len() - len..]))
    }

    /// The lower directories of an overlay, from the topmost down.
    pub fn lower_dirs(&self) -> Vec<String> {
        self.option("lowerdir").map(overlay::lower_dirs).unwrap_or_default()
    }
}

/// `kind source options`, as in `fstab(5)` but with the target, which is usually empty, left out:
/// `bind /srv/data rbind,ro`.
impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.source)?;
        if !self.target.is_empty() {
            write!(f, " {}", self.target)?;
        }
        if !self.options.is_empty() {
            write!(f, " {}", self.options.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_reads_like_a_line_of_fstab() {
        let mount = Mount::bind("/s/1/fs", ["ro", "rbind"]);
        assert_eq!(mount.to_string(), "bind /s/1/fs ro,rbind");
        let mount = Mount::overlay(&["/2", "/1"], Some(("/u", "/w")), ["index=off".to_owned()]);
        let options = "index=off,workdir=/w,upperdir=/u,lowerdir=/2:/1";
        assert_eq!(mount.to_string(), format!("overlay overlay {options}"));
    }

    #[test]
    fn an_option_has_its_value() {
        let mount = Mount::overlay(&["/2", "/1"], Some(("/u", "/w")), []);
        assert_eq!(mount.option("upperdir"), Some("/u"));
        assert_eq!(mount.option("upper"), None);
        assert_eq!(mount.lower_dirs(), ["/2", "/1"]);
    }

    #[test]
    fn only_ro_asks_to_be_read_only() {
        assert!(Mount::bind("/", ["rbind", "ro"]).is_read_only());
        assert!(!Mount::bind("/", ["rbind", "rw"]).is_read_only());
    }
}
