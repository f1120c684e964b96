// SPDX-License-Identifier: Apache-2.0
//! Who may depend on whom: the table in `ARCHITECTURE.md` against what cargo says.
//!
//! The table is the fenced block after `<!-- dependency-table -->`, one crate per line with its
//! neighbours after a colon. `types` is open to all and need not be named; a star stands for
//! everything. Both sides are compared: an edge that nobody uses any more is wrong as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use e2e::{Context, Outcome, PATIENCE, ensure, process};
use serde_json::Value;

use crate::run::cargo;

type Table = BTreeMap<String, BTreeSet<String>>;

const MARK: &str = "<!-- dependency-table -->";

pub(super) fn check(root: &Path) -> Outcome<Vec<String>> {
    let text = fs_err::read_to_string(root.join("ARCHITECTURE.md"))?;
    let table = parse(&text).context("ARCHITECTURE.md")?;
    let words = ["metadata", "--no-deps", "--format-version", "1"];
    let answer = process::run(&mut cargo(&words), PATIENCE)?.ok()?;
    Ok(compare(&table, &actual(&serde_json::from_str(&answer)?)))
}

fn parse(text: &str) -> Outcome<Table> {
    let (_, rest) = text.split_once(MARK).context(format!("it has no {MARK}"))?;
    let block = rest.split("```").nth(1).context("no fenced block after the mark")?;
    let lines = block.lines().skip(1).filter(|line| !line.trim().is_empty());
    let mut table = Table::new();
    for line in lines {
        let (name, neighbours) = line.split_once(':').context(format!("no colon in {line:?}"))?;
        let neighbours = neighbours.split_whitespace().map(str::to_owned).collect();
        let before = table.insert(name.trim().to_owned(), neighbours);
        ensure!(before.is_none(), "{name} stands there twice");
    }
    Ok(table)
}

/// The normal dependencies among the members of the workspace, by the names of the table.
fn actual(metadata: &Value) -> Table {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeMap<&str, String> =
        packages.iter().map(|package| (text(&package["name"]), short(package))).collect();
    let neighbours = |package: &Value| {
        let all = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
        normal.filter_map(|dependency| names.get(text(&dependency["name"])).cloned()).collect()
    };
    packages.iter().map(|package| (short(package), neighbours(package))).collect()
}

/// A crate is called as its folder is, everything else as its package is.
fn short(package: &Value) -> String {
    let folder = text(&package["manifest_path"]).split("/crates/").nth(1);
    let folder = folder.and_then(|path| path.split('/').next());
    folder.unwrap_or_else(|| text(&package["name"])).to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn compare(table: &Table, actual: &Table) -> Vec<String> {
    let names: BTreeSet<&String> = table.keys().chain(actual.keys()).collect();
    names
        .into_iter()
        .flat_map(|name| match (table.get(name), actual.get(name)) {
            (None, _) => vec![format!("ARCHITECTURE.md: the dependency table lacks {name}")],
            (_, None) => vec![format!("ARCHITECTURE.md: there is no crate {name}")],
            (Some(allowed), Some(used)) => differences(name, allowed, used),
        })
        .collect()
}

fn differences(name: &str, allowed: &BTreeSet<String>, used: &BTreeSet<String>) -> Vec<String> {
    if allowed.contains("*") {
        return Vec::new();
    }
    let new = used.difference(allowed).filter(|neighbour| *neighbour != "types");
    let old = allowed.difference(used).filter(|neighbour| *neighbour != "types");
    new.map(|other| format!("{name} uses {other}, which ARCHITECTURE.md does not allow"))
        .chain(old.map(|other| format!("{name} does not use {other}, as ARCHITECTURE.md says")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "words\n<!-- dependency-table -->\n```text\na: b\nb:\nall: *\n```\nmore\n";

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let all = dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind }));
        json!({
            "name": name,
            "manifest_path": format!("/w/crates/{}/Cargo.toml", name.trim_start_matches("containerd-")),
            "dependencies": all.collect::<Vec<_>>(),
        })
    }

    fn check(packages: &[Value]) -> Vec<String> {
        let table = parse(TEXT).expect("the table is well formed");
        compare(&table, &actual(&json!({ "packages": packages })))
    }

    #[test]
    fn what_the_table_says_is_tidy() {
        let packages = [
            package("containerd-a", &[("containerd-b", None), ("serde", None)]),
            package("containerd-b", &[("containerd-a", Some("dev"))]),
            package("all", &[("containerd-a", None)]),
        ];
        assert_eq!(check(&packages), Vec::<String>::new());
    }

    #[test]
    fn a_new_edge_and_a_lost_one_are_told() {
        let packages = [
            package("containerd-a", &[]),
            package("containerd-b", &[("containerd-a", None)]),
            package("all", &[]),
        ];
        let wrong = check(&packages).join("\n");
        assert!(wrong.contains("a does not use b") && wrong.contains("b uses a"), "{wrong}");
    }

    #[test]
    fn a_crate_that_is_on_one_side_only_is_told() {
        let wrong = check(&[package("containerd-new", &[])]).join("\n");
        assert!(wrong.contains("lacks new") && wrong.contains("no crate a"), "{wrong}");
    }
}
