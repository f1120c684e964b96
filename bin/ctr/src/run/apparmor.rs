// SPDX-License-Identifier: Apache-2.0
//! Loads containerd's own AppArmor profile where it is not loaded yet.
use std::{path::Path, process::Stdio, time::Duration};

use spec::apparmor::{Profile, label_name};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use types::{Context as _, Error, Kind, Result};

/// What the kernel has loaded, one profile on each line: `name (mode)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// What makes profiles out of text, and gives them to the kernel.
const PARSER: &str = "apparmor_parser";

/// How long a profile may take to be made.
const PATIENCE: Duration = Duration::from_mins(1);

/// Makes sure that the profile of this name is loaded. An empty name is no profile, and one that is
/// loaded stays as it is, whoever wrote it (containerd `contrib/apparmor/apparmor.go`).
///
/// Errors: `FailedPrecondition` where the kernel has no AppArmor, or the machine no parser.
pub(super) async fn load(name: &str) -> Result<()> {
    if name.is_empty() || is_loaded(Path::new(LOADED), name)? {
        return Ok(());
    }
    let text = Profile::of_machine(name)?.text();
    let parsed = timeout(PATIENCE, parse(PARSER, &text)).await;
    let elapsed = |_| Error::deadline(format!("no end of {PARSER} within {PATIENCE:?}"));
    parsed.map_err(elapsed).and_then(|parsed| parsed).context(|| {
        // The words before the cause are Go's.
        format!("load apparmor profile {name}")
    })
}

fn is_loaded(list: &Path, name: &str) -> Result<bool> {
    let loaded = fs_err::read_to_string(list).map_err(|error| {
        let what = "this machine has no AppArmor that a profile could be loaded into";
        Error::caused(Kind::FailedPrecondition, what, error)
    })?;
    Ok(loaded.lines().any(|line| label_name(line) == Some(name)))
}

/// Replaces what is loaded by this text, past the cache of what was made before.
async fn parse(program: &str, text: &str) -> Result<()> {
    let mut parser = Command::new(program);
    parser.arg("-Kr").kill_on_drop(true);
    parser.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = parser.spawn().map_err(|error| {
        Error::caused(Kind::FailedPrecondition, format!("{program} cannot be run"), error)
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A parser that reads no further says why.
        drop(stdin.write_all(text.as_bytes()).await);
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let what = format!("parser error({:?}): {}", said.trim(), output.status);
    Err(Error::said(Kind::Unknown, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_is_found_by_its_whole_name() {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(list.path(), "a b (enforce)\nlsb_release (complain)\n").unwrap();
        let found = |name: &str| is_loaded(list.path(), name).unwrap();
        assert!(found("a b") && found("lsb_release"));
        assert!(!found("a") && !found("lsb") && !found("complain"));
    }

    #[test]
    fn a_kernel_without_apparmor_is_told_of() {
        let error = is_loaded(Path::new("/nowhere/profiles"), "a").unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        let text = error.to_string();
        assert!(text.contains("no AppArmor") && text.contains("/nowhere/profiles"), "{text}");
    }

    #[tokio::test]
    async fn a_parser_that_refuses_says_why() {
        // Where the kernel has no AppArmor it says that instead.
        let error = parse(PARSER, "profile \"a\" { nonsense }").await.unwrap_err().to_string();
        let reasons = ["syntax error", "unable to find a suitable fs"];
        let has_reason = reasons.iter().any(|reason| error.contains(reason));
        assert!(error.contains("parser error(") && has_reason, "{error}");
        let error = parse("/no/such/parser", "").await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
    }
}
