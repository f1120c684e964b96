// SPDX-License-Identifier: Apache-2.0
//! The config files, versions 1 to 4, as far as they concern what this daemon has.
//!
//! Nothing in a config file keeps the daemon from starting but a file that is no TOML, a value of
//! the wrong type, or a version that does not exist: what it does not know is a [`Warning`] with
//! the file and the line.
mod load;
mod migrate;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::Timeouts;
use serde::Deserialize;
use toml::{Table, Value};
use types::{Error, Result};

use self::load::{Loaded, invalid};

/// What is told where nothing else is said.
const DEFAULT: &str = include_str!("config/default.toml");

/// What the daemon is told. Defaults are containerd's (`defaults/defaults_unix.go`).
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything that outlives a reboot is.
    pub root: PathBuf,
    /// Where everything that does not is.
    pub state: PathBuf,
    /// Where temporary files are; empty for the system's place.
    pub temp: PathBuf,
    /// The gRPC socket.
    pub grpc: Socket,
    /// gRPC over TCP, if it is wanted.
    pub tcp: Tcp,
    /// The ttrpc socket. An empty address is the gRPC socket's with `.ttrpc` after it.
    pub ttrpc: Socket,
    /// The TCP address of the metrics; empty for none.
    pub metrics: String,
    /// Whether the metrics tell how long gRPC calls took.
    pub grpc_histogram: bool,
    /// How long opening the database may wait; zero for ever.
    pub open_timeout: Duration,
    /// What is logged: `trace`, `debug`, `info`, `warn`, `error`, `fatal`, `panic`.
    pub level: String,
    /// How it is logged: `text` or `json`.
    pub format: String,
    /// The daemon's own OOM score; 0 leaves it.
    pub oom_score: i32,
    /// The control group to put the daemon into; empty leaves it.
    pub cgroup: String,
    /// Parts that shall not be there, by `<type>.<id>`.
    pub disabled: Vec<String>,
    /// Parts without which the daemon shall not start.
    pub required: Vec<String>,
    /// How long what leaves the process may take.
    pub timeouts: Timeouts,
    /// Parts in other processes, by name.
    pub proxies: BTreeMap<String, Proxy>,
    /// Programs that turn layers into others, by name.
    pub processors: BTreeMap<String, Processor>,
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

/// A port that the daemon listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// `host:port`; empty for none.
    pub address: String,
    /// Whose certificates clients must have; empty for anybody's or none.
    pub ca: PathBuf,
    /// The daemon's certificate; empty for no encryption.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The name that clients' certificates must have.
    pub common_name: String,
}

/// A part in another process.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Proxy {
    /// What it is: `snapshot`, `content`, `diff` or `sandbox`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its socket.
    pub address: String,
    /// The platform that it works for; empty for this one.
    pub platform: String,
    /// What it tells about itself.
    pub exports: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: Vec<String>,
}

/// A program that turns layers of some media types into layers of another.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Processor {
    /// The media types that it reads.
    pub accepts: Vec<String>,
    /// The media type that it writes.
    pub returns: String,
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables for its environment, as `NAME=value`.
    pub env: Vec<String>,
}

/// Something in a config file that has no effect, or not the one that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl Default for Config {
    fn default() -> Self {
        let address = "/run/containerd/containerd.sock".to_owned();
        Self {
            root: "/var/lib/containerd".into(),
            state: "/run/containerd".into(),
            temp: PathBuf::new(),
            grpc: Socket { address, ..Socket::default() },
            tcp: Tcp::default(),
            ttrpc: Socket::default(),
            metrics: String::new(),
            grpc_histogram: false,
            open_timeout: Duration::ZERO,
            level: "info".into(),
            format: "text".into(),
            oom_score: 0,
            cgroup: String::new(),
            disabled: Vec::new(),
            required: Vec::new(),
            timeouts: Timeouts::default(),
            proxies: BTreeMap::new(),
            processors: BTreeMap::new(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the file at `path` and what it imports. One that does not exist is as good as an empty
    /// one only where the caller says so.
    ///
    /// Errors: `NotFound` when there is none; `InvalidArgument` when it makes no sense.
    pub fn read(path: &Path) -> Result<(Self, Vec<Warning>)> {
        Self::of(load::load(path, true)?)
    }

    /// Reads a file's text, without what it imports.
    pub fn parse(text: &str) -> Result<(Self, Vec<Warning>)> {
        Self::of(load::parse(text, "config")?)
    }

    fn of(loaded: Loaded) -> Result<(Self, Vec<Warning>)> {
        let file: File = loaded.table.try_into().map_err(invalid)?;
        let mut warnings = loaded.warnings;
        Ok((file.apply(&mut warnings)?, warnings))
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

/// What `containerd config default` prints.
pub fn default_text() -> String {
    print(&defaults())
}

/// What `containerd config dump` prints: the file at `path` with what it imports and what goes
/// without saying, in the newest words that whoever wrote the file knows.
///
/// Errors: as for [`Config::read`].
pub fn dump(path: &Path) -> Result<String> {
    merged(path, true)
}

/// What `containerd config migrate` prints: the file alone, in newer words.
///
/// Errors: as for [`Config::read`].
pub fn migrate(path: &Path) -> Result<String> {
    merged(path, false)
}

fn merged(path: &Path, imports: bool) -> Result<String> {
    let loaded = load::load(path, imports)?;
    let mut table = defaults();
    // The default is for those who write no imports themselves, and takes effect only then.
    table.insert("imports".into(), Value::Array(Vec::new()));
    load::merge(&mut table, loaded.table);
    if loaded.version > 3 {
        migrate::to_version_4(&mut table);
    }
    Ok(print(&table))
}

fn defaults() -> Table {
    toml::from_str(DEFAULT).expect("the default config is TOML")
}

fn print(table: &Table) -> String {
    toml::to_string(table).expect("a table has a text")
}

/// The file as it is written, in version 3.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    root: PathBuf,
    state: PathBuf,
    temp: PathBuf,
    oom_score: i32,
    disabled_plugins: Vec<String>,
    required_plugins: Vec<String>,
    grpc: Listen,
    ttrpc: Listen,
    debug: Debug,
    metrics: Metrics,
    cgroup: Cgroup,
    timeouts: BTreeMap<String, String>,
    proxy_plugins: BTreeMap<String, Proxy>,
    stream_processors: BTreeMap<String, Processor>,
    plugins: BTreeMap<String, Table>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listen {
    address: String,
    uid: u32,
    gid: u32,
    max_recv_message_size: usize,
    max_send_message_size: usize,
    tcp_address: String,
    tcp_tls_ca: PathBuf,
    tcp_tls_cert: PathBuf,
    tcp_tls_key: PathBuf,
    tcp_tls_common_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metrics {
    address: String,
    grpc_histogram: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Debug {
    address: String,
    level: String,
    format: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cgroup {
    path: String,
}

impl File {
    fn apply(self, warnings: &mut Vec<Warning>) -> Result<Config> {
        let mut config = Config::default();
        set(&mut config.root, self.root, |path| path.as_os_str().is_empty());
        set(&mut config.state, self.state, |path| path.as_os_str().is_empty());
        set(&mut config.level, self.debug.level, String::is_empty);
        set(&mut config.format, self.debug.format, String::is_empty);
        if !self.debug.address.is_empty() {
            warnings.push(Warning("debug.address has no effect: SIGUSR1 tells the state".into()));
        }
        config.metrics = self.metrics.address;
        config.grpc_histogram = self.metrics.grpc_histogram;
        self.grpc.apply(&mut config.grpc);
        config.tcp = Tcp {
            address: self.grpc.tcp_address,
            ca: self.grpc.tcp_tls_ca,
            cert: self.grpc.tcp_tls_cert,
            key: self.grpc.tcp_tls_key,
            common_name: self.grpc.tcp_tls_common_name,
        };
        self.ttrpc.apply(&mut config.ttrpc);
        for (name, value) in &self.timeouts {
            timeout(&mut config, name, value, warnings)?;
        }
        Ok(Config {
            temp: self.temp,
            oom_score: self.oom_score,
            cgroup: self.cgroup.path,
            disabled: self.disabled_plugins,
            required: self.required_plugins,
            proxies: self.proxy_plugins,
            processors: self.stream_processors,
            plugins: self.plugins,
            ..config
        })
    }
}

impl Listen {
    fn apply(&self, socket: &mut Socket) {
        set(&mut socket.address, self.address.clone(), String::is_empty);
        (socket.uid, socket.gid) = (self.uid, self.gid);
        set(&mut socket.limits.receive, self.max_recv_message_size, |&size| size == 0);
        set(&mut socket.limits.send, self.max_send_message_size, |&size| size == 0);
    }
}

fn set<T>(place: &mut T, value: T, is_empty: impl Fn(&T) -> bool) {
    if !is_empty(&value) {
        *place = value;
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
    use types::Kind;

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
                  grpc_histogram = true
                [plugins."io.containerd.gc.v1.scheduler"]
                  mutation_threshold = 7
                "#
            ));
            assert_eq!((config.root, config.state), ("/r".into(), "/s".into()));
            assert_eq!((config.grpc.gid, config.grpc.limits.receive), (7, 1024));
            assert_eq!(config.timeouts.load, Duration::from_secs(90));
            assert_eq!(config.timeouts.stats, Duration::from_secs(3));
            assert_eq!(config.open_timeout, Duration::from_secs(4));
            assert_eq!((config.metrics.as_str(), config.grpc_histogram), ("127.0.0.1:1338", true));
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
            [plugins."io.containerd.server.v1.grpc-tcp"]
              address = "127.0.0.1:0"
              tls_cert = "/cert"
        "#;
        let (config, warnings) = parse(text);
        assert_eq!(config.grpc.address, "/a.sock");
        assert_eq!(config.metrics, "127.0.0.1:1338");
        assert_eq!(config.ttrpc_address(), "/a.sock.ttrpc");
        assert_eq!((config.tcp.address.as_str(), config.tcp.cert), ("127.0.0.1:0", "/cert".into()));
        assert!(warnings.is_empty() && config.plugins.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_file_without_a_version_is_of_the_first() {
        let (config, warnings) = parse("[plugins.scheduler]\nmutation_threshold = 7");
        assert_eq!(config.plugins.keys().collect::<Vec<_>>(), ["io.containerd.gc.v1.scheduler"]);
        assert!(warnings[0].contains("migrated from version 1"), "{warnings:?}");
    }

    #[test]
    fn parts_elsewhere_and_programs_are_read() {
        let (config, _) = parse(
            r#"
            version = 3
            temp = "/t"
            required_plugins = ["io.containerd.snapshotter.v1.stargz"]
            [cgroup]
              path = "/daemons"
            [proxy_plugins.stargz]
              type = "snapshot"
              address = "/run/stargz.sock"
              [proxy_plugins.stargz.exports]
                root = "/var/lib/stargz"
            [stream_processors."x.tar"]
              accepts = ["a/b"]
              returns = "c/d"
              path = "decoder"
            "#,
        );
        assert_eq!((config.temp, config.cgroup.as_str()), ("/t".into(), "/daemons"));
        let proxy = &config.proxies["stargz"];
        assert_eq!((proxy.kind.as_str(), &*proxy.exports["root"]), ("snapshot", "/var/lib/stargz"));
        assert_eq!(config.processors["x.tar"].returns, "c/d");
        assert_eq!(config.required.len(), 1);
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
    fn the_default_config_says_what_goes_without_saying() {
        let (told, warnings) = parse(&default_text());
        assert_eq!(warnings, Vec::<String>::new());
        let silent = Config::default();
        assert_eq!((&told.root, &told.state), (&silent.root, &silent.state));
        assert_eq!(told.grpc.address, silent.grpc.address);
        assert_eq!(told.ttrpc_address(), silent.ttrpc_address());
        assert_eq!(told.grpc.limits.receive, silent.grpc.limits.receive);
        assert_eq!(format!("{:?}", told.timeouts), format!("{:?}", silent.timeouts));
        assert_eq!((told.level, told.oom_score), (silent.level, silent.oom_score));
    }

    #[test]
    fn a_dump_says_the_same_when_it_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let corpus = [
            ("1", "[grpc]\naddress = \"/a\"\n[plugins.overlayfs]\nupperdir_label = true"),
            (
                "2",
                "version = 2\noom_score = -5\n[plugins.\"io.containerd.internal.v1.restart\"]\ninterval = \"3s\"",
            ),
            ("3", "version = 3\nimports = [\"d/*.toml\"]\n[debug]\nlevel = \"debug\""),
            ("4", "version = 4\n[plugins.\"io.containerd.server.v1.ttrpc\"]\naddress = \"/t\""),
        ];
        fs_err::create_dir(at("d")).unwrap();
        fs_err::write(at("d/x.toml"), "version = 3\n[cgroup]\npath = \"/x\"").unwrap();
        for (version, text) in corpus {
            fs_err::write(at("c.toml"), text).unwrap();
            let dumped = dump(&at("c.toml")).unwrap();
            fs_err::write(at("dumped.toml"), &dumped).unwrap();
            let (first, _) = Config::read(&at("c.toml")).unwrap();
            let (again, warnings) = Config::read(&at("dumped.toml")).unwrap();
            assert_eq!(warnings, [], "{dumped}");
            assert_eq!(first.ttrpc_address(), again.ttrpc_address(), "{dumped}");
            let sums = |it: &Config| {
                (it.grpc.address.clone(), it.oom_score, it.level.clone(), it.cgroup.clone())
            };
            assert_eq!(sums(&first), sums(&again), "{dumped}");
            for (uri, section) in &first.plugins {
                for (key, value) in section {
                    assert_eq!(again.plugins[uri].get(key), Some(value), "{dumped}");
                }
            }
            let want = if version == "4" { 4 } else { 3 };
            let table: Table = toml::from_str(&dumped).unwrap();
            assert_eq!(table["version"].as_integer(), Some(want));
        }
        fs_err::write(at("c.toml"), corpus[2].1).unwrap();
        assert!(dump(&at("c.toml")).unwrap().contains("path = \"/x\""));
        assert!(!migrate(&at("c.toml")).unwrap().contains("path = \"/x\""));
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
