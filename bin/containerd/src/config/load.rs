// SPDX-License-Identifier: Apache-2.0
//! From files to one table: read, brought to the version that is worked with, merged.
//!
//! ```text
//! config.toml --parse--> table --migrate--> version 3 --.
//!    `- imports --> conf.d/*.toml --parse, migrate------+--merge--> one table
//! ```
//!
//! The rules of merging are those of containerd `cmd/containerd/server/config/config.go`,
//! `mergeConfig`: what is empty says nothing, lists are united, and tables are merged by key, but
//! processors, proxies and timeouts are replaced by name.
use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use fs_err as fs;
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};
use types::{Error, Kind, Result};

use super::{Warning, migrate};

/// The newest version of the config file.
pub(super) const NEWEST: i64 = 4;

/// Sections whose entries are replaced as a whole.
const REPLACED: &[&str] = &["stream_processors", "proxy_plugins", "timeouts"];

/// The keys of a file, by section; `*` is any key.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "version",
            "root",
            "state",
            "temp",
            "plugin_dir",
            "disabled_plugins",
            "required_plugins",
            "oom_score",
            "imports",
            "subreaper",
            "grpc",
            "ttrpc",
            "debug",
            "metrics",
            "cgroup",
            "timeouts",
            "proxy_plugins",
            "stream_processors",
            "plugins",
        ],
    ),
    (
        "grpc",
        &[
            "address",
            "tcp_address",
            "tcp_tls_ca",
            "tcp_tls_cert",
            "tcp_tls_key",
            "tcp_tls_common_name",
            "uid",
            "gid",
            "max_recv_message_size",
            "max_send_message_size",
        ],
    ),
    ("ttrpc", &["address", "uid", "gid"]),
    ("debug", &["address", "uid", "gid", "level", "format"]),
    ("metrics", &["address", "grpc_histogram"]),
    ("cgroup", &["path"]),
];

/// What files say, in the words of version 3.
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded {
    pub(super) table: Table,
    /// The version of the first file.
    pub(super) version: i64,
    pub(super) warnings: Vec<Warning>,
}

/// Reads the file at `path` and, if `imports` are wanted, those that it imports.
///
/// Errors: `NotFound` when there is none; `InvalidArgument` when it makes no sense.
pub(super) fn load(path: &Path, imports: bool) -> Result<Loaded> {
    let mut pending = VecDeque::from([path.to_owned()]);
    let mut seen = BTreeSet::new();
    let mut all = Loaded::default();
    while let Some(path) = pending.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = read(&path)?;
        let name = path.display().to_string();
        let failed = |e: Error| e.context(format!("failed to load TOML from {name}"));
        let one = parse(&text, &name).map_err(failed)?;
        if seen.len() == 1 {
            all.version = one.version;
        }
        if one.version > all.version {
            return Err(Error::invalid(format!(
                "drop-in config version {} higher than root config version {}",
                one.version, all.version
            )));
        }
        if imports {
            pending.extend(imported(&path, &one.table));
        }
        merge(&mut all.table, one.table);
        all.warnings.extend(one.warnings);
    }
    Ok(all)
}

/// Reads one file's text. `name` is what it is called in warnings.
pub(super) fn parse(text: &str, name: &str) -> Result<Loaded> {
    let mut table: Table = toml::from_str(text).map_err(invalid)?;
    let mut warnings = unknown(text, name);
    let version = match table.get("version") {
        None => 1,
        Some(Value::Integer(version)) => *version,
        Some(_) => return Err(Error::invalid("version is not a number")),
    };
    if !(1..=NEWEST).contains(&version) {
        return Err(Error::invalid(format!(
            "expected containerd config version equal to or less than `{NEWEST}`, got `{version}`"
        )));
    }
    for list in ["disabled_plugins", "required_plugins"] {
        check_uris(&table, list, version)?;
    }
    if version < 3 {
        warnings.push(Warning(format!(
            "{name}: configuration migrated from version {version}, use `containerd config \
             migrate` to avoid migration"
        )));
    }
    migrate::to_version_3(&mut table, version);
    Ok(Loaded { table, version, warnings })
}

#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err")]
pub(super) fn invalid(error: toml::de::Error) -> Error {
    Error::said(Kind::InvalidArgument, error.to_string())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| {
        let is_missing = e.kind() == std::io::ErrorKind::NotFound;
        let kind = if is_missing { Kind::NotFound } else { Kind::Unknown };
        Error::caused(kind, "failed to load TOML", e)
    })
}

/// Since version 2 a plugin is named in full.
fn check_uris(table: &Table, list: &str, version: i64) -> Result<()> {
    let Some(Value::Array(uris)) = table.get(list) else { return Ok(()) };
    let bare = uris.iter().filter_map(Value::as_str).find(|uri| !uri.contains('.'));
    match bare.filter(|_| version > 1) {
        Some(uri) => {
            let word = list.trim_end_matches("_plugins");
            Err(Error::invalid(format!(
                "invalid {word} plugin URI {uri:?} expect io.containerd.x.vx"
            )))
        }
        None => Ok(()),
    }
}

/// What a file says that nobody listens to, with the place where it says so.
fn unknown(text: &str, name: &str) -> Vec<Warning> {
    let Ok(document) = DeTable::parse(text) else { return Vec::new() };
    let mut warnings = Vec::new();
    note_unknown(document.get_ref(), "", text, name, &mut warnings);
    warnings
}

fn note_unknown(table: &DeTable<'_>, section: &str, text: &str, name: &str, to: &mut Vec<Warning>) {
    let Some((_, known)) = KNOWN.iter().find(|(known, _)| *known == section) else { return };
    for (key, value) in table {
        let word = key.get_ref().as_ref();
        if !known.contains(&word) {
            let line = text[..key.span().start].matches('\n').count() + 1;
            let dot = if section.is_empty() { "" } else { "." };
            let what = format!("unknown section or key in config: {section}{dot}{word}");
            to.push(Warning(format!("{name}:{line}: {what}")));
        }
        if let (DeValue::Table(inner), "") = (value.get_ref(), section) {
            note_unknown(inner, word, text, name, to);
        }
    }
}

/// The files that a table imports: globs and paths, from the directory of its own file.
fn imported(parent: &Path, table: &Table) -> Vec<PathBuf> {
    let Some(Value::Array(imports)) = table.get("imports") else { return Vec::new() };
    let directory = parent.parent().unwrap_or_else(|| Path::new("/"));
    let paths = imports.iter().filter_map(Value::as_str).map(|path| directory.join(path));
    paths.flat_map(|path| if is_glob(&path) { matching(&path) } else { vec![path] }).collect()
}

fn is_glob(path: &Path) -> bool {
    path.to_string_lossy().contains('*')
}

/// The files that match a glob, by name. `*` stands for anything within one name.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str().to_string_lossy().into_owned();
        found = found.into_iter().flat_map(|base| step(&base, &part)).collect();
    }
    found
}

fn step(base: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains('*') {
        let path = base.join(part);
        return if path.exists() { vec![path] } else { Vec::new() };
    }
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| matches(part, name)).collect();
    names.sort();
    names.into_iter().map(|name| base.join(name)).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| matches(after, &rest[at..]))
        }),
    }
}

/// Merges `from` into `to`.
pub(super) fn merge(to: &mut Table, from: Table) {
    for (key, value) in from {
        match (to.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => {
                let is_replaced = REPLACED.contains(&key.as_str());
                if is_replaced { old.extend(new) } else { merge_plain(old, new, key == "plugins") }
            }
            (Some(Value::Array(old)), Value::Array(new)) => unite(old, new),
            (Some(_), value) if is_empty(&value) => {}
            (_, value) => drop(to.insert(key, value)),
        }
    }
}

/// Merges a section. In a plugin's, what is empty is meant, and a list replaces another.
fn merge_plain(to: &mut Table, from: Table, is_plugins: bool) {
    for (key, value) in from {
        match (to.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge_plain(old, new, is_plugins),
            (Some(Value::Array(old)), Value::Array(new)) if !is_plugins => unite(old, new),
            (Some(_), value) if !is_plugins && is_empty(&value) => {}
            (_, value) => drop(to.insert(key, value)),
        }
    }
}

fn unite(to: &mut Vec<Value>, from: Vec<Value>) {
    for value in from {
        if !to.contains(&value) {
            to.push(value);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Boolean(is_set) => !is_set,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    #[track_caller]
    fn check(to: &str, from: &str, want: &str) {
        let mut merged = table(to);
        merge(&mut merged, table(from));
        assert_eq!(merged, table(want));
    }

    #[test]
    fn what_is_empty_says_nothing_and_lists_are_united() {
        check("root = \"/a\"", "root = \"\"", "root = \"/a\"");
        check("oom_score = 1", "oom_score = 0", "oom_score = 1");
        check("oom_score = 1", "oom_score = 2", "oom_score = 2");
        check(
            "imports = [\"1\", \"2\"]",
            "imports = [\"1\", \"3\"]",
            "imports = [\"1\", \"2\", \"3\"]",
        );
        check("[grpc]\nuid = 1", "[grpc]\ngid = 2\nuid = 0", "[grpc]\nuid = 1\ngid = 2");
    }

    #[test]
    fn plugins_are_merged_key_by_key_and_processors_are_not() {
        check(
            "[plugins.a.v1.cni]\nbin = \"x\"\nlist = [1]\non = true",
            "[plugins.a.v1.registry]\npath = \"y\"\n[plugins.a.v1.cni]\nlist = [2]\non = false",
            "[plugins.a.v1.cni]\nbin = \"x\"\nlist = [2]\non = false\n[plugins.a.v1.registry]\npath = \"y\"",
        );
        check(
            "[stream_processors.a]\npath = \"x\"\nargs = [\"1\"]",
            "[stream_processors.a]\npath = \"y\"",
            "[stream_processors.a]\npath = \"y\"",
        );
    }

    #[test]
    fn imports_are_globs_and_paths_from_the_file_s_own_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("conf.d")).unwrap();
        let main = "version = 3\nimports = [\"conf.d/*.toml\", \"one.toml\"]\noom_score = 1";
        fs::write(at("config.toml"), main).unwrap();
        fs::write(at("conf.d/b.toml"), "version = 2\noom_score = 3").unwrap();
        fs::write(at("conf.d/a.toml"), "version = 2\noom_score = 2\nroot = \"/a\"").unwrap();
        fs::write(at("conf.d/c.txt"), "not toml").unwrap();
        fs::write(at("one.toml"), "imports = [\"config.toml\"]\nstate = \"/one\"").unwrap();
        let all = load(&at("config.toml"), true).unwrap();
        assert_eq!(all.table["oom_score"].as_integer(), Some(3));
        assert_eq!(all.table["root"].as_str(), Some("/a"));
        assert_eq!(all.table["state"].as_str(), Some("/one"));
        assert_eq!(all.version, 3);
        let alone = load(&at("config.toml"), false).unwrap();
        assert_eq!(alone.table["oom_score"].as_integer(), Some(1));

        fs::write(at("one.toml"), "version = 4").unwrap();
        let error = load(&at("config.toml"), true).unwrap_err();
        assert!(error.to_string().contains("drop-in config version 4 higher"), "{error}");
        fs::remove_file(at("one.toml")).unwrap();
        assert!(load(&at("config.toml"), true).unwrap_err().is_not_found());
    }

    #[test]
    fn stars_stand_for_parts_of_names() {
        for (pattern, name, want) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.tom", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "abc", true),
            ("a*b", "ac", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn what_nobody_listens_to_is_told_with_its_place() {
        let text = "version = 3\nbogus = 1\n\n[nonsense]\na = 1\n[grpc]\nx = 2\n";
        let warnings: Vec<_> = parse(text, "c.toml").unwrap().warnings;
        let texts: Vec<_> = warnings.into_iter().map(|warning| warning.0).collect();
        let mut want = [
            "c.toml:2: unknown section or key in config: bogus",
            "c.toml:4: unknown section or key in config: nonsense",
            "c.toml:7: unknown section or key in config: grpc.x",
        ];
        want.sort_unstable();
        let mut texts = texts;
        texts.sort_unstable();
        assert_eq!(texts, want);
    }

    #[test]
    fn a_plugin_is_named_in_full() {
        let error = parse("version = 2\ndisabled_plugins = [\"cri\"]", "c").unwrap_err();
        let want =
            "invalid disabled plugin URI \"cri\" expect io.containerd.x.vx: invalid argument";
        assert_eq!(error.to_string(), want);
    }
}
