// SPDX-License-Identifier: Apache-2.0
//! Archives that try to reach what is outside of their root. In each test, a file next to the root
//! is what they are after.
use fs_err as fs;
use std::path::{Path, PathBuf};

use super::{
    archive::{dir, file, link, symlink, tar, unpack, unpack_upper},
    tree::{listing, make_dir, paths, read, temp, write},
};
use diff::tar::{Entry, Kind};

struct Jail {
    top: tempfile::TempDir,
    root: PathBuf,
}

impl Jail {
    fn new() -> Self {
        let top = temp();
        let root = make_dir(top.path(), "root");
        write(top.path(), "outside/secret", "secret");
        Self { top, root }
    }

    /// Unpacks, and whether or not that works, nothing outside may have changed.
    fn check(&self, archive: &[u8]) -> types::Result<diff::Applied> {
        let outside = self.top.path().join("outside");
        let before = listing(&outside);
        let applied = unpack(archive, &self.root);
        assert_eq!(listing(&outside), before);
        assert_eq!(fs::read_dir(self.top.path()).unwrap().count(), 2);
        applied
    }
}

#[test]
fn dots_stay_in_the_root() {
    let jail = Jail::new();
    jail.check(&tar([
        file("../outside/secret", "1"),
        file("/outside/absolute", "2"),
        file("a/../../../outside/up", "3"),
        file("b/c/../d", "4"),
    ]))
    .unwrap();
    let want = ["b", "b/d", "outside", "outside/absolute", "outside/secret", "outside/up"];
    assert_eq!(paths(&jail.root), want);
}

#[test]
fn symbolic_links_lead_nowhere_else() {
    let jail = Jail::new();
    let outside = jail.top.path().join("outside");
    let outside = outside.to_str().unwrap();
    jail.check(&tar([
        symlink("abs", outside),
        file("abs/secret", "1"),
        symlink("rel", "../outside"),
        file("rel/secret", "2"),
        symlink("twice", "rel"),
        file("twice/new", "3"),
        symlink("up", ".."),
        file("up/outside/secret", "4"),
        symlink("secret", "../outside/secret"),
        file("secret", "5"),
        dir("abs"),
    ]))
    .unwrap();
    // Both kinds of links were followed within the root, and made what they lead to.
    assert_eq!(read(&jail.root, &format!("{outside}/secret")[1..]), "1");
    assert_eq!(read(&jail.root, "outside/secret"), "4");
    assert_eq!(read(&jail.root, "outside/new"), "3");
    assert_eq!(read(&jail.root, "secret"), "5");
    assert!(fs::symlink_metadata(jail.root.join("abs")).unwrap().is_dir());
}

#[test]
fn hard_links_reach_only_what_is_in_the_root() {
    let jail = Jail::new();
    for target in ["../outside/secret", "/outside/secret", "l/secret"] {
        let bytes = tar([symlink("l", "../outside"), link("h", target)]);
        assert!(jail.check(&bytes).is_err(), "{target}");
    }
    // The link itself may be linked to, and replacing either leaves what it points to alone.
    let bytes = tar([symlink("s", "../outside/secret"), link("h", "s"), file("h", "mine")]);
    jail.check(&bytes).unwrap();
    assert_eq!(read(&jail.root, "h"), "mine");
}

#[test]
fn attributes_are_not_given_through_links() {
    let jail = Jail::new();
    let target = symlink("l", "../outside/secret").0;
    let xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
    let loud = Entry { mode: 0o777, uid: 4, gid: 4, xattrs, ..target };
    let again = Entry { mode: 0o700, uid: 5, ..link("h", "l").0 };
    jail.check(&tar([(loud, vec![]), (again, vec![])])).unwrap();
}

#[test]
fn whiteouts_remove_nothing_outside() {
    let jail = Jail::new();
    jail.check(&tar([
        symlink("l", "../outside"),
        file("l/.wh.secret", ""),
        file("../outside/.wh.secret", ""),
        file(".wh.l", ""),
        symlink("m", "../outside"),
        file("m/.wh..wh..opq", ""),
    ]))
    .unwrap();
    for name in [".wh..", ".wh...", "a/.wh..."] {
        let error = jail.check(&tar([file(name, "")])).unwrap_err();
        assert!(error.to_string().ends_with(": invalid archive"), "{error}");
    }
}

#[test]
fn removing_a_tree_does_not_follow_its_links() {
    let jail = Jail::new();
    let bytes = tar([dir("d"), symlink("d/l", "../../outside"), file("d/x/y", "")]);
    jail.check(&bytes).unwrap();
    jail.check(&tar([file(".wh.d", "")])).unwrap();
    jail.check(&bytes).unwrap();
    jail.check(&tar([file("d", "replaced")])).unwrap();
    assert_eq!(paths(&jail.root), ["d"]);
}

#[test]
fn a_loop_of_links_ends() {
    let jail = Jail::new();
    let bytes = tar([symlink("a", "b"), symlink("b", "a"), file("a/f", "")]);
    let error = jail.check(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "lookup a: too many links");
    let error = jail.check(&tar([file("f", ""), file("f/g", "")])).unwrap_err();
    assert_eq!(error.to_string(), "lookup f: f: not a directory");
}

/// Each entry climbs down through a link to where the last one ended, so that the tree is far deeper
/// than any path may be long.
#[test]
fn a_tree_deeper_than_paths_are_long_is_removed() {
    let jail = Jail::new();
    let step = "d/".repeat(200);
    let mut entries = Vec::new();
    for i in 0..12 {
        let from = if i == 0 { String::new() } else { format!("l{i}/") };
        entries.push((Entry { ..dir(&format!("{from}{step}")).0 }, vec![]));
        let target = if i == 0 { step.clone() } else { format!("l{i}/{step}") };
        entries.push(symlink(&format!("l{}", i + 1), &target));
    }
    jail.check(&tar(entries)).unwrap();
    jail.check(&tar([file(".wh.d", "")])).unwrap();
    assert!(!jail.root.join("d").exists());
}

#[test]
fn an_upper_directory_is_as_safe() {
    let jail = Jail::new();
    let outside = jail.top.path().join("outside");
    let before = listing(&outside);
    let lower = make_dir(&jail.root, "lower");
    let upper = make_dir(&jail.root, "upper");
    fs::os::unix::fs::symlink("../../outside", lower.join("l")).unwrap();
    let bytes = tar([
        file("l/secret", "1"),
        symlink("m", "../../outside"),
        file("m/.wh.secret", ""),
        file("m/.wh..wh..opq", ""),
        (Entry { kind: Kind::Directory, ..dir("m").0 }, vec![]),
    ]);
    unpack_upper(&bytes, &upper, &[Path::new(&lower)]).unwrap();
    assert_eq!(listing(&outside), before);
    assert_eq!(read(&upper, "l/secret"), "1");
}
