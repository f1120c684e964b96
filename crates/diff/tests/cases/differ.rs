// SPDX-License-Identifier: Apache-2.0
//! The contract, over real stores.
use std::{io::Write, path::Path, sync::Arc};

use content::{Expected, Local, Memory, MemoryLabels, Store, blob};
use diff::{Apply, Compare, Differ, Processor, Walking, suite};
use mount::Mount;
use types::{Any, Descriptor, Digest, Labels, media_types};

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

/// A program as an operator might configure one: it turns letters and shows what it was given.
fn rot13(script: &str) -> Processor {
    Processor {
        id: "rot13".into(),
        accepts: vec!["application/rot13".into()],
        returns: media_types::LAYER_GZIP.into(),
        path: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec!["SECRET=17".into()],
        patience: None,
    }
}

async fn apply_with(processor: Processor, data: Vec<u8>, root: &Path) -> types::Result<Descriptor> {
    let store = Arc::new(Memory::default());
    let size = data.len() as u64;
    let digest = blob::write(&*store, "r", Expected::default(), data, Labels::new()).await;
    let layer = Descriptor::new("application/rot13", digest.unwrap(), size);
    let differ = Walking::new(store, "/tmp").with_processors(vec![processor]);
    let mounts = [Mount::bind(root.to_str().unwrap(), ["rw"])];
    let payloads = [("rot13".to_owned(), Any::new("example.Key", &b"key"[..]))].into();
    differ.apply(&layer, &mounts, Apply { payloads, sync_fs: false }).await
}

#[tokio::test]
async fn a_program_makes_an_unknown_layer_known() {
    let root = temp();
    let seen = root.path().join("seen");
    let script = format!(
        "(echo $STREAM_PROCESSOR_MEDIATYPE $SECRET; cat <&3) > {}; tr a-zA-Z n-za-mN-ZA-M",
        seen.display()
    );
    let bytes = tar([file("name", &"content".repeat(500_000))]);
    let turn = |&byte: &u8| match byte {
        b'a'..=b'z' => (byte - b'a' + 13) % 26 + b'a',
        b'A'..=b'Z' => (byte - b'A' + 13) % 26 + b'A',
        other => other,
    };
    let turned: Vec<u8> = bytes.iter().map(turn).collect();
    let applied = apply_with(rot13(&script), turned, root.path()).await;
    assert_eq!(applied.unwrap().digest, Digest::of(&bytes));
    assert_eq!(paths(root.path()), ["name", "seen"]);
    let seen = fs_err::read(seen).unwrap();
    assert_eq!(seen, b"application/rot13 17\n\x0a\x0bexample.Key\x12\x03key");
}

#[tokio::test]
async fn a_program_that_fails_is_heard() {
    let root = temp();
    let bytes = tar([file("f", "")]);
    let script = "cat; echo no such key >&2; exit 3";
    let error = apply_with(rot13(script), bytes, root.path()).await.unwrap_err();
    assert_eq!(error.to_string(), "stream processor rot13: code 3: no such key");
    // Also where what it wrote before could not be unpacked.
    let script = "head -c 1000; echo no such key >&2; exit 3";
    let error = apply_with(rot13(script), vec![b'x'; 5000], root.path()).await.unwrap_err();
    assert_eq!(error.to_string(), "stream processor rot13: code 3: no such key");
}

#[tokio::test]
async fn a_program_that_falls_silent_is_given_up() {
    let root = temp();
    let patience = Some(std::time::Duration::from_millis(200));
    let processor = Processor { patience, ..rot13("head -c 512 /dev/zero; exec sleep 1000") };
    let error = apply_with(processor, vec![0; 10], root.path()).await.unwrap_err();
    assert_eq!(error.kind(), types::Kind::DeadlineExceeded, "{error}");
    assert!(error.to_string().contains("stream processor rot13 wrote nothing"), "{error}");
}

/// Unpacking fails at once, and the program would go on for ever.
#[tokio::test]
async fn a_program_that_hangs_does_not_hold_up_a_failure() {
    let root = temp();
    let script = "head -c 262144 /dev/zero | tr '\\0' x; exec sleep 1000";
    let error = apply_with(rot13(script), vec![0; 10], root.path()).await.unwrap_err();
    assert!(error.to_string().contains("invalid tar header"), "{error}");
}
