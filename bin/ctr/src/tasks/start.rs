// SPDX-License-Identifier: Apache-2.0
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use client::{Client, Io, NewTask, Process};
use records::Container;
use spec::Spec;
use types::{Context as _, Result};

use crate::{
    follow::Follower,
    network::Network,
    stdio::{Listeners, Stdio},
};

/// How a task is started, and whether we stay with it.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(crate) struct Start {
    /// Return once the task runs
    #[arg(long, short)]
    detach: bool,
    /// Connect it to nothing
    #[arg(long, conflicts_with = "log_uri")]
    null_io: bool,
    #[command(flatten)]
    stdio: Stdio,
    /// A file to write the task's pid to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
}

impl Start {
    /// Stays with a task that has a terminal, and with no other.
    pub(crate) fn unless_terminal(container: &Container) -> Result<Self> {
        Ok(Self { detach: !has_terminal(container)?, ..Self::default() })
    }

    /// Makes a task from a container and starts it. Unless detached, stays with it until it ends, and
    /// deletes it then.
    pub(crate) async fn run(
        &self,
        client: &Client,
        container: &Container,
        namespace: &str,
        new: NewTask,
    ) -> Result<ExitCode> {
        let network = Network::of(container, namespace)?;
        let tty = has_terminal(container)?;
        let listeners = Listeners::default();
        // What is not copied from here needs no terminal here either.
        let is_here = !self.null_io && self.stdio.log_uri.is_none();
        let follower = || Follower::new(tty && is_here, listeners.clone());
        let follower = (!self.detach).then(follower).transpose()?;
        let io = if self.null_io {
            Io::default()
        } else {
            self.stdio.io(&container.id, tty, &listeners)?
        };
        let new = NewTask { io, ..new };
        let mut process = client.new_task(container, new).await?;
        let started = self.start(&mut process, follower.as_ref(), network.as_ref()).await;
        if let Err(error) = started {
            // The error tells more than that nobody could clean up.
            drop(client.tasks.delete(&container.id).await);
            disconnect(network).await;
            return Err(error);
        }
        let Some(follower) = follower else { return Ok(ExitCode::SUCCESS) };
        let outcome = follower.finish(process).await;
        disconnect(network).await;
        outcome
    }

    async fn start(
        &self,
        process: &mut Process,
        follower: Option<&Follower>,
        network: Option<&Network>,
    ) -> Result<()> {
        if let Some(path) = &self.pid_file {
            write_pid(path, process.pid()).context(|| "write the pid file")?;
        }
        if let Some(follower) = follower {
            follower.resize(process).await;
        }
        if let Some(network) = network {
            network.set_up(process.pid()).await?;
        }
        process.start().await
    }
}

/// Removes a network. That it fails is told, and changes nothing about how the process ended.
async fn disconnect(network: Option<Network>) {
    if let Some(network) = network
        && let Err(error) = network.remove().await
    {
        eprintln!("ctr: remove the network: {error}");
    }
}

fn has_terminal(container: &Container) -> Result<bool> {
    let spec = container.spec.as_ref().map(Spec::from_any).transpose()?;
    Ok(spec.is_some_and(|spec| spec.process.terminal))
}

/// Writes a pid in one go, so that whoever waits for the file never reads half of it.
pub(crate) fn write_pid(path: &Path, pid: u32) -> Result<()> {
    let path = std::path::absolute(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = path.with_file_name(format!(".{name}"));
    fs_err::write(&temporary, pid.to_string())?;
    Ok(fs_err::rename(&temporary, &path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_a_pid_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_pid(&path, 42).unwrap();
        write_pid(&path, 43).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "43");
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }
}
