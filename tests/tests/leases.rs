// SPDX-License-Identifier: Apache-2.0
//! Leases: what keeps things from the garbage collector.

use std::time::Duration;

use e2e::{Image, Outcome, PATIENCE, World, for_each_daemon, wait};

use crate::store::{assert_empty, collect, first_word, snapshots};

for_each_daemon!(
    a_lease_is_made_listed_and_removed,
    what_a_lease_holds_outlives_its_image,
    an_expired_lease_is_collected,
);

fn ids(world: &World) -> Outcome<Vec<String>> {
    Ok(world.ctr.lines(["leases", "ls"])?.iter().skip(1).map(|line| first_word(line)).collect())
}

fn a_lease_is_made_listed_and_removed(world: &mut World) -> Outcome {
    world.ctr.ok(["leases", "create", "--id", "mine", "kind=test"])?;
    assert_eq!(ids(world)?, ["mine"]);
    assert!(world.ctr.ok(["leases", "ls"])?.contains("kind=test"));
    world.ctr.refused(["leases", "create", "--id", "mine"], &["mine", "already exists"])?;
    world.ctr.ok(["leases", "rm", "mine"])?;
    assert_eq!(ids(world)?, Vec::<String>::new());
    world.ctr.refused(["leases", "rm", "mine"], &["lease \"mine\": not found"])
}

fn what_a_lease_holds_outlives_its_image(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    let target = world.daemon.home().join("mnt");
    fs_err::create_dir(&target)?;
    let place = target.display().to_string();
    // Mounting an image makes a lease of the mount point's name that holds the snapshot.
    world.ctr.ok(["images", "mount", &image, &place])?;
    assert_eq!(ids(world)?, [place.as_str()]);
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_eq!(snapshots(world)?.len(), 4);
    assert_eq!(fs_err::read_to_string(target.join("srv/twin"))?, "new\n");
    world.ctr.ok(["images", "unmount", &place])?;
    world.ctr.ok(["leases", "rm", "--sync", &place])?;
    assert_empty(world)
}

fn an_expired_lease_is_collected(world: &mut World) -> Outcome {
    world.ctr.ok(["leases", "create", "--id", "short", "--expires", "500ms"])?;
    world.ctr.ok(["leases", "create", "--id", "long", "--expires", "1h"])?;
    wait::until("the end of the lease", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        collect(world)?;
        Ok((ids(world)? == ["long"]).then_some(()))
    })
}
