// SPDX-License-Identifier: Apache-2.0
//! The command line client, theirs or ours: same words, same answers.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Output, Running, run};
use crate::wait::{PATIENCE, until};
use crate::{Daemon, Outcome, Pty, ensure};

/// A client bound to one daemon and one namespace.
#[derive(Debug, Clone)]
pub struct Ctr {
    program: PathBuf,
    address: PathBuf,
    namespace: String,
    home: PathBuf,
}

impl Ctr {
    pub(crate) fn new(program: &Path, daemon: &Daemon) -> Self {
        Self {
            program: program.to_owned(),
            address: daemon.address(),
            namespace: daemon.estate().tag().to_owned(),
            home: daemon.home().to_owned(),
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same client in a namespace of its own beside this one.
    #[must_use]
    pub fn in_namespace(&self, suffix: &str) -> Self {
        Self { namespace: format!("{}-{suffix}", self.namespace), ..self.clone() }
    }

    /// The same client in another namespace.
    #[must_use]
    pub fn in_namespace_of(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// A command of it, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--address").arg(&self.address).arg("--namespace").arg(&self.namespace);
        command.args(args).env("TMPDIR", self.home.join("tmp")).current_dir(&self.home);
        for name in ["CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SNAPSHOTTER"] {
            command.env_remove(name);
        }
        command
    }

    /// The environment in which a bare `ctr` would speak to the same daemon in the same namespace.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("CONTAINERD_ADDRESS", self.address.display().to_string()),
            ("CONTAINERD_NAMESPACE", self.namespace.clone()),
        ]
    }

    /// A command that takes address and namespace from its environment, so that its line is what a
    /// person would type.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).envs(self.environment()).env("TMPDIR", self.home.join("tmp"));
        command.current_dir(&self.home);
        command
    }

    /// Runs a command to its end, whatever that is.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome<Output> {
        run(&mut self.command(args), PATIENCE)
    }

    /// Runs a command that must succeed; gives its standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome<String> {
        self.run(args)?.ok()
    }

    /// Runs a command that must fail and say all of `words`.
    pub fn refused<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        words: &[&str],
    ) -> Outcome {
        self.run(args)?.refused(words)
    }

    /// Runs a command that must succeed; gives the lines of its standard output, without blanks at
    /// their ends and without empty ones.
    pub fn lines<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Outcome<Vec<String>> {
        let text = self.ok(args)?;
        let lines = text.lines().map(|line| line.trim().to_owned());
        Ok(lines.filter(|line| !line.is_empty()).collect())
    }

    /// Starts a command in the background.
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome<Running> {
        Running::start(&mut self.command(args))
    }

    /// Starts a command in the background with its standard input held open.
    pub fn start_fed<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Outcome<Running> {
        Running::start_fed(&mut self.command(args))
    }

    /// Starts a command on a terminal of 24 rows and 80 columns.
    pub fn on_terminal<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome<Pty> {
        Pty::start(&mut self.command(args), 24, 80)
    }

    /// Starts listening to events, and returns when it is certain that none will be missed. It makes
    /// a namespace or more to find out, and those are in the list.
    pub fn events(&self) -> Outcome<Running> {
        let listener = self.start(["events"])?;
        let mut probes = 0;
        // Nothing tells when a subscription stands, but that an event arrives.
        until("an event", PATIENCE, || {
            probes += 1;
            let name = format!("{}-probe-{probes}", self.namespace);
            self.ok(["namespaces", "create", &name])?;
            Ok(listener.stdout().contains("/namespaces/create").then_some(()))
        })?;
        Ok(listener)
    }

    /// The state that `tasks ls` shows for a container: RUNNING, STOPPED, PAUSED.
    pub fn state(&self, id: &str) -> Outcome<Option<String>> {
        let lines = self.lines(["tasks", "ls"])?;
        let rows = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut found = rows.filter(|row| row.first() == Some(&id));
        Ok(found.next().and_then(|row| row.last().map(|word| (*word).to_owned())))
    }

    /// Waits until `tasks ls` shows a container in this state.
    pub fn wait_for_state(&self, id: &str, state: &str, limit: Duration) -> Outcome {
        until(&format!("{id} {state}"), limit, || {
            Ok((self.state(id)?.as_deref() == Some(state)).then_some(()))
        })
    }

    /// Ends a container by force, whatever it is doing, and removes task and container.
    pub fn remove(&self, id: &str) -> Outcome {
        if self.state(id)?.is_some_and(|state| state != "STOPPED") {
            self.ok(["tasks", "kill", "--signal", "KILL", id])?;
            self.wait_for_state(id, "STOPPED", PATIENCE)?;
        }
        if self.state(id)?.is_some() {
            // The exit status of this command is the task's.
            self.run(["tasks", "rm", id])?;
        }
        self.ok(["containers", "rm", id])?;
        ensure!(self.state(id)?.is_none(), "{id} still has a task");
        Ok(())
    }

    /// The same in two commands, which ask nothing of any other task.
    pub fn remove_at_once(&self, id: &str) -> Outcome {
        // The exit status of this command is the task's.
        self.run(["tasks", "rm", "--force", id])?;
        self.ok(["containers", "rm", id]).map(drop)
    }
}
