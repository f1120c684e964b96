// SPDX-License-Identifier: Apache-2.0
//! Registries that mean no good, or that are having a bad day: each outcome has its name, and
//! nothing is left behind.

use std::time::{Duration, Instant};

use e2e::{Auth, Blob, Fault, Image, KnobRegistry, Layer, Outcome, Part, Tar, World};
use e2e::{ensure, only_ours};
use serde_json::json;

use crate::faults::{pull, stocked};
use crate::store::{assert_empty, collect};

only_ours!(
    a_busy_registry_is_given_its_time,
    a_registry_that_is_busy_for_an_hour_is_left,
    a_burst_of_errors_passes,
    a_token_that_has_run_out_is_asked_for_again,
    another_host_hears_no_secrets,
    a_registry_that_knows_no_ranges_sends_it_all_again,
    a_body_that_is_too_long_is_refused,
    a_body_without_end_is_cut_off,
    a_manifest_that_is_too_large_is_not_fetched,
    indexes_in_indexes_come_to_an_end,
    a_layer_that_inflates_without_end_is_stopped,
);

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Pulls an image that works, and removes it without a trace.
fn assert_comes(world: &World, image: &str, more: &[&str]) -> Outcome {
    world.ctr.ok(pull(image, more))?;
    let said = world.ctr.ok(["run", "--rm", image, &world.id("x"), "cat", "/srv/twin"])?;
    ensure!(said == "new\n", "{image} said {said}");
    world.ctr.ok(["images", "rm", "--sync", image])?;
    assert_empty(world)
}

/// Pulls an image that must be refused with `words`, and leaves no trace.
fn assert_refused(world: &World, image: &str, words: &[&str]) -> Outcome {
    world.ctr.refused(pull(image, &[]), words)?;
    collect(world)?;
    assert_empty(world)
}

fn a_busy_registry_is_given_its_time(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    registry.fault_at_first(1, Part::Blob(packed.layers[0].digest.clone()), Fault::Busy(1));
    registry.fault_at_first(1, Part::Manifests, Fault::Busy(1));
    let begun = Instant::now();
    assert_comes(world, &image, &[])?;
    ensure!(begun.elapsed() >= Duration::from_secs(2), "it was not waited for");
    Ok(())
}

fn a_registry_that_is_busy_for_an_hour_is_left(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    registry.fault(Part::Blob(packed.layers[0].digest.clone()), Fault::Busy(3600));
    assert_refused(world, &image, &["429 Too Many Requests (Retry-After: ", "slow down"])?;
    registry.heal();
    assert_comes(world, &image, &[])
}

fn a_burst_of_errors_passes(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    registry.fault_at_first(2, Part::Manifests, Fault::Status(502));
    registry.fault_at_first(3, Part::Blob(packed.layers[1].digest.clone()), Fault::Status(503));
    assert_comes(world, &image, &[])
}

fn a_token_that_has_run_out_is_asked_for_again(world: &mut World) -> Outcome {
    let (registry, image, _) = stocked()?;
    registry.auth(Auth::Fleeting(3));
    assert_comes(world, &image, &[])?;
    let tokens = registry.seen().iter().filter(|seen| seen.path == "/token").count();
    ensure!(tokens > 1, "{tokens} tokens were asked for");
    Ok(())
}

fn another_host_hears_no_secrets(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let elsewhere = KnobRegistry::start()?;
    elsewhere.put(&packed, "tools/three:1")?;
    registry.fault(Part::Blobs, Fault::Elsewhere(elsewhere.host()));
    registry.auth(Auth::Basic("me", "secret"));
    assert_comes(world, &image, &["--user", "me:secret"])?;
    let seen = elsewhere.seen();
    ensure!(seen.iter().any(|it| it.path.contains("/blobs/")), "nobody came: {seen:?}");
    ensure!(seen.iter().all(|it| it.authorization.is_none()), "secrets were told: {seen:?}");
    Ok(())
}

fn a_registry_that_knows_no_ranges_sends_it_all_again(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let noise = Part::Blob(packed.layers[3].digest.clone());
    registry.fault(noise.clone(), Fault::NoRanges);
    registry.fault_at_first(1, noise, Fault::Cut(100_000));
    assert_comes(world, &image, &[])?;
    let ranges = registry.seen().iter().any(|seen| seen.from == Some(100_000));
    ensure!(ranges, "the rest was not asked for");
    Ok(())
}

fn a_body_that_is_too_long_is_refused(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let name = &packed.layers[0].digest;
    registry.fault(Part::Blob(name.clone()), Fault::Padded(10));
    assert_refused(world, &image, &[name])?;
    registry.heal();
    assert_comes(world, &image, &[])
}

fn a_body_without_end_is_cut_off(world: &mut World) -> Outcome {
    let (registry, image, packed) = stocked()?;
    let name = &packed.layers[0].digest;
    registry.fault(Part::Blob(name.clone()), Fault::Endless);
    assert_refused(world, &image, &[name, "more than"])?;
    registry.heal();
    let manifest = Part::Blob(packed.root.digest.clone());
    registry.fault(manifest, Fault::Endless);
    assert_refused(world, &image, &[&packed.root.digest])?;
    registry.heal();
    assert_comes(world, &image, &[])
}

fn a_manifest_that_is_too_large_is_not_fetched(world: &mut World) -> Outcome {
    let (registry, _, packed) = stocked()?;
    let mut huge = packed.root.descriptor();
    huge["size"] = json!(1_u64 << 30);
    let value = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [huge] });
    let image = registry.put_manifest(&Blob::json(INDEX, &value), "tools/three:huge")?;
    assert_refused(world, &image, &[&packed.root.digest, "1073741824"])?;
    let asked = registry.seen().iter().any(|seen| seen.path.ends_with(&packed.root.digest));
    ensure!(!asked, "it was asked for");
    Ok(())
}

fn indexes_in_indexes_come_to_an_end(world: &mut World) -> Outcome {
    let (registry, _, packed) = stocked()?;
    let mut inner = packed.root.clone();
    for _ in 0..20 {
        let value = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [inner.descriptor()],
        });
        inner = Blob::json(INDEX, &value);
        registry.put_manifest(&inner, "tools/three:deep")?;
    }
    let image = registry.put_manifest(&inner, "tools/three:deep")?;
    assert_refused(world, &image, &["is nested too deep"])
}

fn a_layer_that_inflates_without_end_is_stopped(world: &mut World) -> Outcome {
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    let section = "[plugins.\"io.containerd.differ.v1.walking\"]\nmax_layer_size = 4194304\n";
    fs_err::write(&path, format!("{text}\n{section}"))?;
    world.daemon.terminate()?;
    world.daemon.restart()?;
    let registry = KnobRegistry::start()?;
    let zeros = Tar::new().file("srv/zeros", 0o644, &vec![0; 16 << 20]);
    let packed = Image::three_layers()?.with(Layer::new(zeros)).pack()?;
    ensure!(packed.layers[3].bytes.len() < 1 << 20, "the layer is not small");
    let image = registry.put(&packed, "tools/zeros:1")?;
    assert_refused(world, &image, &["layer inflates to more than 4194304 bytes"])
}
