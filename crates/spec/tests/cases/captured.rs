// SPDX-License-Identifier: Apache-2.0
//! `captured/*.json` are what `ctr containers info --spec` of containerd 1.6.20 shows for containers
//! made with the flags named at each test. They differ from ours, as they do from containerd 2's, in
//! the version, in some masked paths, and in the seccomp profile; what `host` knows is put in.
use serde_json::{Value, json};
use spec::{Container, Host, ImageConfig, Options, Seccomp, Spec, Users};

const CAPTURED: [(&str, &str); 8] = [
    ("plain", include_str!("../captured/plain.json")),
    ("rich", include_str!("../captured/rich.json")),
    ("flags", include_str!("../captured/flags.json")),
    ("privileged", include_str!("../captured/privileged.json")),
    ("nethost", include_str!("../captured/nethost.json")),
    ("userns", include_str!("../captured/userns.json")),
    ("rootfs", include_str!("../captured/rootfs.json")),
    ("seccomp", include_str!("../captured/seccomp.json")),
];

fn captured(name: &str) -> Value {
    let (_, json) = CAPTURED.iter().find(|(other, _)| *other == name).unwrap();
    serde_json::from_str(json).unwrap()
}

/// The users of the images that were used.
fn users() -> Users {
    Users {
        passwd: "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n\
                 bob:x:1002:1002::/:/bin/sh\n"
            .into(),
        group: "root:x:0:root\nwheel:x:10:root,alice\nalice:x:1001:alice\naudio:x:29:alice,bob\n\
                bob:x:1002:\n"
            .into(),
    }
}

fn own(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn plain() -> ImageConfig {
    ImageConfig { cmd: own(&["/bin/sh"]), ..ImageConfig::default() }
}

fn rich() -> ImageConfig {
    ImageConfig {
        entrypoint: own(&["/bin/busybox"]),
        cmd: own(&["sleep", "1"]),
        env: own(&["PATH=/bin", "A=image", "B=image"]),
        working_dir: "/tmp".into(),
        user: "alice".into(),
    }
}

/// The machine on which the specs were captured.
fn host(captured: &Value) -> Host {
    let capabilities = captured["process"]["capabilities"]["bounding"].clone();
    Host {
        hostname: "vm".into(),
        architecture: "amd64".into(),
        capabilities: serde_json::from_value(capabilities).unwrap(),
        ..Host::default()
    }
}

fn check(name: &str, image: Option<&ImageConfig>, options: &Options) {
    let want = captured(name);
    let container = Container { image, ..Container::new("default", name) };
    let spec = options.plan(&container, &users(), &host(&want)).unwrap();
    assert_eq!(as_of_1_6(serde_json::to_value(spec).unwrap()), want, "{name}");
}

/// Takes back what has been changed since.
fn as_of_1_6(mut spec: Value) -> Value {
    spec["ociVersion"] = json!("1.0.2-dev");
    let since = [json!("/sys/devices/virtual/powercap"), json!("/proc/interrupts")];
    if let Some(paths) = spec.pointer_mut("/linux/maskedPaths").and_then(Value::as_array_mut) {
        paths.retain(|path| !since.contains(path));
    }
    spec
}

#[test]
fn every_captured_spec_comes_out_as_it_went_in() {
    for (name, json) in CAPTURED {
        let spec = Spec::from_json(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(spec).unwrap(), captured(name), "{name}");
    }
}

#[test]
fn an_image_that_says_little_gets_the_defaults() {
    check("plain", Some(&plain()), &Options::default());
}

#[test]
fn an_image_that_says_much_is_heard() {
    check("rich", Some(&rich()), &Options::default());
}

/// `--env-file F --env A=flag --env B --mount type=bind,src=/tmp,dst=/host,options=rbind:ro --mount
/// type=tmpfs,dst=/scratch --cwd /etc -t --memory-limit 1048576 --cpus 1.5 --cpu-shares 512 --cap-add
/// CAP_SYS_ADMIN --cap-drop CAP_CHOWN --annotation a=b --label l=m --read-only --with-ns
/// network:/var/run/netns/x --cgroup /my/group --device /dev/null --rootfs-propagation rshared
/// --allow-new-privs`, and the command `env`.
#[test]
fn flags_are_heard_over_the_image() {
    let options = Options {
        env_file: spec::env_file("FROM_FILE=1\nA=file\n"),
        env: own(&["A=flag", "B"]),
        mounts: vec![
            "type=bind,src=/tmp,dst=/host,options=rbind:ro".parse().unwrap(),
            "type=tmpfs,dst=/scratch".parse().unwrap(),
        ],
        args: own(&["env"]),
        cwd: Some("/etc".into()),
        tty: true,
        memory_limit: Some(1_048_576),
        cpus: Some(1.5),
        cpu_shares: Some(512),
        cap_add: own(&["CAP_SYS_ADMIN"]),
        cap_drop: own(&["CAP_CHOWN"]),
        annotations: [("a".into(), "b".into()), ("l".into(), "m".into())].into(),
        read_only: true,
        namespaces: vec!["network:/var/run/netns/x".parse().unwrap()],
        cgroup: Some("/my/group".into()),
        devices: spec::devices("/dev/null".as_ref()).unwrap(),
        rootfs_propagation: Some("rshared".into()),
        allow_new_privileges: true,
        ..Options::default()
    };
    check("flags", Some(&rich()), &options);
}

/// `--privileged --net-host`; the devices are those of the machine and left out.
#[test]
fn a_privileged_container_may_do_what_its_maker_may() {
    let options = Options { privileged: true, net_host: true, ..Options::default() };
    check("privileged", Some(&plain()), &options);
}

/// `--net-host --cgroup ""`.
#[test]
fn a_container_can_share_the_network_and_have_no_control_group() {
    let options = Options {
        net_host: true,
        cgroup: Some(String::new()),
        cpu_shares: Some(1024),
        ..Options::default()
    };
    check("nethost", Some(&plain()), &options);
}

/// `--uidmap 0:1000:10 --gidmap 0:2000:10`.
#[test]
fn users_can_be_others_on_the_host() {
    let options = Options {
        uid_mappings: vec!["0:1000:10".parse().unwrap()],
        gid_mappings: vec!["0:2000:10".parse().unwrap()],
        cpu_shares: Some(1024),
        ..Options::default()
    };
    check("userns", Some(&plain()), &options);
}

/// `--rootfs --cpu-quota 20000 --cpu-period 50000`, and the command `/bin/x`.
#[test]
fn a_container_can_have_a_root_filesystem_of_its_own() {
    let options = Options {
        args: own(&["/bin/x"]),
        rootfs: Some("/some/root".into()),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        ..Options::default()
    };
    check("rootfs", None, &options);
}

/// `--seccomp --cap-add CAP_SYS_PTRACE`. The profile has changed since, in ways that are all named.
#[test]
fn the_seccomp_profile_differs_only_in_what_is_known() {
    let mut want = captured("seccomp");
    let options = Options {
        seccomp: Seccomp::Default,
        cap_add: own(&["CAP_SYS_PTRACE"]),
        ..Options::default()
    };
    let container = Container::new("default", "seccomp");
    let image = plain();
    let spec = options.plan(&container.image(&image), &users(), &host(&want)).unwrap();
    let mut ours = as_of_1_6(serde_json::to_value(spec).unwrap());
    let (theirs, profile) = (rules(&mut want), rules(&mut ours));
    assert_eq!(ours, want, "all but the rules is the same");

    let only = |these: &[Value], others: &[Value]| {
        let mut names: Vec<_> = words(these);
        let others = words(others);
        names.retain(|name| !others.contains(name));
        names.sort();
        names
    };
    assert_eq!(only(&theirs, &profile), ["io_uring_enter", "io_uring_register", "io_uring_setup"]);
    assert_eq!(
        only(&profile, &theirs),
        "cachestat fchmodat2 futex_requeue futex_wait futex_wake getxattrat listmount listxattrat \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack mseal name_to_handle_at pkey_free pkey_mprotect \
         removexattrat setxattrat statmount uretprobe"
            .split(' ')
            .filter(|name| !words(&theirs).iter().any(|other| other == name))
            .collect::<Vec<_>>()
    );
    let conditional = |rules: &[Value]| {
        let mut rules: Vec<_> =
            rules.iter().filter(|it| it.get("args").is_some()).cloned().collect();
        rules.retain(|rule| rule["names"] != json!(["socket"]));
        rules
    };
    assert_eq!(conditional(&profile), conditional(&theirs));
}

fn rules(spec: &mut Value) -> Vec<Value> {
    let rules = spec["linux"]["seccomp"]["syscalls"].take();
    serde_json::from_value(rules).unwrap()
}

fn words(rules: &[Value]) -> Vec<String> {
    let names = rules.iter().flat_map(|rule| rule["names"].as_array().unwrap());
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}
