// SPDX-License-Identifier: Apache-2.0
//! The contract, over real stores.
use std::{io::Write, path::Path, sync::Arc};

use content::{Expected, Local, Memory, MemoryLabels, Store, blob};
use diff::{Apply, Compare, Differ, Walking, suite};
use mount::Mount;
use types::{Descriptor, Labels, media_types};

use super::overlays::Layers;
use super::{
    archive::{dir, file, tar},
    tree::{paths, temp, write},
};

fn bench(store: Arc<dyn Store>) -> suite::Bench {
    suite::Bench { differ: Arc::new(Walking::new(store.clone(), "/tmp")), store }
}

#[tokio::test]
async fn walking_does_what_a_differ_does_in_memory() {
    suite::run(async || bench(Arc::new(Memory::default()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn walking_does_what_a_differ_does_on_disk() {
    let top = temp();
    let count = std::cell::Cell::new(0);
    suite::run(async || {
        count.set(count.get() + 1);
        let root = top.path().join(count.get().to_string());
        bench(Arc::new(Local::with_labels(root, Arc::new(MemoryLabels::default())).unwrap()))
    })
    .await;
}

/// What a client does to commit a container: compare its snapshot with the parent's, apply the layer
/// on another parent, see the same files.
#[tokio::test]
async fn a_container_is_committed_and_unpacked_again() {
    let store = Arc::new(Memory::default());
    let differ = Walking::new(store, "/tmp");
    let base = tar([dir("etc"), file("etc/passwd", "root"), file("etc/motd", "hi"), dir("var")]);
    let mut container = Layers::new();
    container.apply(&base);
    let upper = container.push();
    let active = mount::Temporary::mount(&container.active(), Path::new("/tmp")).unwrap();
    write(active.path(), "etc/passwd", "root\nme");
    write(active.path(), "var/log/messages", "started");
    fs_err::remove_file(active.path().join("etc/motd")).unwrap();
    // It is still running, and yet it can be committed.
    let layer =
        differ.compare(&container.view(1), &container.active(), Compare::default()).await.unwrap();
    let want = paths(active.path());
    active.close().unwrap();
    assert_eq!(paths(&upper).len(), 6);

    let mut unpacked = Layers::new();
    unpacked.apply(&base);
    unpacked.push();
    differ.apply(&layer, &unpacked.active(), Apply::default()).await.unwrap();
    let mounted = unpacked.mounted();
    assert_eq!(paths(mounted.path()), want);
    mounted.close().unwrap();
}

#[tokio::test]
async fn a_layer_that_is_cut_off_says_so() {
    let store = Arc::new(Memory::default());
    let bytes = tar([file("f", &"content".repeat(100_000))]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    let mut gzip = encoder.finish().unwrap();
    gzip.truncate(gzip.len() / 2);
    let size = gzip.len() as u64;
    let digest = blob::write(&*store, "r", Expected::default(), gzip, Labels::new()).await;
    let layer = Descriptor::new(media_types::LAYER_GZIP, digest.unwrap(), size);
    let root = temp();
    let mounts = [Mount::bind(root.path().to_str().unwrap(), ["rw"])];
    let differ = Walking::new(store, "/tmp");
    let error = differ.apply(&layer, &mounts, Apply::default()).await.unwrap_err();
    assert_eq!(error.kind(), types::Kind::InvalidArgument);
    assert!(error.to_string().ends_with("gzip: unexpected EOF"), "{error}");
}
