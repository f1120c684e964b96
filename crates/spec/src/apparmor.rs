// SPDX-License-Identifier: Apache-2.0
//! The AppArmor profile that a container gets where nobody has written one for it.
//!
//! What it allows and denies is what containerd's does (`contrib/apparmor/template.go`): files,
//! capabilities and networks as the rest of the spec has them, but no mounts, nothing of `/proc` and
//! `/sys` that is the host's to be written, and no signals and traces of anybody outside.
use std::path::Path;

use types::{Error, Result};

/// Where AppArmor's own rules are that others include.
const RULES: &str = "/etc/apparmor.d";
/// The label of this process.
const LABEL: &str = "/proc/self/attr/current";

/// What a profile is made of besides its rules: how it is called, and what the machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    name: String,
    /// The profile of who manages containers, which may send them signals.
    manager: String,
    has_abi: bool,
    has_tunables: bool,
    has_base: bool,
    /// The path of rootlesskit, whose profile is called so.
    rootlesskit: Option<String>,
}

impl Profile {
    /// A profile of this name on a machine that has no rules to include.
    ///
    /// Errors: `InvalidArgument` for a name that cannot stand in a profile.
    pub fn new(name: &str) -> Result<Self> {
        let is_bad = |c: char| c.is_control() || "\"\\".contains(c);
        if name.is_empty() || name.contains(is_bad) {
            return Err(Error::invalid(format!("{name:?} cannot be the name of a profile")));
        }
        let manager = "unconfined".to_owned();
        Ok(Self { name: name.to_owned(), manager, ..Self::default() })
    }

    /// A profile of this name for this machine.
    pub fn of_machine(name: &str) -> Result<Self> {
        let profile = Self::new(name)?;
        let has = |file: &str| Path::new(RULES).join(file).exists();
        let label = fs_err::read_to_string(LABEL).unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut found = std::env::split_paths(&path).map(|dir| dir.join("rootlesskit"));
        Ok(Self {
            manager: label_name(&label).map_or(profile.manager, str::to_owned),
            has_abi: has("abi/3.0"),
            has_tunables: has("tunables/global"),
            has_base: has("abstractions/base"),
            rootlesskit: found.find(|it| it.is_file()).map(|it| it.display().to_string()),
            ..profile
        })
    }

    /// Its text, as `apparmor_parser` reads it.
    pub fn text(&self) -> String {
        let tunables =
            if self.has_tunables { "include <tunables/global>" } else { "@{PROC}=/proc/" };
        let flags = "flags=(attach_disconnected,mediate_deleted)";
        let mut lines = Vec::from_iter(self.has_abi.then(|| "abi <abi/3.0>,".to_owned()));
        lines.push(tunables.to_owned());
        lines.push(format!("profile \"{}\" {flags} {{", self.name));
        lines.extend(self.has_base.then(|| "  include <abstractions/base>".to_owned()));
        lines.extend(self.rules().iter().map(|rule| format!("  {rule},")));
        lines.push("}\n".to_owned());
        lines.join("\n")
    }

    fn rules(&self) -> Vec<String> {
        let mut rules: Vec<String> =
            ["network", "capability", "file", "umount", "deny mount"].map(str::to_owned).into();
        let peers = ["unconfined", "runc", "crun", &self.manager];
        let mut peers: Vec<&str> = peers.into_iter().chain(self.rootlesskit.as_deref()).collect();
        peers.dedup();
        rules.extend(peers.iter().map(|peer| format!("signal (receive) peer=\"{peer}\"")));
        rules.push(format!("signal (send, receive) peer=\"{}\"", self.name));
        rules.push(format!("ptrace (trace, tracedby, read, readby) peer=\"{}\"", self.name));
        rules.extend(of_proc());
        rules.extend(of_sys());
        rules
    }
}

/// In `/proc`, only what belongs to a process and `/proc/sys/kernel/shm*` may be written.
fn of_proc() -> Vec<String> {
    let mut rules = vec!["deny @{PROC}/* w".to_owned()];
    rules.push("deny @{PROC}/[^1-9s]*/** w".to_owned());
    rules.extend(besides("@{PROC}/s", "ys", "*/** w"));
    rules.extend(besides("@{PROC}/sys/", "kernel", "** w"));
    rules.extend(besides("@{PROC}/sys/kernel/", "shm", "** w"));
    for file in ["sysrq-trigger", "kcore"] {
        rules.push(format!("deny @{{PROC}}/{file} rwklx"));
    }
    rules
}

/// In `/sys`, only what belongs to control groups may be written; some of it is not even to be read.
fn of_sys() -> Vec<String> {
    let mut rules = besides("/sys/", "fs", "*/** wklx");
    rules.extend(besides("/sys/fs/", "cgroup", "** wklx"));
    for folder in ["firmware", "devices/virtual/powercap", "kernel/security"] {
        rules.push(format!("deny /sys/{folder}/** rwklx"));
    }
    rules
}

/// Denies what begins with `root`, but not with `root` and `word`: AppArmor's patterns know no "all
/// but these", only "not this letter".
fn besides(root: &str, word: &str, rest: &str) -> Vec<String> {
    let letters = word.char_indices();
    let rule = |(at, letter)| format!("deny {root}{}[^{letter}/]{rest}", &word[..at]);
    letters.map(rule).collect()
}

/// The profile of a label as the kernel tells it, `name (mode)` or `unconfined`. A name may have
/// blanks and parentheses of its own.
pub fn label_name(label: &str) -> Option<&str> {
    let label = label.trim_end_matches(['\n', '\0']);
    let name = match label.strip_suffix(')') {
        Some(rest) => rest.rsplit_once(" (").map_or(label, |(name, _)| name),
        None => label,
    };
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_name_and_perhaps_a_mode() {
        for (label, name) in [
            ("unconfined\n", Some("unconfined")),
            ("runc (enforce)\n", Some("runc")),
            ("a (b) c (complain)", Some("a (b) c")),
            ("\n", None),
        ] {
            assert_eq!(label_name(label), name);
        }
    }

    #[test]
    fn a_name_that_would_end_its_quotes_is_refused() {
        for name in ["", "a\"b", "a\\", "a\nb"] {
            assert!(Profile::new(name).is_err(), "{name:?}");
        }
        assert!(Profile::new("cri-containerd.apparmor.d").is_ok());
    }

    #[test]
    fn only_who_manages_it_and_itself_send_it_signals() {
        let profile = Profile { manager: "keeper".into(), ..Profile::new("a b").unwrap() };
        let text = profile.text();
        let signals: Vec<_> = text.lines().filter(|line| line.contains("signal")).collect();
        assert_eq!(
            signals,
            [
                "  signal (receive) peer=\"unconfined\",",
                "  signal (receive) peer=\"runc\",",
                "  signal (receive) peer=\"crun\",",
                "  signal (receive) peer=\"keeper\",",
                "  signal (send, receive) peer=\"a b\",",
            ]
        );
        let both = Profile { rootlesskit: Some("/bin/rootlesskit".into()), ..profile }.text();
        assert!(both.contains("peer=\"/bin/rootlesskit\""), "{both}");
    }

    #[test]
    fn all_but_one_word_is_one_rule_for_each_of_its_letters() {
        let rules = besides("/sys/", "fs", "*/** w");
        assert_eq!(rules, ["deny /sys/[^f/]*/** w", "deny /sys/f[^s/]*/** w"]);
    }
}
