// SPDX-License-Identifier: Apache-2.0
//! Carries out mounts that are templates: those of `Erofs`, one after the other, in directories of
//! their own.
use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use fs_err as fs;
use mount::{Mount, UnmountFlags};
use snapshots::suite::{Manner, Mounted};
use types::Result;

/// How the suite mounts what `Erofs` answers with. Its `mkfs.erofs` refuses names of 255 bytes up to
/// version 1.5.
pub(super) fn manner() -> Manner {
    Manner {
        mount: |mounts, base| Ok(Box::new(Carried::mount(mounts, base)?)),
        images: true,
        longest_name: 254,
        ..Manner::default()
    }
}

/// Mounts in numbered directories, the last of which is what was asked for.
pub(super) struct Carried {
    dir: PathBuf,
    last: PathBuf,
}

impl Carried {
    pub(super) fn mount(mounts: &[Mount], base: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("carried").tempdir_in(base)?.keep();
        let mut carried = Self { last: dir.clone(), dir };
        for (number, mount) in mounts.iter().enumerate() {
            carried.last = carried.dir.join(number.to_string());
            fs::create_dir(&carried.last)?;
            carried.carry_out(mount)?;
        }
        Ok(carried)
    }

    fn carry_out(&self, mount: &Mount) -> Result<()> {
        let mut plain = mount.clone();
        let steps: Vec<_> = mount.kind.split('/').collect();
        plain.kind = (*steps.last().unwrap()).to_owned();
        if steps.contains(&"format") {
            plain.source = self.fill(&plain.source);
            plain.options = plain.options.iter().map(|option| self.fill(option)).collect();
        }
        let value = |key: &str| plain.option(key).map(str::to_owned);
        if steps.contains(&"mkfs") && !Path::new(&plain.source).exists() {
            let size = value("X-containerd.mkfs.size").unwrap().parse().unwrap();
            fs::File::create(&plain.source)?.set_len(size)?;
            let made = sys::Command::new("mkfs.ext4").args(["-q", &plain.source]).output()?;
            assert!(made.exit.success());
        }
        for option in &plain.options {
            if let Some(directory) = option.strip_prefix("X-containerd.mkdir.path=") {
                make_directory(directory)?;
            }
        }
        mount::one(&plain, &self.last)
    }

    /// `{{ mount 1 }}` is where that was mounted, `{{ overlay 0 2 }}` all of them with colons.
    fn fill(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once("{{ ") else { return text.to_owned() };
        let (template, after) = rest.split_once(" }}").unwrap();
        let words: Vec<_> = template.split(' ').collect();
        let at = |number: usize| self.dir.join(number.to_string()).display().to_string();
        let number = |place: usize| words[place].parse::<usize>().unwrap();
        let filled = match words[0] {
            "mount" => at(number(1)),
            "overlay" => (number(1)..=number(2)).map(at).collect::<Vec<_>>().join(":"),
            other => panic!("{other} is no template"),
        };
        format!("{before}{filled}{}", self.fill(after))
    }
}

/// `path:mode[:uid:gid]`
fn make_directory(text: &str) -> Result<()> {
    let parts: Vec<_> = text.split(':').collect();
    if Path::new(parts[0]).exists() {
        return Ok(());
    }
    fs::create_dir(parts[0])?;
    if let [_, _, uid, gid] = parts[..] {
        chown(parts[0], Some(uid.parse().unwrap()), Some(gid.parse().unwrap()))?;
    }
    let mode = u32::from_str_radix(parts[1], 8).unwrap();
    Ok(fs::set_permissions(parts[0], PermissionsExt::from_mode(mode))?)
}

impl Mounted for Carried {
    fn path(&self) -> &Path {
        &self.last
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        mount::unmount_recursive(&self.dir, UnmountFlags::DETACH).unwrap();
        fs::remove_dir_all(&self.dir).unwrap();
    }
}
