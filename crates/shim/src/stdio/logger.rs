// SPDX-License-Identifier: Apache-2.0
use std::{fs::File, io, os::fd::OwnedFd, process::Stdio as ChildStdio, time::Duration};

use rustix::{
    io::{Errno, read},
    pipe::{PipeFlags, pipe_with},
};
use sys::Child;
use tokio::time::timeout;
use tracing::warn;
use types::{Context, Error, Kind, Result};

use super::{Owner, plan::Logger};
use crate::{
    finished,
    ready::{Ready, nonblocking},
};

/// How long a logger may take to be ready.
const READY: Duration = Duration::from_mins(1);

/// How long a logger may take to write its last lines (containerd
/// `cmd/containerd-shim-runc-v2/process/io.go`, `binaryIOProcTermTimeout`).
const LAST_LINES: Duration = Duration::from_secs(12);

/// A program that logs what a process writes: it reads output from its file 3 and errors from 4, and
/// closes 5 when it is ready (containerd `core/runtime/v2/logging`).
#[derive(Debug)]
pub(super) struct Logging {
    child: Child,
    /// What keeps the streams open though the process closes them.
    holds: Vec<OwnedFd>,
}

impl Logging {
    /// Starts the program and waits until it is ready. Returns what a process is to write to.
    pub(super) async fn start(
        logger: &Logger,
        owner: &Owner,
    ) -> Result<(Self, ChildStdio, ChildStdio)> {
        let (logging, [stdout, stderr]) = Self::spawn(logger, owner).await?;
        Ok((logging, stdout.into(), stderr.into()))
    }

    /// The same for a terminal, where output and errors are one.
    pub(super) async fn start_for_terminal(logger: &Logger, owner: &Owner) -> Result<(Self, File)> {
        let (mut logging, [output, _]) = Self::spawn(logger, owner).await?;
        // The terminal outlives the process until all is read: it alone holds the stream open.
        logging.holds.clear();
        Ok((logging, output.into()))
    }

    async fn spawn(logger: &Logger, owner: &Owner) -> Result<(Self, [OwnedFd; 2])> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
        let (out_reader, out) = pipe().context(|| "failed to create stdout pipes")?;
        let (err_reader, err) = pipe().context(|| "failed to create stderr pipes")?;
        let (ready, their_ready) = pipe()?;
        let mut command = sys::Command::new(&logger.program)
            .args(&logger.args)
            .env_clear()
            .env("CONTAINER_ID", &owner.id)
            .env("CONTAINER_NAMESPACE", &owner.namespace)
            .stdin(ChildStdio::null())
            .stdout(ChildStdio::null())
            .stderr(ChildStdio::null())
            .pass_fd(out_reader, 3)
            .pass_fd(err_reader, 4)
            .pass_fd(their_ready, 5);
        let told = ["CONTAINER_ID", "CONTAINER_NAMESPACE"];
        for (key, value) in logger.env.iter().filter(|(key, _)| !told.contains(&key.as_str())) {
            command = command.env(key, value);
        }
        let child = command.spawn().context(|| "failed to start binary process")?;
        let holds = vec![out.try_clone()?, err.try_clone()?];
        let logging = Self { child, holds };
        let is_ready = timeout(READY, wait_until_ready(ready, logger.must_be_ready)).await;
        let is_ready = is_ready.unwrap_or_else(|_elapsed| {
            Err(Error::deadline(format!("logging binary was not ready within {READY:?}")))
        });
        is_ready.inspect_err(|_| {
            // It has not become what it should be; it may also be gone.
            drop(logging.child.kill(9));
        })?;
        Ok((logging, [out, err]))
    }

    /// Lets it see the end of the streams.
    pub(super) fn end_input(&mut self) {
        self.holds.clear();
    }

    /// Tells it to end, and waits until it has.
    pub(super) async fn stop(mut self) {
        self.end_input();
        // It may have ended by itself.
        drop(self.child.kill(15));
        if timeout(LAST_LINES, finished(&mut self.child)).await.is_err() {
            warn!("failed to wait for shim logger process to exit, killing");
            drop(self.child.kill(9));
        }
    }
}

async fn wait_until_ready(ready: OwnedFd, must_say_so: bool) -> Result<()> {
    let ready = Ready::to_read(nonblocking(ready)?)?;
    loop {
        match read(ready.file(), &mut [0; 1]) {
            Ok(0) if must_say_so => {
                let message = "logging binary did not call ready \
                               (it may have crashed or exited prematurely)";
                return Err(Error::said(Kind::Unknown, message));
            }
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => ready.readable().await?,
            Err(Errno::INTR) => {}
            Err(error) => {
                return Err(io::Error::from(error))
                    .context(|| "failed to read from logging binary");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn logger(script: &str, must_be_ready: bool) -> Logger {
        let args = vec!["-c".to_owned(), script.to_owned()];
        Logger { program: "/bin/sh".into(), args, must_be_ready, ..Default::default() }
    }

    #[tokio::test]
    async fn a_logger_reads_until_the_end_and_is_told_whose_output_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        let script = format!(
            "trap '' TERM; exec 5>&-; (echo $CONTAINER_NAMESPACE/$CONTAINER_ID; cat <&3) > {}",
            file.display()
        );
        let owner = Owner { id: "a".into(), namespace: "n".into() };
        let (logging, [mut out, _err]) = {
            let (logging, [out, err]) =
                Logging::spawn(&logger(&script, false), &owner).await.unwrap();
            (logging, [File::from(out), File::from(err)])
        };
        out.write_all(b"line\n").unwrap();
        drop(out);
        logging.stop().await;
        assert_eq!(fs_err::read_to_string(file).unwrap(), "n/a\nline\n");
    }

    #[tokio::test]
    async fn a_logger_that_must_be_ready_and_is_not_is_refused() {
        let owner = Owner::default();
        Logging::spawn(&logger("true", false), &owner).await.unwrap();
        let error = Logging::spawn(&logger("true", true), &owner).await.unwrap_err();
        assert!(error.to_string().starts_with("logging binary did not call ready"), "{error}");
        Logging::spawn(&logger("printf x >&5; cat <&3", true), &owner).await.unwrap();
    }
}
