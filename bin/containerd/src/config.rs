// SPDX-License-Identifier: Apache-2.0
//! The config file, versions 1 to 4, as far as it concerns what this daemon has.
//!
//! Nothing in a config file keeps the daemon from starting but a file that is no TOML, a value of
//! the wrong type, or a version that does not exist: what it does not know is a [`Warning`].
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;
use runtime::Timeouts;
use serde::Deserialize;
use toml::Table;
use types::{Error, Kind, Result};

/// The newest version of the config file.
const NEWEST: u32 = 4;

/// What the daemon is told. Defaults are containerd's (`defaults/defaults_unix.go`).
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything that outlives a reboot is.
    pub root: PathBuf,
    /// Where everything that does not is.
    pub state: PathBuf,
    /// The gRPC socket.
    pub grpc: Socket,
    /// The ttrpc socket. An empty address is the gRPC socket's with `.ttrpc` after it.
    pub ttrpc: Socket,
    /// The TCP address of the metrics; empty for none.
    pub metrics: String,
    /// How long opening the database may wait; zero for ever.
    pub open_timeout: Duration,
    /// What is logged: `trace`, `debug`, `info`, `warn`, `error`, `fatal`, `panic`.
    pub level: String,
    /// How it is logged: `text` or `json`.
    pub format: String,
    /// The daemon's own OOM score; 0 leaves it.
    pub oom_score: i32,
    /// Parts that shall not be there, by `<type>.<id>`.
    pub disabled: Vec<String>,
    /// How long what leaves the process may take.
    pub timeouts: Timeouts,
    /// What each part is told, by `<type>.<id>`.
    pub plugins: BTreeMap<String, Table>,
}

/// A socket that the daemon listens on.
#[derive(Clone, Debug, Default)]
pub struct Socket {
    /// The path of the socket.
    pub address: String,
    /// Whose it is.
    pub uid: u32,
    /// Its group's.
    pub gid: u32,
    /// The sizes of messages.
    pub limits: services::Limits,
}

/// Something in a config file that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl Default for Config {
    fn default() -> Self {
        let address = "/run/containerd/containerd.sock".to_owned();
        Self {
            root: "/var/lib/containerd".into(),
            state: "/run/containerd".into(),
            grpc: Socket { address, ..Socket::default() },
            ttrpc: Socket::default(),
            metrics: String::new(),
            open_timeout: Duration::ZERO,
            level: "info".into(),
            format: "text".into(),
            oom_score: 0,
            disabled: Vec::new(),
            timeouts: Timeouts::default(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the file at `path`. One that does not exist is as good as an empty one only where the
    /// caller says so.
    ///
    /// Errors: `NotFound` when there is none; `InvalidArgument` when it makes no sense.
    pub fn read(path: &Path) -> Result<(Self, Vec<Warning>)> {
        let text = fs::read_to_string(path).map_err(|e| {
            let is_missing = e.kind() == std::io::ErrorKind::NotFound;
            let kind = if is_missing { Kind::NotFound } else { Kind::Unknown };
            Error::caused(kind, "failed to load TOML", e)
        })?;
        Self::parse(&text).map_err(|e| e.context(format!("{}", path.display())))
    }

    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<(Self, Vec<Warning>)> {
        let file: File = toml::from_str(text).map_err(invalid)?;
        let mut warnings = Vec::new();
        let version = file.version.unwrap_or(1);
        if version == 0 || version > NEWEST {
            return Err(Error::invalid(format!(
                "expected containerd config version equal to or less than `{NEWEST}`, got `{version}`"
            )));
        }
        if version < 3 {
            let message = format!("config version {version} is old: version 3 is read best");
            warnings.push(Warning(message));
        }
        Ok((file.apply(version, &mut warnings)?, warnings))
    }

    /// The ttrpc socket's address.
    pub fn ttrpc_address(&self) -> String {
        match self.ttrpc.address.as_str() {
            "" => format!("{}.ttrpc", self.grpc.address),
            address => address.to_owned(),
        }
    }

    /// Whether a part shall not be there.
    pub fn is_disabled(&self, uri: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled == uri)
    }

    /// What a part is told, as its own type.
    pub fn section<T: Default + for<'de> Deserialize<'de>>(&self, uri: &str) -> Result<T> {
        match self.plugins.get(uri) {
            None => Ok(T::default()),
            Some(table) => {
                table.clone().try_into().map_err(|e| invalid(e).context(format!("plugins.{uri:?}")))
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err")]
fn invalid(error: toml::de::Error) -> Error {
    Error::said(Kind::InvalidArgument, error.to_string())
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
struct File {
    version: Option<u32>,
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    oom_score: Option<i32>,
    #[serde(default)]
    disabled_plugins: Vec<String>,
    #[serde(default)]
    grpc: Listen,
    #[serde(default)]
    ttrpc: Listen,
    #[serde(default)]
    debug: Debug,
    #[serde(default)]
    metrics: Metrics,
    #[serde(default)]
    timeouts: BTreeMap<String, String>,
    #[serde(default)]
    plugins: BTreeMap<String, Table>,
    #[serde(flatten)]
    rest: Table,
}

#[derive(Debug, Default, Deserialize)]
struct Listen {
    address: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    max_recv_message_size: Option<usize>,
    max_send_message_size: Option<usize>,
    #[serde(flatten)]
    rest: Table,
}

#[derive(Debug, Default, Deserialize)]
struct Metrics {
    address: Option<String>,
    #[serde(flatten)]
    rest: Table,
}

#[derive(Debug, Default, Deserialize)]
struct Debug {
    level: Option<String>,
    format: Option<String>,
    #[serde(flatten)]
    rest: Table,
}

impl File {
    fn apply(mut self, version: u32, warnings: &mut Vec<Warning>) -> Result<Config> {
        let mut config = Config::default();
        self.lift_servers()?;
        for (section, rest) in [
            ("", &self.rest),
            ("grpc.", &self.grpc.rest),
            ("ttrpc.", &self.ttrpc.rest),
            ("debug.", &self.debug.rest),
            ("metrics.", &self.metrics.rest),
        ] {
            warnings.extend(rest.iter().filter(|(_, value)| !is_empty(value)).map(|(key, _)| {
                Warning(format!("unknown section or key in config: {section}{key}"))
            }));
        }
        set(&mut config.root, self.root.filter(|path| !path.as_os_str().is_empty()));
        set(&mut config.state, self.state.filter(|path| !path.as_os_str().is_empty()));
        set(&mut config.oom_score, self.oom_score);
        set(&mut config.level, self.debug.level.filter(|level| !level.is_empty()));
        set(&mut config.format, self.debug.format.filter(|format| !format.is_empty()));
        set(&mut config.metrics, self.metrics.address);
        self.grpc.apply(&mut config.grpc);
        self.ttrpc.apply(&mut config.ttrpc);
        config.disabled = self.disabled_plugins;
        for (name, value) in &self.timeouts {
            timeout(&mut config, name, value, warnings)?;
        }
        let uri = |name: String| if version == 1 { long_name(name) } else { name };
        config.plugins = self.plugins.into_iter().map(|(name, it)| (uri(name), it)).collect();
        Ok(config)
    }

    /// Version 4 keeps the servers' settings among the plugins' (containerd
    /// `cmd/containerd/server/config/config.go`).
    fn lift_servers(&mut self) -> Result<()> {
        if let Some(grpc) = self.plugins.remove("io.containerd.server.v1.grpc") {
            self.grpc = grpc.try_into().map_err(invalid)?;
        }
        if let Some(ttrpc) = self.plugins.remove("io.containerd.server.v1.ttrpc") {
            self.ttrpc = ttrpc.try_into().map_err(invalid)?;
        }
        if let Some(metrics) = self.plugins.remove("io.containerd.server.v1.metrics") {
            self.metrics = metrics.try_into().map_err(invalid)?;
        }
        if let Some(debug) = self.plugins.remove("io.containerd.server.v1.debug") {
            self.debug = debug.try_into().map_err(invalid)?;
        }
        Ok(())
    }
}

impl Listen {
    fn apply(self, socket: &mut Socket) {
        set(&mut socket.address, self.address.filter(|address| !address.is_empty()));
        set(&mut socket.uid, self.uid);
        set(&mut socket.gid, self.gid);
        set(&mut socket.limits.receive, self.max_recv_message_size.filter(|&size| size > 0));
        set(&mut socket.limits.send, self.max_send_message_size.filter(|&size| size > 0));
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Whether a value says nothing: dumped default configs are full of these.
fn is_empty(value: &toml::Value) -> bool {
    match value {
        toml::Value::String(text) => text.is_empty(),
        toml::Value::Array(items) => items.is_empty(),
        toml::Value::Table(table) => table.values().all(is_empty),
        toml::Value::Integer(number) => *number == 0,
        toml::Value::Boolean(is_set) => !is_set,
        toml::Value::Float(_) | toml::Value::Datetime(_) => false,
    }
}

/// Version 1 names plugins by their id alone.
fn long_name(name: String) -> String {
    match name.as_str() {
        "overlayfs" | "native" => format!("io.containerd.snapshotter.v1.{name}"),
        "bolt" => "io.containerd.metadata.v1.bolt".into(),
        "scheduler" => "io.containerd.gc.v1.scheduler".into(),
        "cri" => "io.containerd.grpc.v1.cri".into(),
        _ => name,
    }
}

fn timeout(
    config: &mut Config,
    name: &str,
    value: &str,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let Config { timeouts, open_timeout, .. } = config;
    let place = match name {
        "io.containerd.timeout.bolt.open" => open_timeout,
        "io.containerd.timeout.shim.load" => &mut timeouts.load,
        "io.containerd.timeout.shim.cleanup" => &mut timeouts.cleanup,
        "io.containerd.timeout.shim.shutdown" => &mut timeouts.shutdown,
        "io.containerd.timeout.task.state" => &mut timeouts.state,
        "io.containerd.timeout.metrics.shimstats" => &mut timeouts.stats,
        _ => {
            warnings.push(Warning(format!("unknown timeout in config: {name}")));
            return Ok(());
        }
    };
    *place = duration(value)
        .ok_or_else(|| Error::invalid(format!("timeout {name}: not a duration: {value:?}")))?;
    Ok(())
}

/// Reads a duration as Go writes it: `1m30s`, `100ms`. A bare `0` is none at all.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * unit).ok()?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Config, Vec<String>) {
        let (config, warnings) = Config::parse(text).unwrap();
        (config, warnings.into_iter().map(|warning| warning.0).collect())
    }

    #[test]
    fn versions_two_and_three_say_the_same_in_the_same_words() {
        for version in [2, 3] {
            let (config, warnings) = parse(&format!(
                r#"
                version = {version}
                root = "/r"
                state = "/s"
                disabled_plugins = ["io.containerd.snapshotter.v1.native"]
                [grpc]
                  address = "/s/c.sock"
                  gid = 7
                  max_recv_message_size = 1024
                [debug]
                  level = "debug"
                [timeouts]
                  "io.containerd.timeout.shim.load" = "1m30s"
                  "io.containerd.timeout.metrics.shimstats" = "3s"
                  "io.containerd.timeout.bolt.open" = "4s"
                [metrics]
                  address = "127.0.0.1:1338"
                [plugins."io.containerd.gc.v1.scheduler"]
                  mutation_threshold = 7
                "#
            ));
            assert_eq!((config.root, config.state), ("/r".into(), "/s".into()));
            assert_eq!((config.grpc.gid, config.grpc.limits.receive), (7, 1024));
            assert_eq!(config.timeouts.load, Duration::from_secs(90));
            assert_eq!(config.timeouts.stats, Duration::from_secs(3));
            assert_eq!(config.open_timeout, Duration::from_secs(4));
            assert_eq!(config.metrics, "127.0.0.1:1338");
            assert_eq!(config.level, "debug");
            assert_eq!(config.plugins.len(), 1);
            assert_eq!(config.disabled, ["io.containerd.snapshotter.v1.native"]);
            assert_eq!(warnings.len(), usize::from(version == 2), "{warnings:?}");
        }
    }

    #[test]
    fn version_four_keeps_its_servers_among_the_plugins() {
        let text = r#"
            version = 4
            [plugins."io.containerd.server.v1.grpc"]
              address = "/a.sock"
            [plugins."io.containerd.server.v1.metrics"]
              address = "127.0.0.1:1338"
        "#;
        let (config, warnings) = parse(text);
        assert_eq!(config.grpc.address, "/a.sock");
        assert_eq!(config.metrics, "127.0.0.1:1338");
        assert_eq!(config.ttrpc_address(), "/a.sock.ttrpc");
        assert!(warnings.is_empty() && config.plugins.is_empty());
    }

    #[test]
    fn what_is_not_known_is_a_warning() {
        let (_, warnings) = parse("version = 3\nbogus = 1\n[nonsense]\na = 1\n[grpc]\nx = 2\n");
        assert_eq!(
            warnings,
            [
                "unknown section or key in config: bogus",
                "unknown section or key in config: nonsense",
                "unknown section or key in config: grpc.x",
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "version = 9",
            "version = 0",
            "root = 1",
            "= 3",
            "[timeouts]\n\
            \"io.containerd.timeout.shim.load\" = \"soon\"",
        ] {
            let error = Config::parse(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("100ms"), Some(100));
        assert_eq!(ms("1.5s"), Some(1500));
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("0s"), Some(0));
        for bad in ["", "s", "5", "1x", "-1s"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }
}
