// SPDX-License-Identifier: Apache-2.0
//! `mkdir/`: directories that a mount needs, such as an overlay's upper one.
use std::os::fd::AsFd;

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, mkdirat, openat, statat},
    io::Errno,
};
use types::{Error, Kind, Result};

use super::{
    ActiveMount, Transformer,
    roots::{Place, Roots},
};
use crate::{Mount, failure::failed};

const PREFIX: &str = "X-containerd.mkdir.";

/// Makes the directories that options name, and takes the options away.
#[derive(Clone, Debug)]
pub(super) struct Mkdir(pub(super) Roots);

impl Transformer for Mkdir {
    fn transform(&self, mut mount: Mount, _: &[ActiveMount]) -> Result<Mount> {
        let (ours, others): (Vec<_>, Vec<_>) =
            mount.options.into_iter().partition(|option| option.starts_with(PREFIX));
        mount.options = others;
        let wanted: Vec<_> = ours.iter().map(|option| parse(option)).collect::<Result<_>>()?;
        for directory in wanted {
            let place = self.0.place(&directory.path, "mkdir")?;
            directory.make(&place)?;
        }
        Ok(mount)
    }
}

/// A directory that is asked for.
#[derive(Debug, PartialEq)]
struct Directory {
    path: String,
    mode: u32,
    owner: Option<(u32, u32)>,
}

/// Reads `X-containerd.mkdir.path=<path>[:<mode>[:<uid>:<gid>]]` (containerd
/// `core/mount/manager/mkdir.go`).
fn parse(option: &str) -> Result<Directory> {
    let bad = || Error::invalid(format!("invalid mkdir option {option:?}"));
    let value = option.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix("path="));
    let parts: Vec<_> = value.ok_or_else(bad)?.splitn(4, ':').collect();
    let number = |what: &str, text: &str| {
        text.parse().map_err(|error| {
            Error::caused(Kind::InvalidArgument, format!("invalid {what} {text:?}"), error)
        })
    };
    let (path, mode, owner) = match parts[..] {
        [path] => (path, 0o700, None),
        [path, mode] => (path, parse_mode(mode)?, None),
        [path, mode, uid, gid] => {
            (path, parse_mode(mode)?, Some((number("uid", uid)?, number("gid", gid)?)))
        }
        _ => return Err(bad()),
    };
    Ok(Directory { path: path.to_owned(), mode, owner })
}

fn parse_mode(text: &str) -> Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| Error::invalid(format!("invalid mode {text}")))
}

impl Directory {
    fn make(&self, place: &Place) -> Result<()> {
        let path = self.path.as_ref();
        let mode = Mode::from_raw_mode(self.mode);
        match mkdirat(&place.parent, &place.name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.check(place)?,
            Err(error) => return Err(failed("create directory", path, error)),
        }
        let open = openat(
            &place.parent,
            &place.name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let open = open.map_err(|error| failed("open directory", path, error))?;
        // The process's mask took some of the mode away.
        fchmod(&open, mode).map_err(|error| failed("change the mode of", path, error))?;
        self.give(open.as_fd())
    }

    fn check(&self, place: &Place) -> Result<()> {
        let found = statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("stat", self.path.as_ref(), error))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Ok(());
        }
        let path = &self.path;
        Err(Error::failed_precondition(format!(
            "mkdir target {path:?} exists and is not a directory"
        )))
    }

    fn give(&self, directory: std::os::fd::BorrowedFd<'_>) -> Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(directory, "", uid, gid, AtFlags::EMPTY_PATH)
            .map_err(|error| failed("change the owner of", self.path.as_ref(), error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use fs_err as fs;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn an_option_says_path_mode_and_owner() {
        let read = |value: &str| parse(&format!("{PREFIX}path={value}")).map(|d| (d.mode, d.owner));
        assert_eq!(read("/a").unwrap(), (0o700, None));
        assert_eq!(read("/a:0755").unwrap(), (0o755, None));
        assert_eq!(read("/a:755:1:2").unwrap(), (0o755, Some((1, 2))));
        for bad in ["/a:8", "/a:1777", "/a:755:1", "/a:755:x:1", "/a:755:1:2:3"] {
            assert_eq!(read(bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
        assert!(parse("X-containerd.mkdir.other=1").is_err());
    }

    #[test]
    fn directories_are_made_and_options_taken_away() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("upper");
        let options =
            vec!["index=off".to_owned(), format!("{PREFIX}path={}:0751:7:8", path.display())];
        let mount = Mount { kind: "overlay".into(), options, ..Mount::default() };
        let mkdir = Mkdir(Roots(vec![folder.path().to_owned()]));
        for _ in 0..2 {
            let done = mkdir.transform(mount.clone(), &[]).unwrap();
            assert_eq!(done.options, ["index=off"]);
        }
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.permissions().mode() & 0o7777, made.uid(), made.gid()), (0o751, 7, 8));
    }

    #[test]
    fn a_file_in_the_way_is_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("upper");
        fs::write(&path, "").unwrap();
        let options = vec![format!("{PREFIX}path={}", path.display())];
        let mount = Mount { options, ..Mount::default() };
        let refused = Mkdir(Roots(vec![folder.path().to_owned()])).transform(mount, &[]);
        assert_eq!(refused.unwrap_err().kind(), Kind::FailedPrecondition);
    }
}
