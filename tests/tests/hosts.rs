// SPDX-License-Identifier: Apache-2.0
//! Registries that are where a folder on this machine says.

use e2e::{
    Auth, Fault, Image, KnobRegistry, Layer, Outcome, Part, World, ensure, for_each_daemon,
    only_ours,
};

for_each_daemon!(a_name_is_pulled_from_its_mirror, a_mirror_that_is_dead_is_left_for_the_next,);

only_ours!(
    the_daemon_reads_its_own_folder_anew_for_each_pull,
    hosts_are_told_with_what_they_say,
    docker_credentials_open_the_door,
    requests_are_dumped_without_secrets,
    a_large_layer_is_pulled_in_parts,
);

/// A name that only a folder can find.
const NAME: &str = "registry.example/tools/a:1";

fn stocked() -> Outcome<KnobRegistry> {
    let registry = KnobRegistry::start()?;
    let packed = Image::new(vec![Layer::noise("srv/noise", 300_000, 7)]).pack()?;
    registry.put(&packed, "tools/a:1")?;
    Ok(registry)
}

/// Writes a `hosts.toml` for the name, and gives the folder.
fn folder(world: &World, text: &str) -> Outcome<String> {
    let folder = world.daemon.home().join("certs.d");
    fs_err::create_dir_all(folder.join("registry.example"))?;
    fs_err::write(folder.join("registry.example/hosts.toml"), text)?;
    Ok(folder.display().to_string())
}

fn mirror(registry: &KnobRegistry) -> String {
    format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", registry.host())
}

fn pull<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["content", "fetch", "--hosts-dir", folder], more, &[NAME]].concat()
}

fn a_name_is_pulled_from_its_mirror(world: &mut World) -> Outcome {
    let registry = stocked()?;
    let folder = folder(world, &format!("server = \"http://127.0.0.1:1\"\n{}", mirror(&registry)))?;
    world.ctr.ok(pull(&folder, &[]))?;
    ensure!(registry.seen().iter().any(|seen| seen.path.contains("/blobs/")), "nothing was asked");
    world.ctr.ok(["images", "rm", "--sync", NAME]).map(drop)
}

fn a_mirror_that_is_dead_is_left_for_the_next(world: &mut World) -> Outcome {
    let registry = stocked()?;
    let dead = "[host.\"http://127.0.0.1:1\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    let folder = folder(world, &format!("{dead}{}", mirror(&registry)))?;
    world.ctr.ok(pull(&folder, &[]))?;
    world.ctr.ok(["images", "rm", "--sync", NAME]).map(drop)
}

/// Adds keys to the transfer service's section, and starts the daemon again.
fn configure(world: &mut World, keys: &str) -> Outcome {
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    let section = format!("[plugins.\"io.containerd.transfer.v1.local\"]\n{keys}\n");
    fs_err::write(&path, format!("{text}\n{section}"))?;
    world.daemon.terminate()?;
    world.daemon.restart()
}

fn the_daemon_reads_its_own_folder_anew_for_each_pull(world: &mut World) -> Outcome {
    let registry = stocked()?;
    let folder = folder(world, "server = \"http://127.0.0.1:1\"")?;
    configure(world, &format!("config_path = \"/nowhere:{folder}\""))?;
    let fetch = ["content", "fetch", NAME];
    world.ctr.refused(fetch, &["127.0.0.1:1", "refused"])?;
    self::folder(world, &mirror(&registry))?;
    world.ctr.ok(fetch)?;
    world.ctr.ok(["images", "rm", "--sync", NAME]).map(drop)
}

fn hosts_are_told_with_what_they_say(world: &mut World) -> Outcome {
    let registry = stocked()?;
    let dead = "[host.\"http://127.0.0.1:1\"]\ncapabilities = [\"pull\"]\nspeed = 1\n";
    let folder = folder(world, &format!("server = \"http://{}\"\n{dead}", registry.host()))?;
    registry.auth(Auth::Basic("me", "secret"));
    let ask = ["images", "hosts", "--hosts-dir", &folder, "--user", "me:secret", NAME];
    let said = world.ctr.ok(ask)?;
    for part in [
        "certs.d/registry.example\n",
        "hosts.toml:4: \"speed\" is not known, and has no effect",
        "http://127.0.0.1:1/v2",
        "connect: connection refused",
        "pull,resolve,push,referrers",
        "the command line",
        "sha256:",
    ] {
        ensure!(said.contains(part), "{part:?} is not in {said}");
    }
    registry.fault(Part::Manifests, Fault::Status(500));
    world.ctr.refused(ask, &["no host has it"]).map(drop)
}

fn docker_credentials_open_the_door(world: &mut World) -> Outcome {
    let registry = stocked()?;
    registry.auth(Auth::Bearer("me", "secret"));
    let folder = folder(world, &mirror(&registry))?;
    let path = world.daemon.home().join("config.json");
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, registry.host());
    fs_err::write(&path, text)?;
    let path = path.display().to_string();
    world.ctr.ok(pull(&folder, &["--docker-config", &path]))?;
    world.ctr.ok(["images", "rm", "--sync", NAME])?;
    configure(world, &format!("config_path = \"{folder}\"\ndocker_config = \"{path}\""))?;
    world.ctr.ok(["content", "fetch", NAME])?;
    world.ctr.ok(["images", "rm", "--sync", NAME]).map(drop)
}

fn requests_are_dumped_without_secrets(world: &mut World) -> Outcome {
    let registry = stocked()?;
    registry.auth(Auth::Basic("me", "secret"));
    let folder = folder(world, &mirror(&registry))?;
    let output = world.ctr.run(pull(&folder, &["--http-dump", "--user", "me:secret"]))?;
    let said = &output.stderr;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("/v2/tools/a/manifests/1?ns=registry.example"), "{said}");
    ensure!(said.contains("> authorization: [redacted]"), "{said}");
    ensure!(!said.contains("bWU6c2VjcmV0"), "{said}");
    world.ctr.ok(["images", "rm", "--sync", NAME]).map(drop)
}

fn a_large_layer_is_pulled_in_parts(world: &mut World) -> Outcome {
    let registry = stocked()?;
    let folder = folder(world, &mirror(&registry))?;
    configure(world, "concurrent_layer_fetch_buffer = 65536")?;
    world.ctr.ok(pull(&folder, &[]))?;
    let parts = registry.seen().into_iter().filter(|seen| seen.from.is_some_and(|from| from > 0));
    ensure!(parts.count() >= 4, "the layer was not asked for in parts");
    world.ctr.ok(["images", "rm", "--sync", NAME]).map(drop)
}
