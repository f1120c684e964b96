// SPDX-License-Identifier: Apache-2.0
//! Daemons that are killed between two steps of what they were asked for.

use e2e::{Outcome, PATIENCE, World, ensure, only_ours, wait};

use crate::shims::live;
use crate::store::snapshots;

only_ours!(
    a_daemon_killed_while_it_creates_leaves_all_or_nothing,
    a_daemon_killed_while_it_starts_or_adds_finds_its_task_again,
    a_daemon_killed_while_it_kills_or_deletes_can_go_on,
);

/// Kills the daemon at each place of a container's life, and looks what the next one finds: a task
/// in this state, or none.
fn killed_at(world: &mut World, places: &[(&str, Option<&str>)]) -> Outcome {
    let image = world.busybox()?;
    let before = snapshots(world)?;
    for (place, state) in places {
        let id = world.id(&place.replace('.', "-"));
        let place = format!("daemon.{place}");
        world.daemon.arm(&place, "kill")?;
        let lived = live(world, &image, &id);
        ensure!(lived.is_err(), "{place}: the client did not notice");
        ensure!(world.daemon.was_reached(&place), "{place} was never reached");
        world.daemon.kill9()?;
        world.daemon.restart()?;
        went_on(world, &id, *state).map_err(|failure| failure.with_section("place", &place))?;
        assert_eq!(snapshots(world)?, before, "{place}");
    }
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("next"), "echo", "hello"])?;
    assert_eq!(said, "hello\n");
    Ok(())
}

/// Checks that a task is in this state, and that it goes without a trace.
fn went_on(world: &World, id: &str, state: Option<&str>) -> Outcome {
    let mut last = None;
    let is_so = || {
        last = world.ctr.state(id)?;
        Ok((last.as_deref() == state).then_some(()))
    };
    let found = wait::until(&format!("{state:?}"), PATIENCE / 6, is_so);
    found.map_err(|failure| failure.with_section("state", &format!("{last:?}")))?;
    world.ctr.remove(id)?;
    world.daemon.estate().assert_clean()
}

fn a_daemon_killed_while_it_creates_leaves_all_or_nothing(world: &mut World) -> Outcome {
    killed_at(
        world,
        &[
            ("create.bundled", None),
            ("create.started", None),
            ("create.remembered", None),
            ("create.connected", None),
            ("create.made", Some("CREATED")),
        ],
    )
}

fn a_daemon_killed_while_it_starts_or_adds_finds_its_task_again(world: &mut World) -> Outcome {
    killed_at(
        world,
        &[
            ("start.begun", Some("CREATED")),
            ("start.done", Some("RUNNING")),
            ("exec.begun", Some("RUNNING")),
            ("exec.done", Some("RUNNING")),
        ],
    )
}

fn a_daemon_killed_while_it_kills_or_deletes_can_go_on(world: &mut World) -> Outcome {
    killed_at(
        world,
        &[
            ("kill.begun", Some("RUNNING")),
            ("kill.done", Some("STOPPED")),
            ("delete.begun", Some("STOPPED")),
            ("delete.deleted", None),
            ("delete.shut", None),
            ("delete.removed", None),
        ],
    )
}
