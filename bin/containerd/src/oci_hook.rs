// SPDX-License-Identifier: Apache-2.0
//! `containerd oci-hook`: a program is run as a hook, with the container's state put into its
//! arguments (containerd `cmd/containerd/command/oci-hook.go`).
//!
//! ```text
//! {{id}} {{ns}} {{bundle}} {{rootfs}} {{pid}} {{annotation "name"}}
//! ```
use std::{collections::BTreeMap, env, os::unix::process::CommandExt, path::Path};

use serde::Deserialize;
use types::{Context, Error, Result};

/// What the runtime tells a hook of its container (OCI runtime specification, `runtime.md`, State).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct State {
    /// The container.
    pub id: String,
    /// Its first process.
    pub pid: u32,
    /// Its bundle.
    pub bundle: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Becomes the program that `args` name, with `input` as the state. Returns only when it cannot.
pub fn run(args: &[String], input: &str) -> Error {
    match command(args, input) {
        Ok(mut command) => Error::from(command.exec()).context("exec hook"),
        Err(error) => error,
    }
}

fn command(args: &[String], input: &str) -> Result<std::process::Command> {
    let state: State = serde_json::from_str(input)
        .map_err(|e| Error::caused(types::Kind::InvalidArgument, "state of the container", e))?;
    let root = root(&state.bundle)?;
    let words = args.iter().map(|word| fill(word, &state, &root));
    let words = words.collect::<Result<Vec<_>>>()?;
    let (program, rest) =
        words.split_first().ok_or_else(|| Error::invalid("no program for the hook"))?;
    let mut command = std::process::Command::new(program);
    command.args(rest);
    Ok(command)
}

/// The container's root filesystem, as its spec names it.
fn root(bundle: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Spec {
        root: Root,
    }
    #[derive(Deserialize)]
    struct Root {
        path: String,
    }
    let path = Path::new(bundle).join("config.json");
    let spec: Spec = serde_json::from_slice(&fs_err::read(&path)?)
        .map_err(|e| Error::caused(types::Kind::InvalidArgument, path.display().to_string(), e))?;
    Ok(Path::new(bundle).join(spec.root.path).display().to_string())
}

/// Replaces what is in double braces.
fn fill(word: &str, state: &State, root: &str) -> Result<String> {
    let mut filled = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("{{") {
        let unclosed = || Error::invalid(format!("unclosed action in {word:?}"));
        let (action, after) = after.split_once("}}").ok_or_else(unclosed)?;
        filled.push_str(before);
        filled.push_str(&value(action.trim(), state, root).context(|| word.to_owned())?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn value(action: &str, state: &State, root: &str) -> Result<String> {
    let annotation = |name: &str| state.annotations.get(name).cloned().unwrap_or_default();
    Ok(match action.split_once(char::is_whitespace) {
        None if action == "id" => state.id.clone(),
        // Compat: the namespace is asked of the environment, which the shim sets.
        None if action == "ns" => env::var("NAMESPACE").unwrap_or_default(),
        None if action == "bundle" => state.bundle.clone(),
        None if action == "rootfs" => root.to_owned(),
        None if action == "pid" => state.pid.to_string(),
        Some(("annotation", name)) => annotation(name.trim().trim_matches(['"', '`'])),
        _ => return Err(Error::invalid(format!("function {action:?} not defined"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_put_into_the_arguments() {
        let bundle = tempfile::tempdir().unwrap();
        fs_err::write(bundle.path().join("config.json"), r#"{"root":{"path":"rootfs"}}"#).unwrap();
        let bundle = bundle.path().display().to_string();
        let input = serde_json::json!({
            "id": "c", "pid": 7, "bundle": bundle, "annotations": { "a.b": "x" },
        });
        let args = ["/bin/hook", "--pid={{pid}}", "{{ id }}/{{annotation \"a.b\"}}", "{{rootfs}}"];
        let args = args.map(str::to_owned);
        let command = command(&args, &input.to_string()).unwrap();
        assert_eq!(command.get_program(), "/bin/hook");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words, ["--pid=7", "c/x", &format!("{bundle}/rootfs")]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let state = State::default();
        for bad in ["{{nonsense}}", "{{id"] {
            assert!(fill(bad, &state, "").is_err(), "{bad}");
        }
        assert!(command(&["x".to_owned()], "no json").is_err());
    }
}
