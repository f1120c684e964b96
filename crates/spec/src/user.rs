// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, Read as _},
    path::Path,
};

use mount::{Mount, Temporary};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use types::{Context as _, Error, Kind, Result};

use crate::User;

/// The longest `/etc/passwd` or `/etc/group` that is read, as in containerd (`pkg/oci/spec_opts.go`).
/// They come from images.
const MAX_FILE: u64 = 10 << 20;

/// The users and groups that a root filesystem knows: its `/etc/passwd` and `/etc/group`. A file that
/// does not exist is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// The contents of `/etc/passwd`.
    pub passwd: String,
    /// The contents of `/etc/group`.
    pub group: String,
}

impl Users {
    /// Reads the files below `root`. Links in there never lead out of it.
    pub fn read(root: &Path) -> Result<Self> {
        let folder = fs_err::File::open(root)?;
        let read = |name: &str| {
            read_below(&folder, name).context(|| format!("read {}/{name}", root.display()))
        };
        Ok(Self { passwd: read("etc/passwd")?, group: read("etc/group")? })
    }

    /// Reads the files of the filesystem that `mounts` make, mounted read-only below `folder` for as
    /// long as it takes.
    pub fn read_mounts(mounts: &[Mount], folder: &Path) -> Result<Self> {
        let temporary = Temporary::read_only(mounts, folder)?;
        let users = Self::read(temporary.path());
        temporary.close()?;
        users
    }

    /// The user that `text` names: `user`, `uid`, `user:group`, `uid:gid`, `uid:group` or `user:gid`
    /// (containerd `pkg/oci/spec_opts.go`, `WithUser`). Only names must be known; the group of a
    /// number that is not known is 0. The only further group is the primary one itself.
    pub fn find(&self, text: &str) -> Result<User> {
        let (name, group) = match text.split(':').collect::<Vec<_>>()[..] {
            [name] => (name, None),
            [name, group] => (name, Some(group)),
            _ => return Err(bad(format!("invalid USER value {text}"))),
        };
        let id = number(name, || format!("invalid USER value {text:?}: uid out of range"))?;
        let entry = self.accounts().find(|it| id.map_or(it.name == name, |id| it.uid == id));
        let uid = match (id, &entry) {
            (Some(id), _) => id,
            (None, Some(entry)) => entry.uid,
            (None, None) => return Err(bad(format!("user {name:?}: no users found"))),
        };
        let gid = match group {
            None => entry.map_or(0, |entry| entry.gid),
            Some(group) => self.gid(text, group)?,
        };
        Ok(User { uid, gid, additional_gids: vec![gid], ..User::default() })
    }

    /// The groups of a user, by name or number, beside the one called as the user: `gid` first
    /// (containerd `pkg/oci/spec_opts.go`, `WithAdditionalGIDs`).
    pub fn groups(&self, user: &str, gid: u32) -> Vec<u32> {
        let name = match user.parse::<u32>() {
            Err(_name) => Some(user),
            Ok(uid) => self.accounts().find(|it| it.uid == uid).map(|it| it.name),
        };
        let member = |entry: &Group<'_>| {
            name.is_some_and(|name| entry.name != name && entry.members.contains(&name))
        };
        let mut gids: Vec<_> = self.entries().filter(member).map(|entry| entry.gid).collect();
        if !gids.contains(&gid) {
            gids.insert(0, gid);
        }
        gids
    }

    fn gid(&self, text: &str, group: &str) -> Result<u32> {
        let id = number(group, || format!("invalid USER value {text:?}: gid out of range"))?;
        let named = || self.entries().find(|entry| entry.name == group).map(|entry| entry.gid);
        id.or_else(named).ok_or_else(|| bad(format!("group {group:?}: no groups found")))
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        lines(&self.passwd).map(|fields| Account {
            name: fields.first().copied().unwrap_or_default(),
            uid: id(&fields, 2),
            gid: id(&fields, 3),
        })
    }

    fn entries(&self) -> impl Iterator<Item = Group<'_>> {
        lines(&self.group).map(|fields| Group {
            name: fields.first().copied().unwrap_or_default(),
            gid: id(&fields, 2),
            members: fields.get(3).copied().unwrap_or_default().split(',').collect(),
        })
    }
}

/// A line of `passwd(5)`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// A line of `group(5)`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

/// A field that is no number counts as 0, as in Go's `github.com/moby/sys/user`.
fn id(fields: &[&str], at: usize) -> u32 {
    fields.get(at).and_then(|field| field.parse().ok()).unwrap_or_default()
}

/// The number that `text` is, if it is one. More than an `i32` holds is too much for runc
/// (containerd `pkg/oci/spec_opts.go`).
fn number(text: &str, out_of_range: impl Fn() -> String) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i32>() {
        Ok(id) if id >= 0 => Ok(Some(id as u32)),
        _ => Err(bad(out_of_range())),
    }
}

fn bad(text: String) -> Error {
    Error::said(Kind::InvalidArgument, text)
}

/// Reads a file as a process with its root at `folder` would, so that absolute links stay inside.
fn read_below(folder: &fs_err::File, name: &str) -> Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(folder, name, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        opened => std::fs::File::from(opened.map_err(io::Error::from)?),
    };
    if !file.metadata()?.is_file() {
        return Err(Error::invalid("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::invalid(format!("exceeds {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: "root:x:0:0::/:/bin/sh\n# no: one\nalice:x:1000:1001::/:/bin/sh\nodd:x:x:y\n"
                .into(),
            group: "root:x:0:root\nwheel:x:10:root,alice\nalice:x:1001:alice\naudio:x:29:alice\n"
                .into(),
        }
    }

    #[test]
    fn a_user_may_be_a_name_a_number_or_either_with_a_group() {
        for (text, want) in [
            ("alice", (1000, 1001)),
            ("1000", (1000, 1001)),
            ("5", (5, 0)),
            ("alice:audio", (1000, 29)),
            ("alice:7", (1000, 7)),
            ("5:wheel", (5, 10)),
            ("5:6", (5, 6)),
            ("odd", (0, 0)),
        ] {
            let user = users().find(text).unwrap();
            assert_eq!((user.uid, user.gid), want, "{text}");
            assert_eq!(user.additional_gids, [want.1]);
        }
    }

    #[test]
    fn who_is_not_known_or_not_possible_is_refused() {
        for (text, why) in [
            ("bob", "user \"bob\": no users found"),
            ("alice:nobody", "group \"nobody\": no groups found"),
            ("a:b:c", "invalid USER value a:b:c"),
            ("-1", "invalid USER value \"-1\": uid out of range"),
            ("4294967295", "invalid USER value \"4294967295\": uid out of range"),
            (
                "1:99999999999999999999",
                "invalid USER value \"1:99999999999999999999\": gid out of range",
            ),
        ] {
            assert_eq!(users().find(text).unwrap_err().to_string(), why);
        }
        assert_eq!(Users::default().find("7").unwrap().gid, 0);
    }

    #[test]
    fn groups_are_those_that_list_the_user_and_its_own() {
        assert_eq!(users().groups("alice", 1001), [1001, 10, 29]);
        assert_eq!(users().groups("1000", 1001), [1001, 10, 29]);
        assert_eq!(users().groups("root", 0), [0, 10]);
        assert_eq!(users().groups("nobody", 5), [5]);
        assert_eq!(users().groups("77", 10), [10]);
        assert_eq!(users().groups("alice", 29), [10, 29]);
    }

    #[test]
    fn files_are_read_as_from_inside() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs_err::create_dir_all(at("etc")).unwrap();
        fs_err::create_dir_all(at("store")).unwrap();
        fs_err::write(at("store/passwd"), "inside:x:1:1\n").unwrap();
        std::os::unix::fs::symlink("/store/passwd", at("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/group", at("etc/group")).unwrap();
        assert!(Users::read(root.path()).is_err(), "a link to itself");
        fs_err::remove_file(at("etc/group")).unwrap();
        let users = Users::read(root.path()).unwrap();
        assert_eq!(users, Users { passwd: "inside:x:1:1\n".into(), group: String::new() });
    }

    #[test]
    fn only_files_of_a_sane_size_are_read() {
        use rustix::fs::{CWD, FileType, mknodat};

        let root = tempfile::tempdir().unwrap();
        let passwd = root.path().join("etc/passwd");
        fs_err::create_dir_all(&passwd).unwrap();
        let why = |root: &Path| Users::read(root).unwrap_err().to_string();
        assert!(why(root.path()).contains("not a regular file"), "a directory");

        fs_err::remove_dir(&passwd).unwrap();
        mknodat(CWD, &passwd, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(why(root.path()).contains("not a regular file"), "a fifo, which blocks nobody");

        fs_err::remove_file(&passwd).unwrap();
        fs_err::File::create(&passwd).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(why(root.path()).contains("exceeds"), "{}", why(root.path()));
    }
}
