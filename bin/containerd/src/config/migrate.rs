// SPDX-License-Identifier: Apache-2.0
//! Old and new words for the same: every version is read as version 3.
//!
//! ```text
//! 1 --plugins are named in full--> 2 --plugins are renamed, CRI's is split--> 3
//! 4 --servers are no plugins any more--> 3
//! ```
//!
//! Facts from containerd `cmd/containerd/server/config/config.go` and the `ConfigMigration` of its
//! plugins (`plugins/restart`, `plugins/cri/{images,runtime}`, `plugins/cri/cri.go`).
use toml::{Table, Value};

const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";

/// Plugins that were renamed in version 3.
const RENAMED: &[(&str, &str)] = &[
    ("io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"),
    ("io.containerd.monitor.v1.cgroups", "io.containerd.monitor.task.v1.cgroups"),
];

/// The names that plugins had in version 1, where they are not `io.containerd.grpc.v1.<name>`.
const SHORT: &[(&str, &str)] = &[
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("task", "io.containerd.runtime.v2.task"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("restart", "io.containerd.internal.v1.restart"),
    ("tracing", "io.containerd.internal.v1.tracing"),
    ("otlp", "io.containerd.tracing.processor.v1.otlp"),
    ("aufs", "io.containerd.snapshotter.v1.aufs"),
    ("btrfs", "io.containerd.snapshotter.v1.btrfs"),
    ("devmapper", "io.containerd.snapshotter.v1.devmapper"),
    ("native", "io.containerd.snapshotter.v1.native"),
    ("erofs", "io.containerd.snapshotter.v1.erofs"),
    ("blockfile", "io.containerd.snapshotter.v1.blockfile"),
    ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
    ("zfs", "io.containerd.snapshotter.v1.zfs"),
];

/// What of CRI's section is the server's alone, and stays where it is.
const CRI_SERVER: &[&str] = &[
    "disable_tcp_service",
    "stream_server_address",
    "stream_server_port",
    "stream_idle_timeout",
    "enable_tls_streaming",
    "x509_key_pair_streaming",
];

/// What of it is about images.
const CRI_OF_IMAGES: &[&str] = &[
    "registry",
    "image_decryption",
    "max_concurrent_downloads",
    "image_pull_progress_timeout",
    "image_pull_with_sync_fs",
    "stats_collect_period",
];

/// The same, of its table `containerd`.
const CRI_CONTAINERD_OF_IMAGES: &[&str] =
    &["snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers"];

/// Version 4's servers: the plugin, the section, and what the section's keys begin with.
const SERVERS: &[(&str, &str, &str)] = &[
    ("io.containerd.server.v1.grpc", "grpc", ""),
    ("io.containerd.server.v1.grpc-tcp", "grpc", "tcp_"),
    ("io.containerd.server.v1.ttrpc", "ttrpc", ""),
    ("io.containerd.server.v1.debug", "debug", ""),
    ("io.containerd.server.v1.metrics", "metrics", ""),
];

/// Says in the words of version 3 what `table` says in those of `version`.
pub(super) fn to_version_3(table: &mut Table, version: i64) {
    if version < 2 {
        name_in_full(table);
    }
    if version < 3 {
        rename(table);
    }
    if version > 3 {
        lower_servers(table);
    }
    table.insert("version".into(), Value::Integer(3));
}

/// Says in the words of version 4 what `table` says in those of version 3: servers are plugins.
pub(super) fn to_version_4(table: &mut Table) {
    for (plugin, section, prefix) in SERVERS {
        let Some(Value::Table(from)) = table.get_mut(*section) else { continue };
        let limits = ["max_recv_message_size", "max_send_message_size"];
        let mut lifted = Table::new();
        for (key, value) in from.iter() {
            let is_tcp = key.starts_with("tcp_");
            let kept = ["level", "format"].contains(&key.as_str()) && *section == "debug";
            match key.strip_prefix(prefix) {
                Some(name) if prefix.is_empty() != is_tcp && !kept => {
                    lifted.insert(name.to_owned(), value.clone());
                }
                _ if !prefix.is_empty() && limits.contains(&key.as_str()) => {
                    lifted.insert(key.clone(), value.clone());
                }
                _ => {}
            }
        }
        let is_said =
            lifted.get("address").and_then(Value::as_str).is_some_and(|it| !it.is_empty());
        if is_said && let Some(plugins) = plugins(table) {
            plugins.entry(*plugin).or_insert(Value::Table(lifted));
        }
    }
    for section in ["grpc", "ttrpc", "metrics"] {
        table.remove(section);
    }
    if let Some(Value::Table(debug)) = table.get_mut("debug") {
        debug.retain(|key, _| ["level", "format"].contains(&key));
    }
    table.insert("version".into(), Value::Integer(4));
}

fn plugins(table: &mut Table) -> Option<&mut Table> {
    table.entry("plugins").or_insert_with(|| Value::Table(Table::new())).as_table_mut()
}

fn name_in_full(table: &mut Table) {
    for list in ["disabled_plugins", "required_plugins"] {
        let Some(Value::Array(uris)) = table.get_mut(list) else { continue };
        for uri in uris {
            if let Value::String(name) = uri {
                *name = long_name(name);
            }
        }
    }
    if let Some(Value::Table(plugins)) = table.get_mut("plugins") {
        let short = std::mem::take(plugins);
        plugins.extend(short.into_iter().map(|(name, value)| (long_name(&name), value)));
    }
}

fn long_name(name: &str) -> String {
    let known = SHORT.iter().find(|(short, _)| *short == name).map(|(_, long)| (*long).to_owned());
    match known {
        Some(long) => long,
        None if name.contains('.') => name.to_owned(),
        None if name.ends_with("-service") => format!("io.containerd.service.v1.{name}"),
        None => format!("io.containerd.grpc.v1.{name}"),
    }
}

fn rename(table: &mut Table) {
    for list in ["disabled_plugins", "required_plugins"] {
        let Some(Value::Array(uris)) = table.get_mut(list) else { continue };
        for uri in uris {
            let new = RENAMED.iter().find(|(old, _)| uri.as_str() == Some(old));
            if let Some((_, new)) = new {
                *uri = Value::String((*new).to_owned());
            }
        }
    }
    let Some(Value::Table(plugins)) = table.get_mut("plugins") else { return };
    for (old, new) in RENAMED {
        if let Some(section) = plugins.remove(*old) {
            plugins.entry(*new).or_insert(section);
        }
    }
    if let Some(Value::Table(cri)) = plugins.remove(CRI) {
        split_cri(plugins, cri);
    }
}

/// Splits CRI's one section into that of its images, that of its runtime, and that of its server.
fn split_cri(plugins: &mut Table, mut cri: Table) {
    let mut server = take(&mut cri, CRI_SERVER);
    let mut images = take(&mut cri, CRI_OF_IMAGES);
    if let Some(Value::Table(containerd)) = cri.get_mut("containerd") {
        images.extend(take(containerd, CRI_CONTAINERD_OF_IMAGES));
    }
    if let Some(image) = cri.remove("sandbox_image") {
        let pinned = Table::from_iter([("sandbox".to_owned(), image)]);
        images.insert("pinned_images".into(), Value::Table(pinned));
    }
    for (name, section) in [(CRI, &mut server), (CRI_IMAGES, &mut images), (CRI_RUNTIME, &mut cri)]
    {
        if section.is_empty() {
            continue;
        }
        let section = std::mem::take(section);
        match plugins.get_mut(name) {
            // What was said in the new words already holds.
            Some(Value::Table(said)) => {
                for (key, value) in section {
                    said.entry(key).or_insert(value);
                }
            }
            _ => drop(plugins.insert(name.into(), Value::Table(section))),
        }
    }
}

fn take(from: &mut Table, keys: &[&str]) -> Table {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), from.remove(*key)?))).collect()
}

fn lower_servers(table: &mut Table) {
    for (plugin, section, prefix) in SERVERS {
        let Some(plugins) = plugins(table) else { return };
        let Some(Value::Table(server)) = plugins.remove(*plugin) else { continue };
        let place = table.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(place) = place else { continue };
        for (key, value) in server {
            let is_shared = key.starts_with("max_");
            let key = if is_shared { key } else { format!("{prefix}{key}") };
            place.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(version: i64, from: &str, want: &str) {
        let mut table: Table = toml::from_str(from).unwrap();
        to_version_3(&mut table, version);
        table.remove("version");
        assert_eq!(table, toml::from_str(want).unwrap());
    }

    #[test]
    fn version_1_names_plugins_by_their_id() {
        check(
            1,
            "disabled_plugins = [\"cri\", \"restart\"]\n[plugins.overlayfs]\na = 1\n[plugins.diff-service]\nb = 2",
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.monitor.container.v1.restart\"]\n\
             [plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\na = 1\n\
             [plugins.\"io.containerd.service.v1.diff-service\"]\nb = 2",
        );
    }

    #[test]
    fn version_2_has_all_of_cri_in_one_section() {
        check(
            2,
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause:3\"\nstream_server_port = \"0\"\n\
             enable_selinux = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\ndefault_runtime_name = \"runc\"\n\
             [plugins.\"io.containerd.internal.v1.restart\"]\ninterval = \"1s\"",
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nstream_server_port = \"0\"\n\
             [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/c\"\n\
             [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"pause:3\"\n\
             [plugins.\"io.containerd.cri.v1.runtime\"]\nenable_selinux = true\n\
             [plugins.\"io.containerd.cri.v1.runtime\".containerd]\ndefault_runtime_name = \"runc\"\n\
             [plugins.\"io.containerd.monitor.container.v1.restart\"]\ninterval = \"1s\"",
        );
    }

    const SERVERS_3: &str = "[grpc]\naddress = \"/a\"\nuid = 7\nmax_recv_message_size = 5\n\
        tcp_address = \"127.0.0.1:1\"\ntcp_tls_ca = \"/ca\"\n[ttrpc]\naddress = \"/t\"\n\
        [debug]\naddress = \"/d\"\nlevel = \"info\"\n[plugins]\n";

    #[test]
    fn version_4_keeps_its_servers_among_the_plugins() {
        let from = "[debug]\nlevel = \"info\"\n\
            [plugins.\"io.containerd.server.v1.grpc\"]\naddress = \"/a\"\nuid = 7\nmax_recv_message_size = 5\n\
            [plugins.\"io.containerd.server.v1.grpc-tcp\"]\naddress = \"127.0.0.1:1\"\ntls_ca = \"/ca\"\n\
            [plugins.\"io.containerd.server.v1.ttrpc\"]\naddress = \"/t\"\n\
            [plugins.\"io.containerd.server.v1.debug\"]\naddress = \"/d\"";
        check(4, from, SERVERS_3);
        let mut table: Table = toml::from_str(SERVERS_3).unwrap();
        to_version_4(&mut table);
        let plugins = table["plugins"].as_table().unwrap();
        assert_eq!(plugins["io.containerd.server.v1.grpc"]["uid"].as_integer(), Some(7));
        assert_eq!(plugins["io.containerd.server.v1.grpc-tcp"]["tls_ca"].as_str(), Some("/ca"));
        assert_eq!(plugins["io.containerd.server.v1.debug"].as_table().unwrap().len(), 1);
        assert!(table.get("grpc").is_none());
        to_version_3(&mut table, 4);
        assert_eq!(table["grpc"]["address"].as_str(), Some("/a"));
    }

    #[test]
    fn version_3_is_what_is_worked_with() {
        check(3, SERVERS_3, SERVERS_3);
    }
}
