// SPDX-License-Identifier: Apache-2.0
//! What a container is given: users, networks, devices, limits; and what is refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api::containerd::services::containers::v1 as containers;
use api::containerd::services::tasks::v1 as pb;
use e2e::process::{Output, run};
use e2e::{
    Context, Outcome, PATIENCE, World, ensure, for_each_daemon, for_each_shim, only_ours,
    over_the_wire,
};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use crate::wire::Wire;

for_each_daemon!(
    files_are_given_to_mapped_users,
    a_network_is_made_by_plugins,
    a_container_is_held_by_the_default_profile,
);
for_each_shim!(a_profile_that_is_not_loaded_is_refused, a_class_that_the_machine_lacks_is_ignored);
only_ours!(
    owners_are_mapped_by_the_snapshotter,
    a_network_goes_with_the_task,
    a_device_is_given_by_name,
    what_nobody_can_give_is_refused,
);
over_the_wire!(limits_are_changed_while_a_task_runs, pipes_belong_to_whom_they_are_for);

const MAP: &str = "0:200000:65536";

/// Lets users who are nobody on this machine pass through to what they are given.
fn open_home(world: &World) -> Outcome {
    Ok(fs_err::set_permissions(world.daemon.home(), PermissionsExt::from_mode(0o711))?)
}

/// Runs a shell as a user who is root inside and somebody else outside.
fn mapped(world: &World, name: &str, options: &[&str], script: &str) -> Outcome<Vec<String>> {
    let (image, id) = (world.busybox()?, world.id(name));
    let map = ["run", "--rm", "--uidmap", MAP, "--gidmap", MAP];
    let words = [&map[..], options, &[&image, &id, "sh", "-c", script]].concat();
    world.ctr.lines(words)
}

const LOOK: &str = "id -u; stat -c %u:%g /bin/busybox; cat /proc/self/uid_map; touch /new";

fn files_are_given_to_mapped_users(world: &mut World) -> Outcome {
    open_home(world)?;
    // The second one finds what was made for the first.
    for name in ["one", "two"] {
        let told = mapped(world, name, &[], LOOK)?;
        assert_eq!(told[..2], ["0", "0:0"], "{told:?}");
        let map: Vec<&str> = told[2].split_whitespace().collect();
        assert_eq!(map, ["0", "200000", "65536"]);
    }
    // What was made for them is kept by whoever runs on it, and collected after the last.
    let (image, id) = (world.busybox()?, world.id("three"));
    let run = ["run", "-d", "--null-io", "--uidmap", MAP, "--gidmap", MAP, &image, &id];
    world.ctr.ok(run.into_iter().chain(["sleep", "1000"]))?;
    let owners = owners(world)?;
    assert_eq!(owners.iter().filter(|&&uid| uid == 200_000).count(), 1, "{owners:?}");
    world.ctr.remove(&id)
}

/// Who has the shell, in each snapshot that has its own.
fn owners(world: &World) -> Outcome<Vec<u32>> {
    let busybox = world.daemon.snapshots()?.into_iter().map(|dir| dir.join("fs/bin/busybox"));
    Ok(busybox.filter_map(|it| Some(it.metadata().ok()?.uid())).collect())
}

fn owners_are_mapped_by_the_snapshotter(world: &mut World) -> Outcome {
    open_home(world)?;
    let told = mapped(world, "one", &["--remap-labels"], LOOK)?;
    assert_eq!(told[..2], ["0", "0:0"], "{told:?}");
    // Nothing was copied: all files are still those of the image.
    assert_eq!(owners(world)?, [0]);
    let known = fs_err::read_to_string("/proc/filesystems")?.contains("\terofs\n");
    if !known || e2e::parts::tool("mkfs.erofs").is_err() {
        println!("skipped: no erofs in this kernel, or no mkfs.erofs");
        return Ok(());
    }
    let erofs = ["--remap-labels", "--snapshotter", "erofs"];
    let told = mapped(world, "two", &erofs, LOOK)?;
    assert_eq!(told[..2], ["0", "0:0"], "{told:?}");
    Ok(())
}

/// A place of its own for what clients find in `/etc`, `/opt` and `/var/lib`.
struct Place(PathBuf);

impl Place {
    fn new(world: &World) -> Outcome<Self> {
        let place = Self(world.daemon.home().join("place"));
        for dir in ["etc/cni/net.d", "etc/cdi", "work", "opt/cni/bin", "lib"] {
            fs_err::create_dir_all(place.0.join(dir))?;
        }
        Ok(place)
    }

    /// Runs a client that sees it, and nobody else does.
    fn run(&self, world: &World, args: &[&str]) -> Outcome<Output> {
        let script = "set -e; cd \"$0\"; mount --bind opt /opt; mount --bind lib /var/lib
            mount -t overlay over -o lowerdir=/etc,upperdir=$PWD/etc,workdir=$PWD/work /etc
            exec \"$@\"";
        let client = world.ctr.command(args);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&self.0);
        command.arg(client.get_program()).args(client.get_args());
        command.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut command, PATIENCE)
    }

    /// Configures a network whose plugin writes down what it is asked, and does something.
    fn network(&self) -> Outcome {
        let list = json!({
            "cniVersion": "0.4.0", "name": "tested",
            "plugins": [{"type": "first"}, {"type": "second", "flavour": "sweet"}],
        });
        fs_err::write(self.0.join("etc/cni/net.d/10-tested.conflist"), list.to_string())?;
        for name in ["first", "second"] {
            let path = self.0.join("opt/cni/bin").join(name);
            let asked = self.asked().display().to_string();
            sys::program::install(&path, PLUGIN.replace("ASKED", &asked).as_bytes())?;
        }
        Ok(())
    }

    fn asked(&self) -> PathBuf {
        self.0.join("asked")
    }

    /// What the plugins were asked, each as who, what, about whom and the configuration.
    fn calls(&self) -> Outcome<Vec<(String, String, String, Value)>> {
        let text = fs_err::read_to_string(self.asked())?;
        let call = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (who, what, whom, told) = (word(), word(), word(), word());
            Ok((who, what, whom, serde_json::from_str(&told)?))
        };
        text.lines().map(call).collect()
    }
}

const PLUGIN: &str = r#"#!/bin/sh
config=$(tr -d '\n')
echo "${0##*/} $CNI_COMMAND $CNI_CONTAINERID@$CNI_IFNAME $config" >> ASKED
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.4.0"]}' ;;
ADD) nsenter "--net=$CNI_NETNS" busybox ip link set lo up
     echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/x"}],
         "ips":[{"version":"4","address":"10.9.8.7/24","interface":0}]}' ;;
esac
"#;

/// Who was asked for what, without what only asks what plugins can do.
fn asked(calls: &[(String, String, String, Value)]) -> Vec<(&str, &str)> {
    let all = calls.iter().map(|(who, what, ..)| (who.as_str(), what.as_str()));
    all.filter(|(_, what)| *what != "VERSION").collect()
}

fn a_network_is_made_by_plugins(world: &mut World) -> Outcome {
    let (image, id, place) = (world.busybox()?, world.id("wired"), Place::new(world)?);
    let words = ["run", "--rm", "--cni", &image, &id, "busybox", "ip", "link", "show", "lo"];
    place.run(world, &words)?.refused(&["no network config found in /etc/cni/net.d"])?;
    place.network()?;
    let told = place.run(world, &words)?.ok()?;
    assert!(told.contains(",UP"), "{told}");

    let calls = place.calls()?;
    let order = [("first", "ADD"), ("second", "ADD"), ("second", "DEL"), ("first", "DEL")];
    assert_eq!(asked(&calls), order);
    let whom = format!("{}-{id}@eth0", world.ctr.namespace());
    for (who, what, about, config) in &calls {
        assert_eq!((about, &config["name"]), (&whom, &json!("tested")), "{who} {what}");
        let is_first = (who.as_str(), what.as_str()) == ("first", "ADD");
        let told = &config["prevResult"]["ips"][0]["address"];
        assert_eq!(told.as_str(), (!is_first).then_some("10.9.8.7/24"), "{who} {what}");
        ensure!(who == "first" || config["flavour"] == "sweet", "{config}");
    }
    Ok(())
}

fn a_network_goes_with_the_task(world: &mut World) -> Outcome {
    let (image, id, place) = (world.busybox()?, world.id("wired"), Place::new(world)?);
    place.network()?;
    place.run(world, &["run", "-d", "--null-io", "--cni", &image, &id, "sleep", "1000"])?.ok()?;
    assert_eq!(asked(&place.calls()?), [("first", "ADD"), ("second", "ADD")]);
    place.run(world, &["tasks", "kill", "-s", "KILL", &id])?.ok()?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    place.run(world, &["tasks", "rm", &id])?;
    assert_eq!(asked(&place.calls()?)[2..], [("second", "DEL"), ("first", "DEL")]);

    // Without its plugin nothing runs, and nothing stays.
    fs_err::remove_file(place.0.join("opt/cni/bin/second"))?;
    let start = place.run(world, &["tasks", "start", "-d", "--null-io", &id])?;
    start.refused(&["failed to find plugin \"second\" in path [/opt/cni/bin]"])?;
    assert_eq!(world.ctr.state(&id)?, None);
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}

fn a_device_is_given_by_name(world: &mut World) -> Outcome {
    let (image, id, place) = (world.busybox()?, world.id("gadget"), Place::new(world)?);
    let shared = world.daemon.home().join("tmp");
    fs_err::write(shared.join("word"), "mounted")?;
    let document = json!({
        "cdiVersion": "0.6.0", "kind": "acme.com/gadget",
        "devices": [{"name": "one", "containerEdits": {
            "env": ["GADGET=one"],
            "deviceNodes": [{"path": "/dev/gadget", "hostPath": "/dev/zero"}],
            "mounts": [{"hostPath": shared, "containerPath": "/gadget", "options": ["bind", "ro"]}],
        }}],
    });
    fs_err::write(place.0.join("etc/cdi/acme.json"), document.to_string())?;
    let other =
        "kind: acme.com/other\ndevices:\n  - {name: 0, containerEdits: {env: [OTHER=zero]}}\n";
    fs_err::write(place.0.join("etc/cdi/other.yaml"), other)?;
    let script = "echo $GADGET $OTHER; head -c 4 /dev/gadget | wc -c; cat /gadget/word";
    let devices = ["--device", "acme.com/gadget=one", "--device", "acme.com/other=0"];
    let words = [&["run", "--rm"], &devices[..], &[&image, &id, "sh", "-c", script]].concat();
    assert_eq!(place.run(world, &words)?.ok()?, "one zero\n4\nmounted");
    Ok(())
}

fn what_nobody_can_give_is_refused(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("poor"));
    let refused = |option: [&str; 2], words: &[&str]| {
        world.ctr.refused(["run", "--rm", option[0], option[1], &image, &id, "true"], words)
    };
    let unknown = "unresolvable CDI devices";
    refused(["--device", "acme.com/gadget=two"], &[unknown, "acme.com/gadget=two"])?;
    refused(["--gpus", "0,1"], &[unknown, "nvidia.com/gpu=0, nvidia.com/gpu=1"])?;
    refused(["--device", "/no/such/device"], &["error resolving device path"])?;
    // Neither container nor snapshot is left.
    world.ctr.ok(["run", "--rm", &image, &id, "true"]).map(drop)
}

fn a_profile_that_is_not_loaded_is_refused(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("guarded"));
    let words = ["run", "--rm", "--apparmor-profile", "no-such-profile", &image, &id, "true"];
    world.ctr.refused(words, &["OCI runtime create failed", "apparmor"])
}

fn a_class_that_the_machine_lacks_is_ignored(world: &mut World) -> Outcome {
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        println!("skipped: this machine has classes of its own");
        return Ok(());
    }
    let (image, id) = (world.busybox()?, world.id("classy"));
    world.ctr.ok(["run", "-d", "--null-io", "--rdt-class", "gold", &image, &id, "sleep", "100"])?;
    let info: Value = serde_json::from_str(&world.ctr.ok(["containers", "info", &id])?)?;
    assert_eq!(info["Spec"]["linux"]["intelRdt"]["closID"], "gold");
    world.ctr.remove(&id)
}

fn any(name: &str, value: &Value) -> Any {
    let type_url = format!("types.containerd.io/opencontainers/runtime-spec/1/{name}");
    Any { type_url, value: value.to_string().into_bytes() }
}

/// The value of a file of a container's control group, in whichever hierarchy has it.
fn of_group(pid: &str, names: [&str; 2]) -> Outcome<String> {
    let membership = fs_err::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let places = membership.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let tree = if controllers.is_empty() { "unified" } else { controllers };
        let roots = [Path::new("/sys/fs/cgroup").join(tree), "/sys/fs/cgroup".into()];
        Some(roots.map(|root| root.join(path.trim_start_matches('/'))))
    });
    let mut files = places.flatten().flat_map(|dir| names.map(|name| dir.join(name)));
    let file = files.find(|file| file.exists()).context(format!("a file {names:?} of {pid}"))?;
    Ok(fs_err::read_to_string(file)?.trim().to_owned())
}

fn limits_are_changed_while_a_task_runs(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("web"));
    let pid_file = world.daemon.home().join("pid").display().to_string();
    let words = ["run", "-d", "--null-io", "--pid-file", &pid_file, "--memory-limit", "67108864"];
    world.ctr.ok([&words[..], &[&image, &id, "sleep", "1000"]].concat())?;
    let pid = fs_err::read_to_string(&pid_file)?;
    let memory = || of_group(&pid, ["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory()?, "67108864");

    let tasks = Wire::connect(world, "tasks.v1.Tasks")?;
    let update = |resources: &Value, annotations: &[(&str, &str)]| pb::UpdateTaskRequest {
        container_id: id.clone(),
        resources: Some(any("LinuxResources", resources)),
        annotations: annotations.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
    };
    let more = json!({"memory": {"limit": 134_217_728}, "pids": {"limit": 77}});
    tasks.accepts("Update", update(&more, &[("why", "it grows")]))?;
    assert_eq!(memory()?, "134217728");
    assert_eq!(of_group(&pid, ["pids.max", "pids.max"])?, "77");
    // What is not named stays.
    tasks.accepts("Update", update(&json!({"pids": {"limit": 99}}), &[]))?;
    assert_eq!(
        (memory()?.as_str(), &*of_group(&pid, ["pids.max", "pids.max"])?),
        ("134217728", "99")
    );
    // What the kernel refuses is told, and changes nothing.
    let absurd = json!({"cpu": {"cpus": "4000"}});
    let refused = tasks.ask::<_, ()>("Update", update(&absurd, &[]), Duration::from_secs(20));
    let status = refused.err().context("there is no such processor")?;
    assert!(status.message().contains("cpuset"), "{status}");
    world.ctr.remove(&id)
}

/// Runc's options of a container whose streams belong to somebody.
fn streams_of(uid: u32, gid: u32) -> Any {
    let options =
        api::containerd::runc::v1::Options { io_uid: uid, io_gid: gid, ..Default::default() };
    Any { type_url: "containerd.runc.v1.Options".to_owned(), value: options.encode_to_vec() }
}

fn pipes_belong_to_whom_they_are_for(world: &mut World) -> Outcome {
    let rootfs = world.daemon.home().join("tmp/rootfs");
    for name in ["bin", "proc", "dev"] {
        fs_err::create_dir_all(rootfs.join(name))?;
    }
    fs_err::copy(e2e::parts::tool("busybox")?, rootfs.join("bin/busybox"))?;
    open_home(world)?;
    // Who may open a stream once more by its name is whose it is.
    let script = "busybox stat -L -c %u:%g /proc/self/fd/1; echo again > /proc/self/fd/1";
    let told = piped(world, &rootfs, script, streams_of(1234, 4321))?;
    assert_eq!(told, "1234:4321\nagain\n");
    Ok(())
}

/// What a user who is nobody in particular says, whose streams are as the options have them.
fn piped(world: &World, rootfs: &Path, script: &str, options: Any) -> Outcome<String> {
    let id = world.id("piped");
    let tmp = world.daemon.home().join("tmp");
    let [out, err] = ["out", "err"].map(|name| tmp.join(name).display().to_string());
    for fifo in [&out, &err] {
        run(Command::new("mkfifo").arg(fifo), PATIENCE)?.ok()?;
    }
    let reader = |fifo: &String| e2e::Running::start(Command::new("cat").arg(fifo));
    let (out_reader, err_reader) = (reader(&out)?, reader(&err)?);
    let runtime = containers::container::Runtime {
        name: "io.containerd.runc.v2".to_owned(),
        options: Some(options),
    };
    let spec = json!({
        "ociVersion": "1.0.2", "root": {"path": rootfs},
        "process": {"args": ["/bin/busybox", "sh", "-c", script], "cwd": "/",
            "env": ["PATH=/bin"], "user": {"uid": 1234, "gid": 4321}},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": format!("/{}/{id}", world.ctr.namespace()),
            "namespaces": [{"type": "pid"}, {"type": "mount"}]},
    });
    let container = containers::Container {
        id: id.clone(),
        runtime: Some(runtime),
        spec: Some(any("Spec", &spec)),
        ..Default::default()
    };
    let wire = Wire::connect(world, "containers.v1.Containers")?;
    wire.accepts("Create", containers::CreateContainerRequest { container: Some(container) })?;
    let tasks = Wire::connect(world, "tasks.v1.Tasks")?;
    tasks.accepts(
        "Create",
        pb::CreateTaskRequest {
            container_id: id.clone(),
            stdout: out,
            stderr: err,
            ..Default::default()
        },
    )?;
    tasks.accepts("Start", pb::StartRequest { container_id: id.clone(), ..Default::default() })?;
    tasks.accepts("Wait", pb::WaitRequest { container_id: id.clone(), ..Default::default() })?;
    tasks.accepts("Delete", pb::DeleteTaskRequest { container_id: id.clone() })?;
    wire.accepts("Delete", containers::DeleteContainerRequest { id })?;
    let complaint = err_reader.wait(PATIENCE)?.ok()?;
    ensure!(complaint.is_empty(), "{complaint}");
    out_reader.wait(PATIENCE)?.ok()
}

/// What a process that is held by the default profile is kept from, and what not, whatever the
/// container's capabilities and mounts would let it.
fn a_container_is_held_by_the_default_profile(world: &mut World) -> Outcome {
    let (image, id, profile) = (world.busybox()?, world.id("held"), world.id("profile"));
    let words = ["run", "--rm", "--privileged", "--apparmor-default-profile", &profile, &image];
    let script = "cat /proc/self/attr/current; mount -t tmpfs tmpfs /mnt || echo no mount
        cd /proc/sys/vm; kept=$(cat dirty_ratio); echo $kept > dirty_ratio || echo no sysctl
        echo 0 > /proc/self/oom_score_adj";
    let command = [&words[..], &[&id, "sh", "-c", script]].concat();
    if !Path::new("/sys/kernel/security/apparmor/profiles").exists() {
        println!("skipped: this kernel has no AppArmor: only that it is refused is seen");
        return world.ctr.refused(command, &["/sys/kernel/security/apparmor/profiles"]);
    }
    let told = world.ctr.lines(command);
    // Whatever has become of it, it does not stay.
    let mut remove = Command::new("sh");
    remove.args(["-c", "printf 'profile \"%s\" { }' \"$0\" | apparmor_parser -R", &profile]);
    run(&mut remove, PATIENCE)?.ok()?;
    let held = format!("{profile} (enforce)");
    assert_eq!(told?, [held.as_str(), "no mount", "no sysctl"]);
    Ok(())
}
