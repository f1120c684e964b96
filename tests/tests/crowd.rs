// SPDX-License-Identifier: Apache-2.0
//! Many clients that want the same image at once.

use std::time::Duration;

use e2e::{
    Fault, Image, KnobRegistry, Layer, Outcome, PATIENCE, Packed, Part, World, ensure,
    for_each_daemon, only_ours, wait,
};
use rustix::process::Signal;

use crate::store::{assert_empty, snapshots};

for_each_daemon!(ten_clients_fetch_each_blob_once, a_client_that_dies_takes_nobody_along);

only_ours!(ten_clients_unpack_each_layer_once, only_so_many_blobs_are_fetched_at_once);

const CLIENTS: usize = 10;

/// A registry that takes its time, so that clients meet.
fn slow() -> Outcome<(KnobRegistry, String, Packed)> {
    let registry = KnobRegistry::start()?;
    let packed = Image::three_layers()?.with(Layer::noise("srv/noise", 1_500_000, 11)).pack()?;
    let image = registry.put(&packed, "tools/three:1")?;
    registry.fault(Part::Blobs, Fault::Slow(64 * 1024, Duration::from_millis(30)));
    Ok((registry, image, packed))
}

fn all_pull(world: &World, image: &str) -> Outcome {
    let pull = || world.ctr.start(["images", "pull", "--plain-http", image]);
    let pulls = (0..CLIENTS).map(|_| pull()).collect::<Outcome<Vec<_>>>()?;
    for pull in pulls {
        pull.wait(PATIENCE)?.ok()?;
    }
    Ok(())
}

/// How often a blob was asked for.
fn fetches(registry: &KnobRegistry, digest: &str) -> usize {
    let seen = registry.seen();
    seen.iter().filter(|it| it.method == "GET" && it.path.ends_with(digest)).count()
}

fn ten_clients_fetch_each_blob_once(world: &mut World) -> Outcome {
    let (registry, image, packed) = slow()?;
    all_pull(world, &image)?;
    for blob in packed.blobs() {
        let times = fetches(&registry, &blob.digest);
        ensure!(times == 1, "{} was asked for {times} times", blob.digest);
    }
    assert_eq!(snapshots(world)?.len(), 4);
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?;
    assert_eq!(said, "new\n");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

fn ten_clients_unpack_each_layer_once(world: &mut World) -> Outcome {
    let (registry, image, _) = slow()?;
    let events = world.events()?;
    all_pull(world, &image)?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let is_over = || events.stdout().contains("/images/delete");
    wait::until("the last event", PATIENCE, || Ok(is_over().then_some(())))?;
    let said = events.stdout();
    let committed = said.lines().filter(|line| line.contains("/snapshot/commit")).count();
    let prepared = said.lines().filter(|line| line.contains("/snapshot/prepare")).count();
    ensure!(committed == 4, "{committed} layers were committed, {prepared} prepared");
    drop(registry);
    assert_empty(world)
}

fn a_client_that_dies_takes_nobody_along(world: &mut World) -> Outcome {
    let (registry, image, packed) = slow()?;
    let pull = || world.ctr.start(["images", "pull", "--plain-http", &image]);
    let first = pull()?;
    let noise = &packed.layers[3].digest;
    wait::until("the layer to come", PATIENCE, || {
        Ok((fetches(&registry, noise) > 0).then_some(()))
    })?;
    let others = [pull()?, pull()?, pull()?];
    first.signal(Signal::KILL)?;
    drop(first.wait(PATIENCE)?);
    for other in others {
        other.wait(PATIENCE)?.ok()?;
    }
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?;
    assert_eq!(said, "new\n");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    // What the dead one had leased goes when its lease does.
    for lease in world.ctr.lines(["leases", "ls", "-q"])? {
        world.ctr.ok(["leases", "rm", "--sync", &lease])?;
    }
    assert_empty(world)
}

fn only_so_many_blobs_are_fetched_at_once(world: &mut World) -> Outcome {
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    let keys = "max_concurrent_downloads = 1\nmax_concurrent_unpacks = 1\n\
                unpack_config = [{ snapshotter = \"native\" }]";
    let section = format!("[plugins.\"io.containerd.transfer.v1.local\"]\n{keys}\n");
    fs_err::write(&path, format!("{text}\n{section}"))?;
    world.daemon.terminate()?;
    world.daemon.restart()?;
    let (registry, image, _) = slow()?;
    world.ctr.refused(
        ["images", "pull", "--plain-http", &image],
        &["unable to initialize unpacker: no unpack platforms defined"],
    )?;
    world.ctr.ok(["images", "pull", "--plain-http", "--snapshotter", "native", &image])?;
    let most = registry.most_blobs_at_once();
    ensure!(most == 1, "{most} blobs were on their way at once");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}
