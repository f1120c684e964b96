// SPDX-License-Identifier: Apache-2.0
//! Programs of shims, old and new: what they are told, and in which form they answer.
use fs_err as fs;
use runtime::Create;

use super::world::{Served, World, tasks};

async fn create(world: &World, program: &std::path::Path) -> types::Result<u32> {
    let tasks = tasks(&world.open(), program);
    tasks.create(Create { id: "a".into(), ..Create::default() }).await
}

#[tokio::test]
async fn a_program_is_told_all_in_one_message_and_in_flags() {
    let world = World::new();
    let shim = Served::v3(world.directory.path(), "s.sock");
    let (told, said) = (world.path("told"), world.path("said"));
    let script = format!(
        "cat > {}; echo \"$@ $NAMESPACE $TTRPC_ADDRESS $MAX_SHIM_VERSION $EXTRA\" > {}; printf %s '{}'",
        told.display(),
        said.display(),
        super::world::json(3, &shim.address),
    );
    let program = world.program("shim", &script);
    assert_eq!(create(&world, &program).await.unwrap(), 42);
    let said = fs::read_to_string(said).unwrap();
    for part in ["-namespace ns", "-id a", "-address /run/nobody.sock", " start ", " 3 more"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let told = fs::read(told).unwrap();
    let told =
        <api::containerd::runtime::bootstrap::v1::BootstrapParams as prost::Message>::decode(
            told.as_slice(),
        )
        .unwrap();
    assert_eq!((told.instance_id.as_str(), told.namespace.as_str()), ("a", "ns"));
    assert_eq!(told.containerd_ttrpc_address, "/run/nobody.sock.ttrpc");
    assert_eq!((told.containerd_version.as_str(), told.socket_dir), ("1", None));
}

#[tokio::test]
async fn a_program_that_refuses_the_message_is_told_in_flags_alone() {
    let world = World::new();
    let shim = Served::v2(world.directory.path(), "s.sock");
    let script = format!(
        "if [ -n \"$(cat)\" ]; then echo 'type with url a: not found' >&2; exit 1; fi; echo {}",
        shim.address
    );
    let program = world.program("shim", &script);
    assert_eq!(create(&world, &program).await.unwrap(), 42);
}

#[tokio::test]
async fn a_program_that_answers_in_a_message_is_understood() {
    let world = World::new();
    let shim = Served::v3(world.directory.path(), "s.sock");
    let length = format!("{:03o}", shim.address.len());
    let script = format!(r"printf '\010\003\022\{length}{}\032\005ttrpc'", shim.address);
    let program = world.program("shim", &script);
    assert_eq!(create(&world, &program).await.unwrap(), 42);
    let kept = fs::read_to_string(world.path("state").join("ns/a/bootstrap.json")).unwrap();
    assert!(kept.contains(r#""version":3"#) && kept.contains(&shim.address), "{kept}");
}

#[tokio::test]
async fn what_a_program_complains_of_is_told_once() {
    let world = World::new();
    let program = world.program("shim", "echo 'no such luck' >&2; exit 3");
    let error = create(&world, &program).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("failed to start shim: "), "{text}");
    assert_eq!(text.matches("no such luck").count(), 1, "{text}");
    assert!(!world.path("state").join("ns/a").exists());
}
