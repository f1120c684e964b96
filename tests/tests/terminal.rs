// SPDX-License-Identifier: Apache-2.0
//! Containers on a person's terminal.

use e2e::{Outcome, PATIENCE, World, for_each_shim, wait};

for_each_shim!(a_container_has_a_terminal, a_terminal_is_resized, an_exec_has_a_terminal);

fn a_container_has_a_terminal(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("tty");
    let mut pty = world.ctr.on_terminal(["run", "--rm", "-t", &image, &id, "sh"])?;
    pty.expect("# ", PATIENCE)?;
    pty.type_in("test -t 0 && test -t 1 && test -t 2 && echo all-$((1 + 2))-are\n")?;
    pty.expect("all-3-are", PATIENCE)?;
    pty.type_in("exit 4\n")?;
    assert_eq!(pty.wait(PATIENCE)?.code(), Some(4), "{}", pty.shown());
    Ok(())
}

fn a_terminal_is_resized(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("tty");
    let mut pty = world.ctr.on_terminal(["run", "--rm", "-t", &image, &id, "sh"])?;
    pty.expect("# ", PATIENCE)?;
    pty.type_in("until stty size | grep '33 111'; do sleep 0.1; done; exit\n")?;
    // The client may not listen to the signal yet when it is told for the first time.
    wait::until("the new size", PATIENCE, || {
        pty.resize(33, 111)?;
        Ok(pty.shown().contains("33 111\r").then_some(()))
    })?;
    assert!(pty.wait(PATIENCE)?.success(), "{}", pty.shown());
    Ok(())
}

fn an_exec_has_a_terminal(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("tty");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    let mut pty =
        world.ctr.on_terminal(["tasks", "exec", "-t", "--exec-id", &world.id("e"), &id, "sh"])?;
    pty.expect("# ", PATIENCE)?;
    pty.type_in("tty; exit 6\n")?;
    assert_eq!(pty.wait(PATIENCE)?.code(), Some(6), "{}", pty.shown());
    assert!(pty.shown().contains("/dev/pts/"), "{}", pty.shown());
    world.ctr.remove(&id)
}
