// SPDX-License-Identifier: Apache-2.0
//! Two namespaces, and who gets a blob without bringing it: by the daemon's policy and by a label.

use std::time::Duration;

use api::containerd::services::content::v1 as pb;
use e2e::{Outcome, PATIENCE, World, ensure, only_ours, over_the_wire, wait};
use tonic::Status;

use crate::wire::Wire;

over_the_wire!(by_default_a_name_is_enough, isolated_namespaces_bring_what_they_want,);

// The label came with containerd 1.7, later than the distribution's.
only_ours!(a_namespace_shares_by_its_label,);

const TEXT: &str = "shared words";

/// Stores the words in the world's namespace.
fn store(world: &World) -> Outcome<String> {
    let digest = e2e::digest(TEXT.as_bytes());
    // A daemon collects soon after its start, and nothing refers to the words before they are a root.
    wait::until("the words", PATIENCE, || {
        let mut ingest = world.ctr.start_fed(["content", "ingest", "words"])?;
        ingest.feed(TEXT.as_bytes())?;
        ingest.hang_up();
        ingest.wait(PATIENCE)?.ok()?;
        let labelled = world.ctr.run(["content", "label", &digest, "containerd.io/gc.root=1"])?;
        let blobs = world.ctr.lines(["content", "ls", "-q"])?;
        Ok((labelled.ok().is_ok() && blobs.contains(&digest)).then_some(()))
    })?;
    Ok(digest)
}

/// How much of the blob another namespace has when it asks to write it.
fn has(world: &World, digest: &str) -> Outcome<i64> {
    let wire = Wire::connect(world, "content.v1.Content")?;
    let wire = wire.in_namespace(&format!("{}-other", world.ctr.namespace()));
    let request = pb::WriteContentRequest {
        action: pb::WriteAction::Stat.into(),
        r#ref: "mine".into(),
        total: TEXT.len() as i64,
        expected: digest.into(),
        ..Default::default()
    };
    let answer: Result<pb::WriteContentResponse, Status> =
        wire.ask("Write", request, Duration::from_secs(10));
    answer.map(|it| it.offset).map_err(|status| e2e::Failure::new(status.to_string()))
}

fn isolate(world: &mut World) -> Outcome {
    world.daemon.terminate()?;
    let path = world.daemon.home().join("config.toml");
    let config = fs_err::read_to_string(&path)?;
    let section = "[plugins.\"io.containerd.metadata.v1.bolt\"]";
    let policy = "content_sharing_policy = \"isolated\"";
    fs_err::write(path, format!("{config}\n{section}\n  {policy}\n"))?;
    world.daemon.restart()
}

fn by_default_a_name_is_enough(world: &mut World) -> Outcome {
    let digest = store(world)?;
    let other = world.ctr.in_namespace("other");
    ensure!(other.lines(["content", "ls", "-q"])?.is_empty(), "the other sees nothing");
    other.refused(["content", "get", &digest], &["not found"])?;
    // Go's says that nothing was there, and succeeds.
    other.run(["content", "rm", &digest])?;
    assert_eq!(has(world, &digest)?, TEXT.len() as i64);
    assert_eq!(world.ctr.ok(["content", "get", &digest])?, TEXT);
    Ok(())
}

fn isolated_namespaces_bring_what_they_want(world: &mut World) -> Outcome {
    isolate(world)?;
    let digest = store(world)?;
    assert_eq!(has(world, &digest)?, 0);
    Ok(())
}

fn a_namespace_shares_by_its_label(world: &mut World) -> Outcome {
    isolate(world)?;
    let digest = store(world)?;
    let own = world.ctr.namespace().to_owned();
    world.ctr.ok(["namespaces", "label", &own, "containerd.io/namespace.shareable=true"])?;
    assert_eq!(has(world, &digest)?, TEXT.len() as i64);
    Ok(())
}
