// SPDX-License-Identifier: Apache-2.0
//! What every snapshotter is held to, as claims that can be run over any of them.
//!
//! The ideas are those of containerd's `core/snapshots/testsuite`. The claims mount what the
//! snapshotter answers with, and so need root. A snapshotter that forwards to another (over the wire,
//! over a database) is run through the same claims as the one it forwards to.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # async fn example() {
//! use snapshots::{Native, Snapshotter, suite};
//!
//! suite::run(Path::new("/var/tmp/suite"), async |root| {
//!     Arc::new(Native::open(root).expect("it opens")) as Arc<dyn Snapshotter>
//! })
//! .await;
//! # }
//! ```
mod content;
mod disk;
mod keys;
mod layers;
mod listing;
mod removal;
mod tree;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use fs_err as fs;
use futures_util::{future::BoxFuture, stream::TryStreamExt};
use mount::{Mount, Temporary};
use types::{Error, Filters, Kind as ErrorKind, Labels, Result};

use crate::{Commit, Info, Snapshotter};

pub use disk::{Disk, scratch};

/// One thing that has to hold of a snapshotter. It panics where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The claim, as a sentence.
    pub name: &'static str,
    /// Checks it on an empty snapshotter, with an empty directory to mount in.
    pub check: for<'a> fn(&'a dyn Snapshotter, &'a Path, Manner) -> BoxFuture<'a, ()>,
}

/// Mounts in a directory made below the one given.
pub type Mounter = fn(&[Mount], &Path) -> Result<Box<dyn Mounted>>;

/// In what snapshotters differ although they keep the contract.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Mounts what the snapshotter answers with in a directory made below the one given. Mounts that
    /// only a mount manager can carry out need one that does.
    pub mount: Mounter,
    /// A layer is one file, and so are its inodes; committed, it may take less than before.
    pub images: bool,
    /// The length of the longest name that a file may have.
    pub longest_name: usize,
    /// Names of claims that are left out, for the time that they take.
    pub without: &'static [&'static str],
}

impl Default for Manner {
    fn default() -> Self {
        let mount = |mounts: &[Mount], base: &Path| -> Result<Box<dyn Mounted>> {
            Ok(Box::new(Temporary::mount(mounts, base)?))
        };
        Self { mount, images: false, longest_name: 255, without: &[] }
    }
}

/// What is mounted for as long as this lives.
pub trait Mounted: Send {
    /// Where.
    fn path(&self) -> &Path;
    /// Unmounts, and says if that failed.
    fn close(self: Box<Self>) -> Result<()>;
}

impl Mounted for Temporary {
    fn path(&self) -> &Path {
        Self::path(self)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Self::close(*self)
    }
}

/// Turns `async fn`s into claims that bear their names.
macro_rules! list {
    ($($name:ident),* $(,)?) => {
        &[$($crate::suite::Claim {
            name: stringify!($name),
            check: |snapshots, work, manner| Box::pin($name(Suite { snapshots, work, manner })),
        }),*]
    };
}
use list;

/// All claims.
pub fn claims() -> impl Iterator<Item = &'static Claim> {
    [keys::CLAIMS, listing::CLAIMS, content::CLAIMS, layers::CLAIMS, removal::CLAIMS]
        .into_iter()
        .flatten()
}

/// Checks every claim, each on a new snapshotter that `make` opens in an empty directory below
/// `base`. The name of the claim at hand is printed, so that a failed test shows it.
pub async fn run(base: &Path, make: impl AsyncFn(PathBuf) -> Arc<dyn Snapshotter>) {
    run_in(Manner::default(), base, make).await;
}

/// The same for a snapshotter with ways of its own.
pub async fn run_in(
    manner: Manner,
    base: &Path,
    make: impl AsyncFn(PathBuf) -> Arc<dyn Snapshotter>,
) {
    for (number, claim) in claims().enumerate() {
        if manner.without.contains(&claim.name) {
            println!("{}: left out", claim.name);
            continue;
        }
        println!("{}", claim.name);
        let (root, work) =
            (base.join(format!("{number}/root")), base.join(format!("{number}/work")));
        fs::create_dir_all(&root).expect("the root is made");
        fs::create_dir_all(&work).expect("the work directory is made");
        let snapshots = make(root).await;
        (claim.check)(snapshots.as_ref(), &work, manner).await;
    }
}

/// What a claim is checked on.
#[derive(Clone, Copy)]
struct Suite<'a> {
    snapshots: &'a dyn Snapshotter,
    work: &'a Path,
    manner: Manner,
}

impl Suite<'_> {
    async fn prepare(self, key: &str, parent: Option<&str>) -> Vec<Mount> {
        self.snapshots.prepare(key, parent, kept()).await.expect("it is prepared")
    }

    async fn view(self, key: &str, parent: Option<&str>) -> Vec<Mount> {
        self.snapshots.view(key, parent, kept()).await.expect("it is viewed")
    }

    async fn commit(self, name: &str, key: &str) {
        self.snapshots.commit(name, key, committed()).await.expect("it is committed");
    }

    async fn remove(self, key: &str) {
        self.snapshots.remove(key).await.expect("it is removed");
    }

    async fn stat(self, key: &str) -> Info {
        self.snapshots.stat(key).await.expect("it is there")
    }

    /// Commits a snapshot to which `change` is made as its `name` over `parent`.
    async fn layer(self, name: &str, parent: Option<&str>, change: impl FnOnce(&Path)) {
        let key = format!("{name}-key");
        let mounts = self.prepare(&key, parent).await;
        self.within(&mounts, change);
        self.commit(name, &key).await;
    }

    /// An empty committed snapshot.
    async fn base(self, name: &str) {
        self.layer(name, None, |_| ()).await;
    }

    /// Mounts, for as long as `work` takes. Unmounts also when it panics.
    fn within<T>(self, mounts: &[Mount], work: impl FnOnce(&Path) -> T) -> T {
        assert!(!mounts.is_empty(), "there is something to mount");
        let mounted = (self.manner.mount)(mounts, self.work).expect("it is mounted");
        let outcome = work(mounted.path());
        mounted.close().expect("it is unmounted");
        outcome
    }

    /// Whether what is mounted takes `user.*` attributes: tmpfs does not, as a rule.
    async fn takes_user_attributes(self) -> bool {
        use rustix::fs::{XattrFlags, lsetxattr};
        let mounts = self.prepare("attributes", None).await;
        let takes = self.within(&mounts, |root| {
            lsetxattr(root, "user.test", b"1", XattrFlags::empty()).is_ok()
        });
        self.remove("attributes").await;
        takes
    }

    async fn walk(self, filters: &[&str]) -> Vec<Info> {
        let filters = Filters::parse(filters).expect("the filters parse");
        self.snapshots.walk(filters).try_collect().await.expect("the walk ends")
    }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Keeps a snapshot from being collected, where there is a collector.
fn kept() -> Labels {
    labels([(types::labels::GC_ROOT, "suite")])
}

fn kept_with<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    let mut labels = labels(pairs);
    labels.extend(kept());
    labels
}

fn committed() -> Commit {
    Commit { labels: kept(), parent: None }
}

#[track_caller]
fn refused<T>(outcome: Result<T>, kind: ErrorKind) -> Error {
    match outcome {
        Ok(_) => unexpected_success(kind),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}");
            error
        }
    }
}

#[track_caller]
#[allow(clippy::panic, reason = "a suite says what does not hold by panicking")]
fn unexpected_success(kind: ErrorKind) -> ! {
    panic!("this succeeded, and had to be refused: {}", kind.text())
}
