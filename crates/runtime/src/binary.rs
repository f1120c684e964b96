// SPDX-License-Identifier: Apache-2.0
//! Shims as programs: finding them by name, starting them, and having them clean up.
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use api::containerd::{task::v3::DeleteResponse, types::RuntimeInfo};
use prost::Message;
use shim::bootstrap::{Answer, GRPC_ADDRESS, MAX_SHIM_VERSION, NAMESPACE, TTRPC_ADDRESS, VERSION};
use tokio::{io::AsyncWriteExt, process::Command};
use types::{Any, Context, Error, Kind, Result};

use crate::{
    Config,
    bootstrap::{self, Dialect, Dialects},
    bundle::Bundle,
};

/// Finds the program of a runtime: `io.containerd.runc.v2` is `containerd-shim-runc-v2`, beside the
/// daemon or on the PATH; an absolute path is itself.
///
/// Errors: `InvalidArgument` for a name that is neither; `NotFound` when it is not installed.
pub(crate) fn find(runtime: &str, beside: Option<&Path>) -> Result<PathBuf> {
    if runtime.is_empty() {
        return Err(Error::said(Kind::InvalidArgument, "no runtime name"));
    }
    if runtime.starts_with('/') {
        let path = PathBuf::from(runtime);
        return if path.is_file() { Ok(path) } else { Err(no_such_path(runtime)) };
    }
    let name = file_name(runtime)?;
    sys::program::find(&name, beside).ok_or_else(|| not_installed(runtime, &name))
}

fn no_such_path(path: &str) -> Error {
    let message = format!("invalid custom binary path: stat {path}: no such file or directory");
    Error::said(Kind::NotFound, message)
}

fn not_installed(runtime: &str, name: &str) -> Error {
    Error::said(
        Kind::NotFound,
        format!("runtime {runtime:?} binary not installed {name:?}: file does not exist"),
    )
}

/// The last two words of a runtime's name make its program's (containerd `pkg/shim/util.go`).
fn file_name(runtime: &str) -> Result<String> {
    let words: Vec<&str> = runtime.split('.').collect();
    match words.as_slice() {
        [_, .., name, version]
            if !name.is_empty() && !version.is_empty() && !runtime.contains('/') =>
        {
            Ok(format!("containerd-shim-{name}-{version}"))
        }
        _ => Err(Error::invalid(format!(
            "invalid runtime name {runtime}, correct runtime name should be either format like \
             `io.containerd.runc.v2` or a full path to the binary"
        ))),
    }
}

/// Starts a shim for `bundle` and returns where it listens.
pub(crate) async fn start(
    config: &Config,
    dialects: &Dialects,
    program: &Path,
    bundle: &Bundle,
    options: Option<&Any>,
) -> Result<Answer> {
    let known = dialects.of(program);
    let first = known.unwrap_or(Dialect::Message);
    let started = match start_in(first, config, program, bundle, options).await {
        Err(error) if known.is_none() => {
            // An older one may not have understood; a newer one has said what is wrong.
            let again = start_in(Dialect::Flags, config, program, bundle, options).await;
            again.map_err(|second| if is_of_older_shim(&error) { second } else { error })
        }
        started => started,
    };
    let (answer, dialect) = started?;
    if known != Some(dialect) {
        dialects.learn(program, dialect);
    }
    Ok(answer)
}

/// Older shims look up the type of what they take for the runtime's options
/// (containerd `github.com/containerd/typeurl`).
fn is_of_older_shim(error: &Error) -> bool {
    error.to_string().contains("type with url")
}

async fn start_in(
    dialect: Dialect,
    config: &Config,
    program: &Path,
    bundle: &Bundle,
    options: Option<&Any>,
) -> Result<(Answer, Dialect)> {
    let mut command = command(config, program, bundle);
    command.args(["-id", &bundle.id]);
    if config.debug {
        command.arg("-debug");
    }
    command.arg("start");
    let input = bootstrap::input(dialect, config, bundle, options);
    bootstrap::read(&run(command, &input, config.timeouts.start).await?)
}

/// Has the program of a shim that is gone clean up after it, and returns how its task ended.
pub(crate) async fn delete(
    config: &Config,
    program: &Path,
    bundle: &Bundle,
) -> Result<DeleteResponse> {
    let mut command = command(config, program, bundle);
    command.args(["-id", &bundle.id, "-bundle"]).arg(&bundle.path).arg("delete");
    let output = run(command, &[], config.timeouts.cleanup).await?;
    DeleteResponse::decode(output.as_slice())
        .map_err(|e| Error::caused(Kind::Internal, "answer of shim delete", e))
}

/// Has the program of a runtime tell what it can do (containerd `core/runtime/v2/task_manager.go`,
/// `PluginInfo`).
pub(crate) async fn info(
    config: &Config,
    program: &Path,
    options: Option<&Any>,
) -> Result<RuntimeInfo> {
    let mut command = Command::new(program);
    command.arg("-info").kill_on_drop(true);
    let output = run(command, &input(options), config.timeouts.start)
        .await
        .context(|| format!("failed to run {} -info", program.display()))?;
    RuntimeInfo::decode(output.as_slice())
        .map_err(|e| Error::caused(Kind::Internal, "answer of shim -info", e))
}

/// Options as shims read them; nothing where there are none.
fn input(options: Option<&Any>) -> Vec<u8> {
    let wire =
        |any: &Any| prost_types::Any { type_url: any.type_url.clone(), value: any.value.to_vec() };
    options.map(|any| wire(any).encode_to_vec()).unwrap_or_default()
}

fn command(config: &Config, program: &Path, bundle: &Bundle) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(&bundle.path)
        .env(TTRPC_ADDRESS, &config.ttrpc_address)
        .env(GRPC_ADDRESS, &config.address)
        .env(NAMESPACE, &bundle.namespace)
        .env(MAX_SHIM_VERSION, VERSION.to_string())
        // Compat: Go shims size themselves by this (containerd `pkg/shim/util.go`).
        .env("GOMAXPROCS", "2")
        .arg("-namespace")
        .arg(&bundle.namespace)
        .arg("-address")
        .arg(&config.address)
        .arg("-publish-binary")
        .arg(&config.publish_binary)
        .envs(config.env.iter().filter_map(|variable| variable.split_once('=')))
        .kill_on_drop(true);
    command
}

/// Runs a command to its end and returns what it printed; what it complained of is the error.
///
/// What the program leaves running must not keep its output open, so that is not waited for.
async fn run(mut command: Command, input: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let name = format!("{}", command.as_std().get_program().display());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let work = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input has no use for it.
            drop(stdin.write_all(input).await);
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(patience, work)
        .await
        .map_err(|_elapsed| Error::deadline(format!("{name} did not end within {patience:?}")))?
        .map_err(|e| Error::from(e).context(name.clone()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(Error::said(Kind::Unknown, format!("{said}: {}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_s_name_makes_its_program_s() {
        assert_eq!(file_name("io.containerd.runc.v2").unwrap(), "containerd-shim-runc-v2");
        assert_eq!(file_name("io.containerd.kata.v2").unwrap(), "containerd-shim-kata-v2");
        assert_eq!(file_name("aws.firecracker").ok(), None);
        for bad in ["", "runc", "a/b.c.d", "x..v1"] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = find("io.containerd.bogus.v1", None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "runtime \"io.containerd.bogus.v1\" binary not installed \"containerd-shim-bogus-v1\": file does not exist"
        );
        assert!(error.is_not_found());
        let error = find("/no/such/shim", None).unwrap_err();
        assert!(error.is_not_found());
        assert_eq!(
            error.to_string(),
            "invalid custom binary path: stat /no/such/shim: no such file or directory"
        );
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        for bad in ["", "runc", "./shim", "a/b.c.d"] {
            assert_eq!(find(bad, None).unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
    }
}
