// SPDX-License-Identifier: Apache-2.0
//! What every manager of mounts is held to, as claims that can be run over any of them.
//!
//! A manager that forwards to another (over the wire) is run through the same claims as the one it
//! forwards to. The claims mount, and so need root and `mkfs.ext4`; both ends have to be on one
//! machine.
//!
//! ```no_run
//! # use std::{path::PathBuf, sync::Arc};
//! async fn example(open: impl AsyncFn(PathBuf) -> Arc<dyn mount::Manager>) {
//!     mount::suite::run(open).await;
//! }
//! ```
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use types::{FieldMask, Filters, Kind, Labels, Result};

use crate::{Activate, ActivationInfo, Manager, Mount, Temporary, mountinfo};

/// A manager to be tested. It handles type `loop`, and may make things in `work`.
pub struct Bench {
    /// The manager.
    pub manager: Arc<dyn Manager>,
    /// A directory of the claim's own.
    pub work: PathBuf,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("work", &self.work).finish_non_exhaustive()
    }
}

/// One thing that has to hold of a manager. It panics where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The claim, as a sentence.
    pub name: &'static str,
    /// Checks it.
    pub check: for<'a> fn(&'a Bench) -> BoxFuture<'a, ()>,
}

macro_rules! list {
    ($($name:ident),* $(,)?) => {
        &[$(Claim { name: stringify!($name), check: |bench| Box::pin($name(bench)) }),*]
    };
}

/// All claims.
pub const CLAIMS: &[Claim] = list![
    plain_mounts_are_left_alone,
    a_template_names_what_was_mounted_before,
    a_filesystem_is_made_and_mounted_through_a_loop_device,
    all_of_a_temporary_set_is_mounted,
    a_name_is_taken_once,
    what_fails_leaves_nothing_behind,
    labels_are_changed_and_nothing_else,
    activations_are_listed_by_filters,
    what_nobody_activated_is_not_found,
];

/// Checks all claims, each on a manager that `open` makes for a directory to work in.
pub async fn run(open: impl AsyncFn(PathBuf) -> Arc<dyn Manager>) {
    for claim in CLAIMS {
        println!("suite: {}", claim.name);
        let folder = TempDir::new().expect("a temporary directory");
        let work = fs::canonicalize(folder.path()).expect("it exists");
        let bench = Bench { manager: open(work.clone()).await, work };
        (claim.check)(&bench).await;
        let left = mountinfo::below(&bench.work).expect("mounts can be listed");
        assert!(left.is_empty(), "{} left mounts: {left:?}", claim.name);
    }
}

impl Bench {
    /// A directory with a file that says what it is called.
    fn directory(&self, name: &str) -> String {
        let path = self.work.join(name);
        fs::create_dir(&path).expect("it is new");
        fs::write(path.join("name"), name).expect("it can be written");
        path.display().to_string()
    }

    async fn activate(&self, name: &str, mounts: &[Mount]) -> Result<ActivationInfo> {
        self.manager.activate(name, mounts, Activate::default()).await
    }

    async fn deactivate(&self, name: &str) {
        self.manager.deactivate(name).await.expect("it is activated");
    }
}

/// A bind mount that is performed because something follows that names it.
fn two(source: &str) -> [Mount; 2] {
    [Mount::bind(source, ["rbind", "ro"]), format("bind", "{{ mount 0 }}", &["rbind"])]
}

fn format(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    let kind = format!("format/{kind}");
    Mount { kind, source: source.to_owned(), target: String::new(), options }
}

#[track_caller]
fn refused<T>(outcome: Result<T>, kind: Kind) -> String {
    let error = outcome.err().expect("it is refused");
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn is_mounted(path: &str) -> bool {
    Path::new(path).exists() && mountinfo::is_mount_point(path.as_ref()).expect("it exists")
}

async fn plain_mounts_are_left_alone(bench: &Bench) {
    let mounts = [Mount::bind(bench.directory("a"), ["rbind"])];
    assert_eq!(refused(bench.activate("n", &mounts).await, Kind::Unimplemented), "not implemented");
    refused(bench.manager.info("n").await, Kind::NotFound);
}

async fn a_template_names_what_was_mounted_before(bench: &Bench) {
    let lower = ["a", "b"].map(|name| Mount::bind(bench.directory(name), ["rbind", "ro"]));
    let [a, b] = lower;
    let overlay = format("overlay", "overlay", &["lowerdir={{ overlay 1 0 }}"]);
    let info = bench.activate("n", &[a, b, overlay]).await.expect("it is activated");
    let points: Vec<_> = info.active.iter().map(|it| it.mount_point.clone()).collect();
    assert_eq!(info.system.len(), 1);
    assert_eq!(info.system[0].kind, "overlay");
    assert_eq!(info.system[0].options, [format!("lowerdir={}:{}", points[1], points[0])]);
    assert_eq!(fs::read(Path::new(&points[1]).join("name")).expect("it is mounted"), b"b");
    let known = bench.manager.info("n").await.expect("it is activated");
    assert_eq!((known.name, known.system), ("n".to_owned(), info.system));
    assert_eq!(known.active, info.active);

    bench.deactivate("n").await;
    assert!(points.iter().all(|point| !Path::new(point).exists()), "{points:?}");
    refused(bench.manager.info("n").await, Kind::NotFound);
}

async fn a_filesystem_is_made_and_mounted_through_a_loop_device(bench: &Bench) {
    let image = bench.work.join("fs.img").display().to_string();
    let lower = bench.directory("lower");
    let mounts = [
        Mount {
            kind: "mkfs/loop".into(),
            source: image.clone(),
            target: String::new(),
            options: vec!["X-containerd.mkfs.size=8MiB".into(), "X-containerd.mkfs.fs=ext4".into()],
        },
        format("ext4", "{{ mount 0 }}", &[]),
        format(
            "mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 1 }}/work:0755",
                &format!("lowerdir={lower}"),
                "upperdir={{ mount 1 }}/upper",
                "workdir={{ mount 1 }}/work",
            ],
        ),
    ];
    for round in ["first", "second"] {
        let info = bench.activate("n", &mounts).await.expect("it is activated");
        let device = fs::read_link(&info.active[0].mount_point).expect("it is a link");
        assert!(device.starts_with("/dev"), "{}", device.display());
        assert!(!info.system[0].options.iter().any(|option| option.contains("X-containerd")));
        let root = Temporary::mount(&info.system, &bench.work).expect("it can be mounted");
        assert_eq!(fs::read(root.path().join("name")).expect("the lower is there"), b"lower");
        let is_there = root.path().join("first").exists();
        assert_eq!(is_there, round == "second", "what was written stays in the image");
        fs::write(root.path().join(round), "").expect("it is writable");
        root.close().expect("nobody uses it");
        bench.deactivate("n").await;
        let backing = sys::loop_device::backing(&device).ok();
        assert_ne!(backing.as_deref(), Some(Path::new(&image)), "the device is free");
    }
}

async fn all_of_a_temporary_set_is_mounted(bench: &Bench) {
    let mounts = [Mount::bind(bench.directory("a"), ["rbind", "ro"])];
    let options = Activate { temporary: true, ..Activate::default() };
    let info = bench.manager.activate("n", &mounts, options).await.expect("it is activated");
    let point = info.active[0].mount_point.clone();
    assert!(is_mounted(&point));
    assert_eq!(info.system, [Mount::bind(&point, ["rbind"])]);
    bench.deactivate("n").await;
    assert!(!is_mounted(&point));
}

async fn a_name_is_taken_once(bench: &Bench) {
    let mounts = two(&bench.directory("a"));
    bench.activate("n", &mounts).await.expect("it is activated");
    let again = bench.activate("n", &mounts).await;
    assert_eq!(refused(again, Kind::AlreadyExists), "mount \"n\": already exists");
    bench.activate("m", &mounts).await.expect("another name is free");
    bench.deactivate("m").await;
    bench.deactivate("n").await;
    bench.activate("n", &mounts).await.expect("it is free again");
    bench.deactivate("n").await;
}

async fn what_fails_leaves_nothing_behind(bench: &Bench) {
    let good = bench.directory("a");
    let missing = bench.work.join("missing").display().to_string();
    let mounts = [
        Mount::bind(&good, ["rbind"]),
        Mount::bind(missing, ["rbind"]),
        format("bind", "{{ mount 1 }}", &[]),
    ];
    let error = refused(bench.activate("n", &mounts).await, Kind::Unknown);
    assert!(error.starts_with("mount failed {bind "), "{error}");
    let mounts = [Mount::bind(&good, ["rbind"]), format("bind", "{{ mount 7 }}", &[])];
    let error = refused(bench.activate("n", &mounts).await, Kind::Unknown);
    assert!(error.ends_with("index out of bounds: 7, has 1 active mounts"), "{error}");
    refused(bench.manager.info("n").await, Kind::NotFound);
    let mounted = mountinfo::read().expect("mounts can be listed");
    let of_good = mounted.iter().filter(|it| Path::new(&good).ends_with(&it.root));
    assert_eq!(of_good.count(), 0);
    bench.activate("n", &two(&good)).await.expect("the name is free");
    bench.deactivate("n").await;
}

async fn labels_are_changed_and_nothing_else(bench: &Bench) {
    let options = Activate { labels: labels(&[("a", "1"), ("b", "2")]), ..Activate::default() };
    let mounts = two(&bench.directory("a"));
    let made = bench.manager.activate("n", &mounts, options).await.expect("it is activated");
    assert_eq!(made.labels, labels(&[("a", "1"), ("b", "2")]));
    let change = |pairs| ActivationInfo {
        name: "n".into(),
        labels: labels(pairs),
        ..ActivationInfo::default()
    };
    let mask = FieldMask::new(["labels.b", "labels.c"]);
    let changed = bench.manager.update(change(&[("c", "3"), ("d", "4")]), &mask).await;
    assert_eq!(changed.expect("labels may change").labels, labels(&[("a", "1"), ("c", "3")]));
    let changed = bench.manager.update(change(&[("e", "5")]), &FieldMask::new(["labels"])).await;
    let changed = changed.expect("labels may change");
    assert_eq!((&changed.labels, &changed.active), (&labels(&[("e", "5")]), &made.active));
    let refusal = bench.manager.update(change(&[]), &FieldMask::new(["active"])).await;
    refused(refusal, Kind::InvalidArgument);
    assert_eq!(bench.manager.info("n").await.expect("it is activated"), changed);
    bench.deactivate("n").await;
}

async fn activations_are_listed_by_filters(bench: &Bench) {
    let mounts = two(&bench.directory("a"));
    for (name, color) in [("one", "red"), ("two", "blue"), ("three", "red")] {
        let options = Activate { labels: labels(&[("color", color)]), ..Activate::default() };
        bench.manager.activate(name, &mounts, options).await.expect("it is activated");
    }
    for (filters, want) in [
        (&[][..], &["one", "three", "two"][..]),
        (&["labels.color==red"], &["one", "three"]),
        (&["name==two", "labels.color==green"], &["two"]),
    ] {
        let filters = Filters::parse(filters).expect("they are filters");
        let found = bench.manager.list(&filters).await.expect("it can be listed");
        let mut names: Vec<_> = found.into_iter().map(|info| info.name).collect();
        names.sort();
        assert_eq!(names, want);
    }
    for name in ["one", "two", "three"] {
        bench.deactivate(name).await;
    }
}

async fn what_nobody_activated_is_not_found(bench: &Bench) {
    refused(bench.manager.info("n").await, Kind::NotFound);
    refused(bench.manager.deactivate("n").await, Kind::NotFound);
    let info = ActivationInfo { name: "n".into(), ..ActivationInfo::default() };
    refused(bench.manager.update(info, &FieldMask::default()).await, Kind::NotFound);
    assert!(bench.manager.list(&Filters::default()).await.expect("it can be listed").is_empty());
}
