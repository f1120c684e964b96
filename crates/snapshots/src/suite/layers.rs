// SPDX-License-Identifier: Apache-2.0
//! Layers over layers: a stack of them has to look like one directory to which all was done.
use std::{os::unix::fs::PermissionsExt, path::Path};

use fs_err as fs;

use super::{
    Claim, Suite, committed, list,
    tree::{listing, remove, write},
};
use crate::{Capability, Commit};

pub(super) const CLAIMS: &[Claim] = list![
    a_layer_changes_files_of_those_below,
    a_file_removed_stays_removed,
    a_directory_made_anew_hides_the_old_one,
    a_file_takes_the_place_of_a_directory,
    files_move_between_layers,
    links_and_devices_survive,
    owners_and_modes_change_layer_by_layer,
    a_directory_keeps_its_mode_through_a_commit,
    a_directory_of_a_lower_layer_can_be_renamed,
    a_directory_is_hidden_whole_and_shown_again,
    attributes_survive_layers,
    times_survive_layers,
    names_of_all_sorts_survive,
    a_rebased_layer_lies_over_its_new_parents,
    a_hundred_and_twenty_eight_layers_are_mounted,
];

/// What a layer does to a directory.
type Change<'a> = &'a (dyn Fn(&Path) + Send + Sync);

/// Makes each change in a layer of its own and, all of them, in one directory: after each the two
/// have to be alike, in the active snapshot and in a view of what was committed.
async fn check(suite: Suite<'_>, changes: &[Change<'_>]) {
    let flat = suite.work.join("flat");
    fs::create_dir_all(&flat).expect("it is made");
    fs::set_permissions(&flat, PermissionsExt::from_mode(0o755)).expect("its mode is set");
    let mut parent: Option<String> = None;
    for (number, change) in changes.iter().enumerate() {
        let (key, name) = (format!("active-{number}"), format!("layer-{number}"));
        let mounts = suite.prepare(&key, parent.as_deref()).await;
        suite.within(&mounts, |root| {
            assert_eq!(listing(root), listing(&flat), "before change {number}");
            change(root);
            change(&flat);
            assert_eq!(listing(root), listing(&flat), "after change {number}");
        });
        suite.commit(&name, &key).await;
        parent = Some(name);
    }
    let mounts = suite.view("whole", parent.as_deref()).await;
    suite.within(&mounts, |root| assert_eq!(listing(root), listing(&flat), "in the end"));
}

async fn a_layer_changes_files_of_those_below(suite: Suite<'_>) {
    check(
        suite,
        &[
            &|root| {
                write(root, "foo", "foo");
                write(root, "a/b/c/file", "old");
                write(root, "etc/hosts", "mydomain 10.0.0.1");
            },
            &|root| {
                write(root, "foo", "bar");
                write(root, "bar", "bar");
                write(root, "etc/hosts", "mydomain 10.0.0.120");
            },
            &|root| write(root, "a/b/new", "new"),
            &|root| write(root, "etc/hosts", ""),
        ],
    )
    .await;
}

async fn a_file_removed_stays_removed(suite: Suite<'_>) {
    check(
        suite,
        &[
            &|root| {
                write(root, "foo", "foo");
                write(root, "d/foobar", "foobar");
            },
            &|root| fs::remove_file(root.join("d/foobar")).expect("it is removed"),
            &|_| (),
            &|root| remove(root, "d"),
            &|root| write(root, "d/foobar", "back"),
        ],
    )
    .await;
}

/// The new directory is empty although there is one of the same name below.
async fn a_directory_made_anew_hides_the_old_one(suite: Suite<'_>) {
    check(
        suite,
        &[
            &|root| write(root, "lib/a/file", "1"),
            &|root| write(root, "lib/b/file", "2"),
            &|root| {
                remove(root, "lib");
                write(root, "lib/c", "3");
            },
            &|root| write(root, "lib/a/other", "4"),
        ],
    )
    .await;
}

async fn a_file_takes_the_place_of_a_directory(suite: Suite<'_>) {
    check(
        suite,
        &[
            &|root| write(root, "x/y", "1"),
            &|root| {
                remove(root, "x");
                write(root, "x", "a file");
            },
            &|root| {
                fs::remove_file(root.join("x")).expect("it is removed");
                fs::os::unix::fs::symlink("y", root.join("x")).expect("it is linked");
            },
            &|root| {
                fs::remove_file(root.join("x")).expect("it is removed");
                write(root, "x/z", "2");
            },
        ],
    )
    .await;
}

async fn files_move_between_layers(suite: Suite<'_>) {
    check(
        suite,
        &[
            &|root| {
                write(root, "dir1/f1", "Hello");
                write(root, "dir2/f2", "...");
            },
            &|root| {
                write(root, "dir3/f1", "Hello");
                remove(root, "dir1");
                fs::hard_link(root.join("dir2/f2"), root.join("dir3/f2")).expect("it is linked");
                fs::remove_file(root.join("dir2/f2")).expect("it is removed");
            },
            &|root| fs::rename(root.join("dir3/f2"), root.join("f2")).expect("it is moved"),
        ],
    )
    .await;
}

async fn links_and_devices_survive(suite: Suite<'_>) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    check(
        suite,
        &[
            &|root| {
                write(root, "file", "content");
                fs::hard_link(root.join("file"), root.join("link")).expect("it is linked");
                fs::os::unix::fs::symlink("/etc/passwd", root.join("symlink")).expect("it is made");
                let mode = Mode::from_raw_mode(0o640);
                let device = |name, kind, number| {
                    mknodat(CWD, root.join(name), kind, mode, number).expect("it is made");
                };
                device("null", FileType::CharacterDevice, makedev(1, 3));
                device("fifo", FileType::Fifo, 0);
            },
            &|root| write(root, "other", ""),
            &|root| fs::remove_file(root.join("null")).expect("it is removed"),
        ],
    )
    .await;
}

async fn owners_and_modes_change_layer_by_layer(suite: Suite<'_>) {
    let own = |root: &Path, name: &str, id: u32| {
        fs::os::unix::fs::lchown(root.join(name), Some(id), Some(id)).expect("it is owned");
    };
    let mode = |root: &Path, name: &str, mode: u32| {
        fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).expect("it is set");
    };
    check(
        suite,
        &[
            &|root| {
                write(root, "opt/a/file", "1");
                write(root, "opt/b", "2");
                own(root, "opt/a", 1000);
                own(root, "opt/b", 1001);
            },
            &|root| {
                own(root, "opt", 1);
                own(root, "opt/a/file", 2);
                mode(root, "opt/b", 0o4711);
            },
            &|root| {
                own(root, "opt/b", 2);
                mode(root, "opt/a", 0o2770);
            },
        ],
    )
    .await;
}

async fn a_directory_keeps_its_mode_through_a_commit(suite: Suite<'_>) {
    let make = |root: &Path, name: &str, mode: u32| {
        fs::create_dir(root.join(name)).expect("it is made");
        fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).expect("it is set");
    };
    check(
        suite,
        &[
            &|root| {
                make(root, "dir1", 0o700);
                make(root, "dir2", 0o777);
                make(root, "tmp", 0o1777);
            },
            &|root| write(root, "dir1/file", "1"),
            &|root| {
                remove(root, "dir1");
                make(root, "dir1", 0o711);
            },
        ],
    )
    .await;
}

/// Overlayfs refuses with `EXDEV`, and whoever renames copies instead, as `mv` does.
async fn a_directory_of_a_lower_layer_can_be_renamed(suite: Suite<'_>) {
    let rename = |root: &Path| {
        let (old, new) = (root.join("old"), root.join("new"));
        if let Err(error) = fs::rename(&old, &new) {
            assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices, "{error}");
            write(root, "new/sub/file", "content");
            remove(root, "old");
        }
    };
    let first: Change<'_> = &|root| write(root, "old/sub/file", "content");
    check(suite, &[first, &rename, &|root| write(root, "old", "a file now")]).await;
}

/// Three layers on, what the bottom had is still hidden, and what was made since is not.
async fn a_directory_is_hidden_whole_and_shown_again(suite: Suite<'_>) {
    check(
        suite,
        &[
            &|root| {
                write(root, "srv/a/1", "1");
                write(root, "srv/b/2", "2");
            },
            &|root| {
                remove(root, "srv/a");
                fs::create_dir(root.join("srv/a")).expect("it is made");
            },
            &|root| write(root, "srv/a/3", "3"),
            &|root| {
                remove(root, "srv");
                write(root, "srv/b/4", "4");
            },
        ],
    )
    .await;
}

async fn attributes_survive_layers(suite: Suite<'_>) {
    use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
    const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set = |root: &Path, name: &str, key: &str, value: &[u8]| {
        lsetxattr(root.join(name), key, value, XattrFlags::empty()).expect("it is set");
    };
    let has = |root: &Path, name: &str, key: &str| {
        let mut value = [0; 64];
        let size = lgetxattr(root.join(name), key, &mut value[..]).expect("it is there");
        value[..size].to_vec()
    };
    let user = suite.takes_user_attributes().await;
    suite
        .layer("one", None, |root| {
            write(root, "bin/ping", "1");
            set(root, "bin/ping", "security.capability", CAPABILITY);
            if user {
                set(root, "bin", "user.colour", b"red");
            }
        })
        .await;
    suite.layer("two", Some("one"), |root| write(root, "bin/other", "2")).await;
    let mounts = suite.view("view", Some("two")).await;
    suite.within(&mounts, |root| {
        assert_eq!(has(root, "bin/ping", "security.capability"), CAPABILITY);
        if user {
            assert_eq!(has(root, "bin", "user.colour"), b"red");
        }
    });
}

async fn times_survive_layers(suite: Suite<'_>) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    use std::os::unix::fs::MetadataExt;
    let long_ago = Timespec { tv_sec: 981_173_106, tv_nsec: 7 };
    suite
        .layer("one", None, |root| {
            write(root, "file", "old");
            let times = Timestamps { last_access: long_ago, last_modification: long_ago };
            utimensat(CWD, root.join("file"), &times, AtFlags::empty()).expect("it is set");
        })
        .await;
    suite.layer("two", Some("one"), |root| write(root, "other", "new")).await;
    let mounts = suite.prepare("key", Some("two")).await;
    suite.within(&mounts, |root| {
        let file = fs::metadata(root.join("file")).expect("it is there");
        assert_eq!((file.mtime(), file.mtime_nsec()), (long_ago.tv_sec, long_ago.tv_nsec));
    });
}

async fn names_of_all_sorts_survive(suite: Suite<'_>) {
    let long = "n".repeat(suite.manner.longest_name);
    let names =
        ["with space", "with:colon", "with,comma", r"with\backslash", "café", "-rf", long.as_str()];
    check(
        suite,
        &[
            &|root| names.iter().for_each(|name| write(root, &format!("d/{name}"), name)),
            &|root| names.iter().for_each(|name| write(root, &format!("d/{name}"), "again")),
            &|root| {
                for name in names {
                    fs::remove_file(root.join("d").join(name)).expect("it is removed");
                }
            },
        ],
    )
    .await;
}

/// Unpacked side by side, chained at commit: seen as if unpacked one over the other.
async fn a_rebased_layer_lies_over_its_new_parents(suite: Suite<'_>) {
    if !suite.snapshots.capabilities().contains(&Capability::Rebase) {
        return;
    }
    let upper = suite.prepare("upper", None).await;
    suite.within(&upper, |root| {
        write(root, "etc/conf", "upper");
        write(root, "only/upper", "u");
    });
    suite
        .layer("lower", None, |root| {
            write(root, "etc/conf", "lower");
            write(root, "etc/other", "lower");
        })
        .await;
    let onto = Commit { parent: Some("lower".to_owned()), ..committed() };
    suite.snapshots.commit("top", "upper", onto).await.expect("it is rebased");
    let mounts = suite.view("view", Some("top")).await;
    suite.within(&mounts, |root| {
        let text = |name: &str| fs::read_to_string(root.join(name)).expect("it is read");
        assert_eq!(text("etc/conf"), "upper");
        assert_eq!(text("etc/other"), "lower");
        assert_eq!(text("only/upper"), "u");
    });
}

async fn a_hundred_and_twenty_eight_layers_are_mounted(suite: Suite<'_>) {
    let bottom = |root: &Path| {
        write(root, "bottom", "way at the bottom");
        write(root, "overwriteme", "FIRST!");
        write(root, "addhere/file-0", "same");
        write(root, "onlyme/bottom", "bye!");
    };
    let layer = |number: usize| {
        move |root: &Path| {
            write(root, "overwriteme", &format!("{number} WAS HERE!"));
            write(root, &format!("addhere/file-{number}"), "same");
            remove(root, "onlyme");
            write(root, &format!("onlyme/file-{number}"), "only me!");
        }
    };
    let layers: Vec<_> = (1..128).map(layer).collect();
    let mut changes: Vec<Change<'_>> = vec![&bottom];
    changes.extend(layers.iter().map(|layer| layer as Change<'_>));
    check(suite, &changes).await;
}
