// SPDX-License-Identifier: Apache-2.0
//! The mount manager: what it mounts lives as long as what it is referred to by, and no longer.
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use ::mount::{Activate, Activator, Handler, Loop, Manager, Mount, UnmountFlags, mountinfo, suite};
use ::records::Delete;
use fs_err as fs;
use metadata::{Db, Options, Removed};
use tempfile::TempDir;
use types::{Filters, Kind, Scope};

use super::world::{World, backends, container, labels, lease, refused};

const FOLDER: &str = "METADATA_MOUNTS_FOLDER";

/// What performs mounts below `folder`, and may make things in it.
fn activator(folder: &Path) -> Arc<Activator> {
    let handlers: BTreeMap<String, Arc<dyn Handler>> =
        [("loop".into(), Arc::new(Loop) as _)].into();
    let folder = fs::canonicalize(folder).unwrap();
    Arc::new(Activator::open(folder.join("t"), [folder], handlers).unwrap())
}

async fn open(folder: &Path) -> Db {
    let backends = backends(folder);
    let db = Db::open(folder.join("meta.sqlite"), backends, Options::default()).await.unwrap();
    db.manage_mounts(activator(folder)).await.unwrap();
    db
}

fn manager(db: &Db, namespace: &str) -> Arc<dyn Manager> {
    db.scope(Scope::new(namespace).unwrap()).mounts().unwrap()
}

/// A bind mount that is performed because something names it.
fn pair(folder: &Path) -> [Mount; 2] {
    let source = folder.join("source");
    fs::create_dir_all(&source).unwrap();
    let named = Mount { kind: "format/bind".into(), ..Mount::bind("{{ mount 0 }}", ["rbind"]) };
    [Mount::bind(source.display().to_string(), ["rbind"]), named]
}

/// What is mounted below the manager's directory, and takes it away when the test is over.
struct Mounted(PathBuf);

impl Mounted {
    fn count(&self) -> usize {
        mountinfo::below(&self.0).unwrap().len()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(::mount::unmount_recursive(&self.0, UnmountFlags::DETACH));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_managed_as_the_suite_says() {
    suite::run(async |work| manager(&open(&work).await, "suite")).await;
}

#[tokio::test]
async fn mounts_go_when_nothing_refers_to_them() {
    let world = World::new().await;
    let folder = world.folder.path();
    let mounted = Mounted(folder.join("t"));
    world.db.manage_mounts(activator(folder)).await.unwrap();
    let (scoped, manager) = (world.at("n"), manager(&world.db, "n"));
    scoped.containers().create(container("c", "rootfs")).await.unwrap();
    let of = labels([("containerd.io/gc.bref.container", "c")]);
    let options = Activate { labels: of, ..Activate::default() };
    manager.activate("kept", &pair(folder), options).await.unwrap();
    manager.activate("loose", &pair(folder), Activate::default()).await.unwrap();
    scoped.leases().create(lease("l", labels([]))).await.unwrap();
    let leased = world.under("n", "l").mounts().unwrap();
    leased.activate("leased", &pair(folder), Activate::default()).await.unwrap();
    assert_eq!(mounted.count(), 3);

    let removed = world.db.collect().await.unwrap().removed;
    assert_eq!(removed, Removed { mounts: 1, ..Removed::default() });
    assert_eq!(mounted.count(), 2);
    let sync = || Delete { sync: true, target: None };
    scoped.leases().delete("l", sync()).await.unwrap();
    assert_eq!(mounted.count(), 1);
    refused(manager.info("leased").await, Kind::NotFound);
    manager.info("kept").await.unwrap();
    scoped.containers().delete("c", sync()).await.unwrap();
    assert_eq!(mounted.count(), 0);
    assert_eq!(fs::read_dir(folder.join("t")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_in_use_is_unmounted_when_it_is_not() {
    let world = World::new().await;
    let folder = world.folder.path();
    let mounted = Mounted(folder.join("t"));
    world.db.manage_mounts(activator(folder)).await.unwrap();
    let manager = manager(&world.db, "n");
    let info = manager.activate("m", &pair(folder), Activate::default()).await.unwrap();
    let busy = fs::File::create(Path::new(&info.active[0].mount_point).join("file")).unwrap();
    let error = refused(manager.deactivate("m").await, Kind::Unknown);
    assert!(error.ends_with("device or resource busy"), "{error}");
    refused(manager.info("m").await, Kind::NotFound);
    assert_eq!(mounted.count(), 1);
    drop(busy);
    assert_eq!(world.db.collect().await.unwrap().failures, [""; 0]);
    assert_eq!(mounted.count(), 0);
}

#[tokio::test]
async fn namespaces_do_not_see_each_other_s_mounts() {
    let world = World::new().await;
    let folder = world.folder.path();
    let _mounted = Mounted(folder.join("t"));
    world.db.manage_mounts(activator(folder)).await.unwrap();
    let (one, two) = (manager(&world.db, "one"), manager(&world.db, "two"));
    one.activate("m", &pair(folder), Activate::default()).await.unwrap();
    refused(two.deactivate("m").await, Kind::NotFound);
    two.activate("m", &pair(folder), Activate::default()).await.unwrap();
    two.deactivate("m").await.unwrap();
    one.info("m").await.unwrap();
    one.deactivate("m").await.unwrap();
}

#[tokio::test]
async fn what_somebody_else_unmounted_is_forgotten() {
    let folder = TempDir::new().unwrap();
    let mounted = Mounted(folder.path().join("t"));
    let db = open(folder.path()).await;
    let manager = manager(&db, "n");
    for name in ["collected", "replaced"] {
        manager.activate(name, &pair(folder.path()), Activate::default()).await.unwrap();
    }
    ::mount::unmount_recursive(&mounted.0, UnmountFlags::empty()).unwrap();
    manager.activate("replaced", &pair(folder.path()), Activate::default()).await.unwrap();
    assert_eq!(mounted.count(), 1);
    let found = manager.list(&Filters::default()).await.unwrap();
    assert_eq!(found.len(), 2);
    manager.deactivate("replaced").await.unwrap();
    db.collect().await.unwrap();
    assert!(manager.list(&Filters::default()).await.unwrap().is_empty());
}

/// Not a test: what the test below runs and kills.
#[tokio::test]
#[ignore = "the child process of another test"]
async fn child() {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let db = open(&folder).await;
    let manager = manager(&db, "n");
    let scoped = db.scope(Scope::new("n").unwrap());
    drop(scoped.containers().create(container("c", "rootfs")).await);
    for number in 0.. {
        let of = labels([("containerd.io/gc.bref.container", "c")]);
        let options = Activate { labels: of, ..Activate::default() };
        let name = format!("m{}-{number}", std::process::id());
        manager.activate(&name, &pair(&folder), options).await.unwrap();
        println!("+ {name}");
        if number % 2 == 0 {
            manager.deactivate(&name).await.unwrap();
            println!("- {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_mounted_unrecorded_after_a_kill() {
    let folder = TempDir::new().unwrap();
    let mounted = Mounted(folder.path().join("t"));
    for lines in [1, 6, 9, 16] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "cases::mounts::child"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let said = out.lines().map(Result::unwrap).filter(|line| line.starts_with(['+', '-']));
        let last = said.take(lines).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let db = open(folder.path()).await;
        let found = manager(&db, "n").list(&Filters::default()).await.unwrap();
        assert_eq!(mounted.count(), found.len(), "after {last}");
        let is_there = |name: &str| found.iter().any(|info| info.name == name);
        let (sign, name) = last.split_once(' ').unwrap();
        // The next step may have begun already; only what was answered is promised.
        assert!(sign == "-" && !is_there(name) || sign == "+", "after {last}");
        let ids = fs::read_dir(&mounted.0).unwrap().count();
        assert_eq!(ids, found.len(), "no directory is left");
    }
}
