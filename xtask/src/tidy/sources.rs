// SPDX-License-Identifier: Apache-2.0
//! What every source file and every manifest has, and what none may have.

use std::path::{Path, PathBuf};

use e2e::Outcome;

/// More than anybody reads in one sitting.
const LONGEST: usize = 1000;

const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0";

/// What a finished file does not contain. Put together here, so that this file passes too.
const FORBIDDEN: [(&str, &str); 4] = [
    (concat!("#[", "ignore"), "a test that is not run is no test"),
    (concat!("todo", "!("), "finish it"),
    (concat!("unimplemented", "!("), "finish it"),
    (concat!("FIX", "ME"), "fix it, or say in an issue why not"),
];

/// Beginnings of file names that say nothing about what is inside, and `mod.rs`.
const NAMELESS: [&str; 5] = ["util", "common", "helper", "misc", "mod.rs"];

pub(super) fn check(root: &Path) -> Outcome<Vec<String>> {
    let files = files(root)?;
    let mut wrong = Vec::new();
    for path in &files {
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        if path.extension().is_some_and(|extension| extension == "rs") {
            wrong.extend(in_source(&shown, &fs_err::read_to_string(path)?));
        } else if path.ends_with("Cargo.toml") && path.parent() != Some(root) {
            wrong.extend(in_manifest(&shown, &fs_err::read_to_string(path)?));
        }
    }
    Ok(wrong)
}

fn in_source(path: &str, text: &str) -> Vec<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let lines = text.lines().count();
    let licensed = text.lines().next() == Some(LICENCE);
    let rules = [
        (licensed, format!("{path}: its first line is not {LICENCE:?}")),
        (lines <= LONGEST, format!("{path}: {lines} lines, more than {LONGEST}: split it")),
        (
            !NAMELESS.iter().any(|nameless| name.starts_with(nameless)),
            format!("{path}: name it for what is inside (and `foo.rs` beside `foo/`)"),
        ),
    ];
    let broken = rules.into_iter().filter(|(kept, _)| !kept).map(|(_, words)| words);
    broken.chain(forbidden(path, text)).collect()
}

fn forbidden(path: &str, text: &str) -> Vec<String> {
    let numbered = text.lines().enumerate();
    let found = numbered.flat_map(|(index, line)| {
        // What another test starts as a process of its own is no test by itself.
        let is_child = line.contains("another test");
        let hits = FORBIDDEN.iter().filter(move |(word, _)| line.contains(word) && !is_child);
        hits.map(move |(word, why)| format!("{path}:{}: {word}: {why}", index + 1))
    });
    found.collect()
}

/// Every crate obeys the workspace's lints. `sys` alone has a list of its own: it is where the
/// unsafe code is.
fn in_manifest(path: &str, text: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    let obeys = lines.next() == Some("workspace = true");
    if obeys || path == "crates/sys/Cargo.toml" {
        return Vec::new();
    }
    vec![format!("{path}: has no `[lints] workspace = true`")]
}

/// Every file of ours, hidden folders and build outputs aside.
fn files(root: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs_err::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') || name == "target" {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> usize {
        in_source(path, text).len()
    }

    #[test]
    fn a_good_file_is_tidy() {
        assert_eq!(check("crates/a/src/lib.rs", &format!("{LICENCE}\n//! Words.\n")), 0);
    }

    #[test]
    fn each_rule_is_told_by_itself() {
        let licensed = |rest: &str| format!("{LICENCE}\n{rest}");
        assert_eq!(check("a/lib.rs", "//! Words.\n"), 1);
        assert_eq!(check("a/mod.rs", &licensed("")), 1);
        assert_eq!(check("a/utils.rs", &licensed("")), 1);
        assert_eq!(check("a/lib.rs", &licensed(&"\n".repeat(1000))), 1);
        assert_eq!(check("a/lib.rs", &licensed(concat!("// FIX", "ME later\n"))), 1);
    }

    #[test]
    fn a_manifest_without_the_lints_is_told() {
        assert_eq!(in_manifest("a/Cargo.toml", "[package]\n").len(), 1);
        assert_eq!(in_manifest("a/Cargo.toml", "[lints]\nworkspace = true\n").len(), 0);
        assert_eq!(in_manifest("crates/sys/Cargo.toml", "[lints.rust]\n").len(), 0);
    }

    #[test]
    fn build_outputs_are_not_ours() -> Outcome {
        let dir = tempfile::tempdir()?;
        for path in ["src/lib.rs", "target/debug/x.rs", ".git/y.rs"] {
            let path = dir.path().join(path);
            fs_err::create_dir_all(path.parent().expect("it is in a folder"))?;
            fs_err::write(path, "")?;
        }
        assert_eq!(files(dir.path())?, [dir.path().join("src/lib.rs")]);
        Ok(())
    }
}
