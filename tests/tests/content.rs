// SPDX-License-Identifier: Apache-2.0
//! The content store, as a client sees it.

use e2e::{Image, Outcome, World, digest, for_each_daemon};

use crate::store;

for_each_daemon!(
    a_blob_is_read_back_as_it_was_served,
    a_fetch_stores_content_and_unpacks_nothing,
    a_blob_is_taken_in_and_kept_by_its_digest,
    a_blob_with_the_wrong_digest_is_not_committed,
    a_blob_with_the_wrong_size_is_not_committed,
    a_blob_is_labelled,
    a_blob_is_removed,
);

const THREE: &str = "tools/three:1";
const ZEROS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Stores bytes under a ref, which nothing holds once they are a blob: the garbage collector runs
/// a moment after the start, and after that only when something is deleted.
fn ingest(world: &World, args: &[&str], bytes: &[u8]) -> Outcome<e2e::Output> {
    store::collect(world)?;
    let mut ctr = world.ctr.start_fed([&["content", "ingest"], args].concat())?;
    ctr.feed(bytes)?;
    ctr.hang_up();
    ctr.wait(e2e::PATIENCE)
}

fn a_blob_is_read_back_as_it_was_served(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    world.pull_packed(&packed, THREE)?;
    for blob in [&packed.root, &packed.config] {
        let text = world.ctr.ok(["content", "get", &blob.digest])?;
        assert_eq!(text.as_bytes(), blob.bytes);
    }
    Ok(())
}

fn a_fetch_stores_content_and_unpacks_nothing(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, THREE)?;
    world.ctr.ok(["content", "fetch", "--plain-http", &image])?;
    assert_eq!(store::blobs(world)?.len(), 5);
    assert_eq!(store::snapshots(world)?, Vec::<String>::new());
    Ok(())
}

fn a_blob_is_taken_in_and_kept_by_its_digest(world: &mut World) -> Outcome {
    let bytes = b"some bytes\n";
    ingest(world, &["a-ref"], bytes)?.ok()?;
    assert_eq!(store::blobs(world)?, [digest(bytes)]);
    assert_eq!(world.ctr.ok(["content", "get", &digest(bytes)])?, "some bytes\n");
    let path = world.daemon.content().join("blobs/sha256");
    assert!(path.join(digest(bytes).trim_start_matches("sha256:")).is_file());
    Ok(())
}

fn a_blob_with_the_wrong_digest_is_not_committed(world: &mut World) -> Outcome {
    let bytes = b"some bytes\n";
    let refused = ingest(world, &["--expected-digest", ZEROS, "a-ref"], bytes)?;
    refused.refused(&["unexpected commit digest", &digest(bytes), ZEROS])?;
    assert_eq!(store::blobs(world)?, Vec::<String>::new());
    Ok(())
}

fn a_blob_with_the_wrong_size_is_not_committed(world: &mut World) -> Outcome {
    ingest(world, &["--expected-size", "7000", "a-ref"], b"some bytes\n")?.refused(&[])?;
    assert_eq!(store::blobs(world)?, Vec::<String>::new());
    Ok(())
}

fn a_blob_is_labelled(world: &mut World) -> Outcome {
    ingest(world, &["a-ref"], b"labelled\n")?.ok()?;
    let name = digest(b"labelled\n");
    world.ctr.ok(["content", "label", &name, "kind=test"])?;
    assert_eq!(world.ctr.lines(["content", "ls", "-q", "labels.kind==test"])?, [name.as_str()]);
    assert!(world.ctr.ok(["content", "ls"])?.contains("kind=test"));
    world.ctr.refused(["content", "label", ZEROS, "a=b"], &[ZEROS, "not found"])
}

fn a_blob_is_removed(world: &mut World) -> Outcome {
    ingest(world, &["a-ref"], b"to be removed\n")?.ok()?;
    let name = digest(b"to be removed\n");
    world.ctr.ok(["content", "rm", &name])?;
    world.ctr.refused(["content", "get", &name], &[&name, "not found"])
}
