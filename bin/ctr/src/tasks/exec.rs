// SPDX-License-Identifier: Apache-2.0
use std::{process::ExitCode, time::SystemTime};

use clap::Args;
use client::Client;
use spec::{Spec, Users};
use types::{Error, Result};

use crate::{
    follow::Follower,
    run,
    stdio::{Listeners, Stdio},
};

/// Execute a further process in a running task.
#[derive(Debug, Args)]
#[command(after_help = "The exit status is the process's. Signals are passed on to it, and with \
                        --tty the terminal is its.")]
pub(crate) struct Exec {
    /// The directory to start in
    #[arg(long, value_name = "DIRECTORY")]
    cwd: Option<String>,
    /// Further environment variables, KEY=value
    #[arg(long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Return once the process runs
    #[arg(long, short)]
    detach: bool,
    /// The name of the process; one is made up where none is given
    #[arg(long = "exec-id", value_name = "ID")]
    name: Option<String>,
    #[command(flatten)]
    stdio: Stdio,
    /// Who to run as: a name or a number, and perhaps a group
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The container's name
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true)]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, client: &Client) -> Result<ExitCode> {
        let process = self.plan(client).await?;
        let exec_id = self.name.clone().unwrap_or_else(new_id);
        let listeners = Listeners::default();
        let tty = self.tty && self.stdio.log_uri.is_none();
        let follower = (!self.detach).then(|| Follower::new(tty, listeners.clone())).transpose()?;
        let io = self.stdio.io(&exec_id, self.tty, &listeners)?;
        let mut process = client.exec(&self.id, &exec_id, process.to_any(), io).await?;
        if let Err(error) = process.start().await {
            // The error tells more than that nobody could clean up.
            drop(client.tasks.delete_process(&self.id, &exec_id).await);
            return Err(error);
        }
        match follower {
            None => Ok(ExitCode::SUCCESS),
            Some(follower) => follower.finish(process).await,
        }
    }

    /// What the container's first process is, but for what was said.
    async fn plan(&self, client: &Client) -> Result<spec::Process> {
        let container = client.containers.get(&self.id).await?;
        let missing = || Error::not_found(format!("spec of container {}", self.id));
        let spec = Spec::from_any(container.spec.as_ref().ok_or_else(missing)?)?;
        let users = match self.user {
            Some(_) => run::users(client, &container, &spec).await?,
            None => Users::default(),
        };
        let exec = spec::Exec {
            args: self.args.clone(),
            terminal: self.tty,
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            user: self.user.clone(),
        };
        exec.plan(&spec, &users)
    }
}

fn new_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("exec-{}-{:x}", since.as_nanos(), std::process::id())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    #[test]
    fn flags_end_where_the_command_begins() {
        let words = ["ctr", "-t", "--exec-id", "x", "id", "sh", "-c", "ls -d --user"];
        let exec = Line::try_parse_from(words).unwrap().exec;
        assert!(exec.tty && !exec.detach && exec.user.is_none());
        assert_eq!(exec.args, ["sh", "-c", "ls -d --user"]);
        assert!(Line::try_parse_from(["ctr", "id"]).is_err());
    }

    #[test]
    fn a_name_that_is_made_up_is_one() {
        types::identifiers::validate(&new_id()).unwrap();
    }
}
