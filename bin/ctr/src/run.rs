// SPDX-License-Identifier: Apache-2.0
//! `ctr run`, and `ctr containers create`, which is the first half of it.
//!
//! ```text
//! flags --> snapshot, spec --> container --> task --follow--> exit status
//! ```
mod apparmor;
mod flags;
mod make;
mod remap;

use std::process::ExitCode;

use clap::Args;
use client::NewTask;
use types::{Error, Result};

use crate::{connection::Connection, tasks};

pub(crate) use flags::{RuntimeFlags, without_pivot};
pub(crate) use make::users;

/// What a container is made from, and what it is called.
#[derive(Debug, Args)]
struct Named {
    /// The image's name, or with --rootfs the directory; with --config it is left out
    #[arg(value_name = "IMAGE|ROOTFS")]
    image: String,
    /// The container's name
    id: Option<String>,
    /// The command, in place of the image's
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Create a container.
#[derive(Debug, Args)]
#[command(
    override_usage = "ctr containers create [OPTIONS] <IMAGE|ROOTFS> <ID> [COMMAND]...\n       \
                            ctr containers create [OPTIONS] --config <FILE> <ID>"
)]
pub(crate) struct Create {
    /// Have its root changed without `pivot_root`
    #[arg(long)]
    no_pivot: bool,
    /// Accepted for scripts: there is a pid once a task is started, which writes it
    #[arg(long, value_name = "FILE", hide = true)]
    pid_file: Option<std::path::PathBuf>,
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    flags: flags::Flags,
}

impl Create {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        make::container(connection, &self.flags, &self.named, self.no_pivot).await.map(drop)
    }
}

/// Run a container.
#[derive(Debug, Args)]
#[command(
    after_help = "The exit status is the container's. Signals are passed on to it, and with \
                        --tty the terminal is its."
)]
#[command(override_usage = "ctr run [OPTIONS] <IMAGE|ROOTFS> <ID> [COMMAND]...\n       \
                            ctr run [OPTIONS] --config <FILE> <ID>")]
pub(crate) struct Command {
    /// Delete the container when it has ended
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    #[command(flatten)]
    task: tasks::Start,
    /// Change the root without `pivot_root`
    #[arg(long)]
    no_pivot: bool,
    /// Accepted for scripts: what is unpacked is always synced
    #[arg(long, hide = true)]
    sync_fs: bool,
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    flags: flags::Flags,
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<ExitCode> {
        let container = make::container(connection, &self.flags, &self.named, false).await?;
        let client = connection.client().await?;
        let options = self.no_pivot.then(|| self.flags.without_pivot()).transpose()?.flatten();
        let new = NewTask { options, ..NewTask::default() };
        let outcome = self.task.run(&client, &container, connection.namespace(), new).await;
        if !self.rm {
            return outcome;
        }
        let deleted = client.delete_container(&container.id, false).await;
        outcome.and_then(|code| deleted.map(|()| code))
    }
}

impl Named {
    /// The image or directory, if one is needed, and the container's name. A spec from a file needs
    /// no image (the texts are those of containerd `cmd/ctr/commands/run/run.go`).
    fn parts(&self, has_config: bool) -> Result<(Option<&str>, &str)> {
        let bad = |what: &'static str| Error::said(types::Kind::InvalidArgument, what);
        match (has_config, &self.id) {
            (true, None) => Ok((None, &self.image)),
            (true, Some(_)) => {
                Err(bad("with spec config file, only container id should be provided"))
            }
            (false, None) => Err(bad("container id must be provided")),
            (false, Some(id)) => Ok((Some(&self.image), id)),
        }
    }
}
