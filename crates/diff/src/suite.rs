// SPDX-License-Identifier: Apache-2.0
//! What every differ is held to, as claims that can be run over any of them.
//!
//! A differ that forwards to another (over the wire) is run through the same claims as the one it
//! forwards to. The claims bind real directories, so both ends have to be on one machine.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example() {
//! use diff::{Walking, suite};
//!
//! suite::run(async || {
//!     let store: Arc<dyn content::Store> = Arc::new(content::Memory::default());
//!     suite::Bench { differ: Arc::new(Walking::new(store.clone(), "/tmp")), store }
//! })
//! .await;
//! # }
//! ```
use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use content::{Expected, Store, blob};
use fs_err as fs;
use futures_util::future::BoxFuture;
use mount::Mount;
use tempfile::TempDir;
use types::{Any, Descriptor, Digest, Kind, Labels, labels, media_types};

use crate::{
    Apply, BEFORE_PARENT, Compare, Differ, NEEDS_PARENT,
    tar::{Entry, Kind as EntryKind, Time, Writer},
};

/// A differ to be tested, and the store that it reads from and writes to.
pub struct Bench {
    /// The differ.
    pub differ: Arc<dyn Differ>,
    /// Its store.
    pub store: Arc<dyn Store>,
}

/// One thing that has to hold of a differ. It panics where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The claim, as a sentence.
    pub name: &'static str,
    /// Checks it.
    pub check: for<'a> fn(&'a Bench) -> BoxFuture<'a, ()>,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bench")
    }
}

macro_rules! list {
    ($($name:ident),* $(,)?) => {
        &[$(Claim { name: stringify!($name), check: |bench| Box::pin($name(bench)) }),*]
    };
}

/// All claims.
pub const CLAIMS: &[Claim] = list![
    a_layer_is_applied_and_described,
    a_compressed_layer_is_described_by_what_it_inflates_to,
    whiteouts_are_applied,
    a_layer_unpacked_before_its_parent_keeps_whiteouts_and_tells_what_it_needs,
    comparing_gives_a_layer_that_can_be_applied,
    a_layer_is_made_in_the_format_that_is_asked_for,
    the_same_trees_give_the_same_layer,
    a_layer_that_exists_is_labelled_all_the_same,
    an_unknown_media_type_is_not_implemented,
    missing_content_is_not_found,
    a_broken_archive_is_an_invalid_argument,
    no_ingest_is_left_behind,
];

/// Checks every claim, each on a new bench. The name of the claim at hand is printed, so that a
/// failed test shows it.
pub async fn run(make: impl AsyncFn() -> Bench) {
    for claim in CLAIMS {
        println!("{}", claim.name);
        (claim.check)(&make().await).await;
    }
}

/// A directory that is mounted as it is.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn with(self, name: &str, content: &str) -> Self {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("made");
        fs::write(path, content).expect("written");
        self
    }

    fn mounts(&self) -> [Mount; 1] {
        [Mount::bind(self.path().to_str().expect("temporary names are ASCII"), ["rw", "rbind"])]
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).expect("the file is there")
    }
}

/// An archive of files by name and content.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, content) in files {
        let entry = Entry {
            name: (*name).into(),
            kind: EntryKind::File,
            mode: 0o640,
            uid: 12,
            size: content.len() as u64,
            modified: Time { seconds: 1_000_000, nanos: 0 },
            ..Entry::default()
        };
        writer.append(&entry).expect("writing to memory");
        writer.data(content.as_bytes()).expect("writing to memory");
    }
    writer.finish().expect("writing to memory")
}

impl Bench {
    async fn put(&self, media_type: &str, data: Vec<u8>) -> Descriptor {
        let size = data.len() as u64;
        let reference = format!("put-{}", Digest::of(&data));
        let written =
            blob::write(&*self.store, &reference, Expected::default(), data, Labels::new()).await;
        Descriptor::new(media_type, written.expect("the blob is stored"), size)
    }

    async fn apply(&self, layer: &Descriptor, tree: &Tree) -> types::Result<Descriptor> {
        self.differ.apply(layer, &tree.mounts(), Apply::default()).await
    }

    async fn compare(
        &self,
        lower: &Tree,
        upper: &Tree,
        options: Compare,
    ) -> types::Result<Descriptor> {
        self.differ.compare(&lower.mounts(), &upper.mounts(), options).await
    }
}

async fn a_layer_is_applied_and_described(bench: &Bench) {
    let bytes = tar(&[("etc/motd", "hello")]);
    let layer = bench.put(media_types::LAYER, bytes.clone()).await;
    let tree = Tree::new();
    let applied = bench.apply(&layer, &tree).await.expect("applied");
    let size = bytes.len() as u64;
    assert_eq!(applied, Descriptor::new(media_types::LAYER, Digest::of(bytes), size));
    assert_eq!(tree.read("etc/motd"), "hello");
    let meta = fs::metadata(tree.path().join("etc/motd")).expect("it is there");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o640, 12, 1_000_000));
}

async fn a_compressed_layer_is_described_by_what_it_inflates_to(bench: &Bench) {
    let bytes = tar(&[("f", "compressed")]);
    let zstd = zstd::encode_all(&bytes[..], 0).expect("compressing in memory");
    for media_type in [media_types::LAYER_ZSTD, media_types::LAYER_GZIP, media_types::DOCKER_LAYER]
    {
        let layer = bench.put(media_type, zstd.clone()).await;
        let tree = Tree::new();
        let applied = bench.apply(&layer, &tree).await.expect("applied");
        assert_eq!(applied.digest, Digest::of(&bytes), "{media_type}");
        assert_eq!(tree.read("f"), "compressed");
    }
}

async fn whiteouts_are_applied(bench: &Bench) {
    let tree = Tree::new().with("d/old", "").with("gone", "").with("kept", "");
    let bytes = tar(&[("d/.wh..wh..opq", ""), ("d/new", ""), (".wh.gone", "")]);
    let layer = bench.put(media_types::LAYER, bytes).await;
    bench.apply(&layer, &tree).await.expect("applied");
    let exists = |name: &str| tree.path().join(name).exists();
    assert!(exists("d/new") && exists("kept") && !exists("d/old") && !exists("gone"));
}

async fn a_layer_unpacked_before_its_parent_keeps_whiteouts_and_tells_what_it_needs(bench: &Bench) {
    for (name, needs_parent) in [(".wh.gone", "false"), ("d/.wh.gone", "true")] {
        let layer = bench.put(media_types::LAYER, tar(&[(name, "")])).await;
        let tree = Tree::new();
        let payloads = [(BEFORE_PARENT.to_owned(), Any::default())].into();
        let options = Apply { payloads, ..Apply::default() };
        let applied = bench.differ.apply(&layer, &tree.mounts(), options).await.expect("applied");
        assert_eq!(applied.annotations[NEEDS_PARENT], needs_parent, "{name}");
        let whiteout = tree.path().join(name.replace(".wh.", ""));
        let meta = fs::symlink_metadata(whiteout).expect("it is there");
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{name}");
    }
}

async fn comparing_gives_a_layer_that_can_be_applied(bench: &Bench) {
    let lower = Tree::new().with("same/a", "1").with("changed", "1").with("gone", "1");
    let upper = Tree::new().with("changed", "22").with("new/b", "2");
    for name in ["same/a", "same"] {
        fs::create_dir_all(upper.path().join("same")).expect("made");
        let (from, to) = (lower.path().join(name), upper.path().join(name));
        if from.is_file() {
            fs::hard_link(from, to).expect("the same file");
        }
    }
    let options = Compare {
        labels: Labels::from([("mine".into(), "1".into())]),
        reference: "diff-1".into(),
        ..Compare::default()
    };
    let layer = bench.compare(&lower, &upper, options).await.expect("compared");
    assert_eq!(layer.media_type, media_types::LAYER_GZIP);
    let applied = bench.apply(&layer, &lower).await.expect("applied");
    let info = bench.store.info(&layer.digest).await.expect("the layer is stored");
    assert_eq!(info.size, layer.size);
    assert_eq!(info.labels[labels::UNCOMPRESSED], applied.digest.as_str());
    assert_eq!(info.labels["mine"], "1");
    let read = |name| lower.read(name);
    assert_eq!(
        (read("changed"), read("new/b"), read("same/a")),
        ("22".into(), "2".into(), "1".into())
    );
    assert!(!lower.path().join("gone").exists());
}

async fn a_layer_is_made_in_the_format_that_is_asked_for(bench: &Bench) {
    let (lower, upper) = (Tree::new(), Tree::new().with("f", "x"));
    for (media_type, magic) in [
        (media_types::LAYER, &b"f\0"[..]),
        (media_types::LAYER_GZIP, &[0x1f, 0x8b]),
        (media_types::LAYER_ZSTD, &[0x28, 0xb5, 0x2f, 0xfd]),
        (media_types::DOCKER_LAYER_GZIP, &[0x1f, 0x8b]),
    ] {
        let options = Compare { media_type: media_type.into(), ..Compare::default() };
        let layer = bench.compare(&lower, &upper, options).await.expect("compared");
        assert_eq!(layer.media_type, media_type);
        let data = blob::read(&*bench.store, &layer.digest, 1 << 20).await.expect("read");
        assert!(data.starts_with(magic), "{media_type}");
    }
}

async fn the_same_trees_give_the_same_layer(bench: &Bench) {
    let options = || Compare {
        source_date_epoch: Some(std::time::UNIX_EPOCH + Duration::from_secs(1)),
        ..Compare::default()
    };
    let tree = || Tree::new().with("b", "1").with("a/c", "2");
    let one = bench.compare(&Tree::new(), &tree(), options()).await.expect("compared");
    let two = bench.compare(&Tree::new(), &tree(), options()).await.expect("compared");
    assert_eq!(one, two);
}

async fn a_layer_that_exists_is_labelled_all_the_same(bench: &Bench) {
    let (lower, upper) = (Tree::new(), Tree::new().with("f", "x"));
    let first = bench.compare(&lower, &upper, Compare::default()).await.expect("compared");
    let mut info = bench.store.info(&first.digest).await.expect("stored");
    let label = info.labels.remove(labels::UNCOMPRESSED).expect("labelled");
    let mask = types::FieldMask::new(["labels"]);
    bench.store.update(info, &mask).await.expect("updated");
    let again = bench.compare(&lower, &upper, Compare::default()).await.expect("compared");
    assert_eq!(first, again);
    let info = bench.store.info(&first.digest).await.expect("stored");
    assert_eq!(info.labels[labels::UNCOMPRESSED], label);
}

async fn an_unknown_media_type_is_not_implemented(bench: &Bench) {
    let (lower, upper) = (Tree::new(), Tree::new());
    let options = Compare { media_type: "text/plain".into(), ..Compare::default() };
    let error = bench.compare(&lower, &upper, options).await.expect_err("unknown");
    assert_eq!(error.kind(), Kind::Unimplemented);
    assert!(error.to_string().contains("unsupported diff media type: text/plain"), "{error}");
    let encrypted = format!("{}+encrypted", media_types::LAYER_GZIP);
    let layer = bench.put(&encrypted, tar(&[])).await;
    let error = bench.apply(&layer, &lower).await.expect_err("unknown");
    assert_eq!(error.kind(), Kind::Unimplemented);
}

async fn missing_content_is_not_found(bench: &Bench) {
    let layer = Descriptor::new(media_types::LAYER, Digest::of("no such layer"), 1);
    let error = bench.apply(&layer, &Tree::new()).await.expect_err("missing");
    assert_eq!(error.kind(), Kind::NotFound);
}

async fn a_broken_archive_is_an_invalid_argument(bench: &Bench) {
    let layer = bench.put(media_types::LAYER, vec![b'x'; 1024]).await;
    let error = bench.apply(&layer, &Tree::new()).await.expect_err("broken");
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("invalid tar header"), "{error}");
}

async fn no_ingest_is_left_behind(bench: &Bench) {
    let missing = [Mount::bind("/no/such/directory", ["ro"])];
    let compared = bench.differ.compare(&missing, &missing, Compare::default()).await;
    compared.expect_err("there is nothing to compare");
    let left = bench.store.statuses(&types::Filters::default()).await.expect("listed");
    assert!(left.is_empty(), "{left:?}");
}
