// SPDX-License-Identifier: Apache-2.0
//! Bundles and shims: what containers leave on the host when nobody looks after them.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::SystemTime,
};

use fs_err as fs;
use records::{State, audit::Thing};

/// Where bundles are, below the state directory (containerd `core/runtime/v2/task_manager.go`).
const TASKS: &str = "io.containerd.runtime.v2.task";

/// A container or a sandbox, by namespace and id.
pub(super) type Name = (String, String);

/// What there is on the host.
#[derive(Debug, Default)]
pub(super) struct Host {
    bundles: Vec<(Name, PathBuf)>,
    shims: Vec<(Name, u32)>,
}

impl Host {
    /// Looks for the shims that speak to `address`, and for the bundles below `state`: in this
    /// order, because a shim comes after its bundle.
    pub(super) fn look(state: &Path, address: &Path) -> Self {
        let shims = shims(Path::new("/proc"), address);
        let tasks = state.join(TASKS);
        let namespaces = names(&tasks).into_iter();
        let bundles = namespaces.flat_map(|namespace| {
            let dir = tasks.join(&namespace);
            names(&dir).into_iter().map(move |id| {
                let path = dir.join(&id);
                ((namespace.clone(), id), path)
            })
        });
        Self { bundles: bundles.collect(), shims }
    }
}

/// Whose each bundle and shim is, by the records that there are.
pub(super) fn judge(host: &Host, recorded: &BTreeSet<Name>) -> Vec<Thing> {
    let shim_of = |name: &Name| host.shims.iter().find(|(of, _)| of == name);
    let bundles = host.bundles.iter().map(|(name, path)| {
        let record = recorded.contains(name).then(|| format!("container {}", name.1));
        let shim = shim_of(name).map(|(_, pid)| format!("shim {pid}"));
        let owners = record.into_iter().chain(shim).collect();
        thing("bundle", name, name.1.clone(), Some(path.clone()), owners)
    });
    let shims = host.shims.iter().map(|(name, pid)| {
        let has_bundle = host.bundles.iter().any(|(of, _)| of == name);
        let owners = has_bundle.then(|| format!("bundle {}", name.1)).into_iter().collect();
        thing("shim", name, format!("{pid} of {}", name.1), None, owners)
    });
    bundles.chain(shims).collect()
}

fn thing(
    kind: &str,
    name: &Name,
    shown: String,
    path: Option<PathBuf>,
    owners: Vec<String>,
) -> Thing {
    Thing {
        kind: kind.to_owned(),
        namespace: name.0.clone(),
        name: shown,
        since: path.as_deref().and_then(changed_at),
        path,
        size: 0,
        state: if owners.is_empty() { State::Orphan } else { State::Kept },
        owners,
    }
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|about| about.modified()).ok()
}

/// The directories in a directory; hidden ones are what is being removed.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = dirs.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn shims(proc: &Path, address: &Path) -> Vec<(Name, u32)> {
    let processes = names(proc).into_iter().filter_map(|name| name.parse::<u32>().ok());
    let shims = processes.filter_map(|pid| {
        let line = fs::read(proc.join(pid.to_string()).join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split('\0').collect();
        Some((shim(&words, &address.to_string_lossy())?, pid))
    });
    shims.collect()
}

/// What a process is the shim of, by its command line (containerd `pkg/shim/util.go`, `Command`).
/// One that is only starting or cleaning up has a further word.
fn shim(words: &[&str], address: &str) -> Option<Name> {
    let program = words.first()?.rsplit('/').next()?;
    let after = |flag: &str| {
        let at = words.iter().position(|word| word.trim_start_matches('-') == flag)?;
        words.get(at + 1).map(|word| (*word).to_owned())
    };
    let is_short_lived = words.iter().any(|word| matches!(*word, "start" | "delete"));
    let is_ours = program.starts_with("containerd-shim") && after("address")? == address;
    (is_ours && !is_short_lived).then_some((after("namespace")?, after("id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> Name {
        ("n".to_owned(), id.to_owned())
    }

    #[test]
    fn a_shim_is_known_by_its_command_line() {
        let line = "/usr/bin/containerd-shim-runc-v2 -namespace n -id a -address /run/c.sock";
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(shim(&words, "/run/c.sock"), Some(name("a")));
        assert_eq!(shim(&words, "/run/other.sock"), None);
        assert_eq!(shim(&[words.as_slice(), &["start"]].concat(), "/run/c.sock"), None);
        assert_eq!(shim(&["sleep", "1"], "/run/c.sock"), None);
    }

    #[test]
    fn a_bundle_is_kept_by_a_record_or_a_shim_and_a_shim_by_its_bundle() {
        let bundle = |id: &str| (name(id), PathBuf::from("/b").join(id));
        let host = Host {
            bundles: vec![bundle("both"), bundle("shim"), bundle("neither")],
            shims: vec![(name("both"), 1), (name("shim"), 2), (name("lonely"), 3)],
        };
        let things = judge(&host, &[name("both")].into());
        let told: Vec<_> = things
            .iter()
            .map(|it| format!("{} {}: {}", it.kind, it.name, it.owners.join(", ")))
            .collect();
        let want = [
            "bundle both: container both, shim 1",
            "bundle shim: shim 2",
            "bundle neither: ",
            "shim 1 of both: bundle both",
            "shim 2 of shim: bundle shim",
            "shim 3 of lonely: ",
        ];
        assert_eq!(told, want);
        let orphans = things.iter().filter(|it| it.state == State::Orphan);
        assert_eq!(orphans.count(), 2);
    }
}
