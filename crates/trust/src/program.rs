// SPDX-License-Identifier: Apache-2.0
//! Programs that are asked before an image is pulled (containerd `docs/image-verification.md`,
//! `pkg/imageverifier/bindir/bindir.go`).
//!
//! A program is told the name and the digest, and on standard input the descriptor. It accepts with
//! exit code 0, and says why on standard output.
use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::{Instant, timeout_at},
};
use types::{Context as _, Descriptor, Error, Kind, Result};

/// How much of what a program says is kept, in bytes.
const MAX_OUTPUT: u64 = 1 << 15;
/// What standard input is.
const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";

/// The programs in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The folder. All in it are asked, by name.
    pub folder: PathBuf,
    /// How many are asked at most; none is all.
    pub limit: Option<usize>,
    /// How long each of them may take.
    pub patience: Duration,
}

/// What the programs say of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it may be pulled.
    pub is_accepted: bool,
    /// Why.
    pub reason: String,
}

impl Programs {
    /// Asks one program after the other, until one refuses.
    ///
    /// Errors: when a program cannot be started, is killed or takes too long.
    pub async fn judge(&self, name: &str, target: &Descriptor) -> Result<Judgement> {
        let programs = self.programs().context(|| "failed to list directory contents")?;
        let accept = |reason| Judgement { is_accepted: true, reason };
        let folder = self.folder.display();
        let Some(programs) = programs else {
            return Ok(accept(format!("image verifier directory {folder} does not exist")));
        };
        if programs.is_empty() {
            return Ok(accept(format!("no image verifier binaries found in {folder}")));
        }
        let limit = self.limit.unwrap_or(usize::MAX);
        if programs.len() > limit {
            let many = programs.len();
            tracing::warn!(
                "image verifiers are being skipped since directory {folder} has {many} entries, \
                 more than configured max of {limit} verifiers"
            );
        }
        let mut reasons = Vec::new();
        for program in programs.iter().take(limit) {
            let asked = self.ask(program, name, target).await;
            let (code, said) = asked.context(|| format!("failed to call verifier {program}"))?;
            if code != 0 {
                let reason =
                    format!("verifier {program} rejected image (exit code {code}): {said}");
                return Ok(Judgement { is_accepted: false, reason });
            }
            reasons.push(format!("{program} => {said}"));
        }
        Ok(accept(reasons.join(", ")))
    }

    /// The names in the folder, in order; `None` where there is no folder.
    fn programs(&self) -> Result<Option<Vec<String>>> {
        let entries = match fs_err::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(Some(names))
    }

    async fn ask(&self, program: &str, name: &str, target: &Descriptor) -> Result<(i32, String)> {
        let deadline = Instant::now() + self.patience;
        let mut running = Running(start(&self.folder.join(program), name, target)?);
        let asked = timeout_at(deadline, running.talk(program, target)).await;
        asked.map_err(|late| {
            let what = format!("no verdict within {:?}", self.patience);
            Error::caused(Kind::DeadlineExceeded, what, late)
        })?
    }
}

fn start(program: &Path, name: &str, target: &Descriptor) -> Result<Child> {
    let digest = target.digest.as_str();
    let child = Command::new(program)
        .args(["-name", name, "-digest", digest, "-stdin-media-type", DESCRIPTOR])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    child.context(|| program.display().to_string())
}

/// A program, which ends with all that it started.
struct Running(Child);

impl Running {
    async fn talk(&mut self, program: &str, target: &Descriptor) -> Result<(i32, String)> {
        let descriptor = serde_json::to_vec(target)
            .map_err(|e| Error::caused(Kind::Internal, "descriptor", e))?;
        let (input, output) = (self.0.stdin.take(), self.0.stdout.take());
        let complaints = self.0.stderr.take();
        let telling = async {
            let Some(mut input) = input else { return };
            // A program need not read what it is told.
            if let Err(error) = input.write_all(&[descriptor.as_slice(), b"\n"].concat()).await {
                tracing::debug!(program, %error, "the image verifier read no descriptor");
            }
        };
        let ((), said, complained) = futures_util::join!(telling, read(output), read(complaints));
        for line in complained.unwrap_or_default().lines() {
            tracing::debug!(image_verifier = program, stream = "stderr", "{line}");
        }
        let status = self.0.wait().await?;
        let killed = || Error::said(Kind::Unknown, format!("waiting on command to exit: {status}"));
        Ok((status.code().ok_or_else(killed)?, said?.trim().to_owned()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.0.id().and_then(|pid| Pid::from_raw(pid as i32));
        if let Some(group) = group {
            let killed = kill_process_group(group, Signal::KILL);
            // One that has ended by itself has no group any more.
            if let Err(error) = killed {
                tracing::debug!(%error, "an image verifier is gone already");
            }
        }
    }
}

/// Reads to the end, and keeps the beginning.
async fn read(from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let Some(mut from) = from else { return Ok(String::new()) };
    let mut kept = Vec::new();
    (&mut from).take(MAX_OUTPUT).read_to_end(&mut kept).await?;
    let mut text = String::from_utf8_lossy(&kept).trim().to_owned();
    if tokio::io::copy(&mut from, &mut tokio::io::sink()).await? > 0 {
        text.push_str("(stdout truncated)");
    }
    Ok(text)
}
