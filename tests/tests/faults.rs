// SPDX-License-Identifier: Apache-2.0
//! Registries that refuse, fail and lie.

use std::time::Duration;

use e2e::{
    Auth, Compression, Fault, Image, KnobRegistry, Layer, Outcome, PATIENCE, Packed, Part, Tar,
    World, digest, ensure, for_each_daemon, only_ours, wait::until,
};

use crate::store::{assert_empty, blobs, collect, snapshots};

for_each_daemon!(
    a_name_and_a_password_open_the_door,
    a_token_is_fetched_for_a_name_and_a_password,
    a_token_is_fetched_for_nobody,
    without_a_password_the_door_stays_shut,
    an_image_that_is_not_there_is_not_found,
    a_registry_that_fails_is_named_with_its_status,
    a_blob_that_is_not_there_is_not_found,
    a_cut_body_is_taken_up_where_it_was_cut,
    a_body_that_never_comes_fails_the_pull,
    a_lying_registry_is_found_out,
    a_slow_registry_is_waited_for,
);

only_ours!(a_pull_goes_on_where_its_daemon_was_killed);

/// A registry with an image, and what was packed into it.
pub(super) fn stocked() -> Outcome<(KnobRegistry, String, Packed)> {
    let registry = KnobRegistry::start()?;
    let packed = Image::three_layers()?.with(Layer::noise("srv/noise", 300_000, 11)).pack()?;
    let image = registry.put(&packed, "tools/three:1")?;
    Ok((registry, image, packed))
}

pub(super) fn pull<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["images", "pull", "--plain-http"], more, &[image]].concat()
}

/// Checks that a pull which failed can be repeated with success once what it left was collected,
/// and leaves nothing when the image is removed.
fn assert_recovers(world: &World, registry: &KnobRegistry, image: &str) -> Outcome {
    collect(world)?;
    assert_eq!(snapshots(world)?, Vec::<String>::new());
    registry.heal();
    registry.auth(Auth::Open);
    world.ctr.ok(pull(image, &[]))?;
    let said = world.ctr.ok(["run", "--rm", image, &world.id("x"), "cat", "/srv/twin"])?;
    assert_eq!(said, "new\n");
    world.ctr.ok(["images", "rm", "--sync", image])?;
    assert_empty(world)
}

fn a_name_and_a_password_open_the_door(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.auth(Auth::Basic("me", "secret"));
    world.ctr.ok(pull(&image, &["--user", "me:secret"])).map(drop)
}

fn a_token_is_fetched_for_a_name_and_a_password(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.auth(Auth::Bearer("me", "secret"));
    world.ctr.ok(pull(&image, &["--user", "me:secret"]))?;
    assert!(registry.seen().iter().any(|seen| seen.path == "/token"));
    Ok(())
}

fn a_token_is_fetched_for_nobody(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.auth(Auth::Anonymous);
    world.ctr.ok(pull(&image, &[])).map(drop)
}

fn without_a_password_the_door_stays_shut(world: &mut World) -> Outcome {
    for auth in [Auth::Basic("me", "secret"), Auth::Bearer("me", "secret")] {
        let (registry, image, _) = stocked()?;
        registry.auth(auth);
        for more in [&[][..], &["--user", "me:wrong"]] {
            world.ctr.refused(pull(&image, more), &["authoriz"])?;
        }
        assert_recovers(world, &registry, &image)?;
    }
    Ok(())
}

fn an_image_that_is_not_there_is_not_found(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.fault(Part::Manifests, Fault::Status(404));
    world.ctr.refused(pull(&image, &[]), &[&image, "not found"])?;
    assert_recovers(world, &registry, &image)
}

fn a_registry_that_fails_is_named_with_its_status(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.fault(Part::Manifests, Fault::Status(500));
    world.ctr.refused(pull(&image, &[]), &["tools/three", "500 Internal Server Error"])?;
    assert_recovers(world, &registry, &image)
}

fn a_blob_that_is_not_there_is_not_found(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let name = &packed.layers[1].digest;
    registry.fault(Part::Blob(name.clone()), Fault::Status(404));
    world.ctr.refused(pull(&image, &[]), &[name, "not found"])?;
    assert_recovers(world, &registry, &image)
}

fn a_cut_body_is_taken_up_where_it_was_cut(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    registry.fault(Part::Blob(packed.layers[3].digest.clone()), Fault::Cut(100_000));
    world.ctr.ok(pull(&image, &[]))?;
    let offsets: Vec<u64> = registry.seen().iter().filter_map(|seen| seen.from).collect();
    assert!(offsets.contains(&100_000), "asked from {offsets:?}");
    assert_eq!(blobs(world)?.len(), 6);
    Ok(())
}

fn a_body_that_never_comes_fails_the_pull(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let name = &packed.layers[0].digest;
    registry.fault(Part::Blob(name.clone()), Fault::Cut(0));
    let pulled = world.ctr.run(pull(&image, &[]))?;
    pulled.refused(&[])?;
    let told = [name.as_str(), "unexpected EOF"].iter().any(|word| pulled.stderr.contains(word));
    assert!(told, "{}", pulled.told());
    assert_recovers(world, &registry, &image)
}

fn a_lying_registry_is_found_out(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let name = &packed.layers[0].digest;
    registry.fault(Part::Blob(name.clone()), Fault::Corrupt);
    world.ctr.refused(pull(&image, &[]), &["unexpected commit digest", name])?;
    assert!(!blobs(world)?.contains(name));
    assert_recovers(world, &registry, &image)
}

fn a_slow_registry_is_waited_for(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.fault(Part::Blobs, Fault::Slow(64 * 1024, Duration::from_millis(50)));
    world.ctr.ok(pull(&image, &[])).map(drop)
}

/// The daemon dies while a layer is on its way into the store and into a snapshot at once. What the
/// store has of it was not lost, so that is not fetched again; and nobody can see half of anything.
fn a_pull_goes_on_where_its_daemon_was_killed(world: &mut World) -> Outcome {
    const SENT: usize = 3 << 20;
    let bytes: Vec<u8> =
        (0..4_u32 << 20).map(|it| (it.wrapping_mul(0x9E37_79B1) >> 13) as u8).collect();
    let layer =
        Layer::new(Tar::new().file("srv/large", 0o644, &bytes)).compressed(Compression::None);
    let packed = Image::busybox()?.with(layer).pack()?;
    let registry = KnobRegistry::start()?;
    let image = registry.put(&packed, "tools/large:1")?;
    let large = packed.layers.last().expect("the image has layers");
    registry.fault_at_first(1, Part::Blob(large.digest.clone()), Fault::Held(SENT));

    let client = world.ctr.start(pull(&image, &[]))?;
    until("the middle of a pull", PATIENCE, || {
        Ok((stored(world, large.bytes.len())? >= SENT as u64 / 2).then_some(()))
    })?;
    world.daemon.kill9()?;
    let kept = stored(world, large.bytes.len())?;
    client.wait(PATIENCE)?.refused(&[])?;
    world.daemon.restart()?;
    assert!(!blobs(world)?.contains(&large.digest));

    let before = registry.seen().len();
    world.ctr.ok(pull(&image, &[]))?;
    let asked = registry.seen().split_off(before);
    let again: Vec<_> = asked.iter().filter(|it| it.path.contains("/blobs/")).collect();
    let of_large: Vec<_> = again.iter().filter(|it| it.path.ends_with(&large.digest)).collect();
    ensure!(of_large.len() == 1 && of_large[0].from == Some(kept), "{kept} kept, asked: {again:?}");
    ensure!(again.iter().all(|it| it.from != Some(0)), "what was begun is begun again: {again:?}");

    let sum = world.ctr.ok([
        "run",
        "--rm",
        &image,
        &world.id("x"),
        "/bin/busybox",
        "sha256sum",
        "/srv/large",
    ])?;
    assert_eq!(format!("sha256:{}", crate::store::first_word(&sum)), digest(&bytes));
    assert_eq!(blobs(world)?.len(), packed.blobs().count() + 1);
    assert_eq!(stored(world, large.bytes.len())?, 0, "an ingest is left");
    Ok(())
}

/// How much there is of the ingest that is to have `total` bytes.
fn stored(world: &World, total: usize) -> Outcome<u64> {
    let Ok(ingests) = fs_err::read_dir(world.daemon.content().join("ingest")) else { return Ok(0) };
    for ingest in ingests {
        let folder = ingest?.path();
        let is_it = fs_err::read_to_string(folder.join("total"))
            .is_ok_and(|it| it.trim() == total.to_string());
        if is_it {
            // It becomes a blob by being renamed.
            return Ok(fs_err::metadata(folder.join("data")).map_or(0, |data| data.len()));
        }
    }
    Ok(0)
}
