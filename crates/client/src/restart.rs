// SPDX-License-Identifier: Apache-2.0
//! Containers that are to be kept running, or stopped, by what their labels say.
//!
//! ```text
//! containerd.io/restart.status=running|stopped    what is wanted; without it nothing is done
//! containerd.io/restart.policy=always|on-failure[:N]|unless-stopped|no
//! containerd.io/restart.count=N                   how often it was started; kept here
//! containerd.io/restart.loguri=file:///path       where its output goes
//! containerd.io/restart.explicitly-stopped=true   for unless-stopped; set by whoever stops it
//! ```
//!
//! The labels are those of the container's record. Those of an image never become any of these:
//! see [`images::labels::of_container`].
//!
//! Facts from containerd `core/runtime/restart/restart.go` and `plugins/restart`.
use std::time::Duration;

use futures_util::future::join_all;
use records::Container;
use runtime::{Process, Status};
use serde_json::Value;
use types::{Context, Error, FieldMask, Filters, Labels, Result};

use crate::{Client, Io, NewTask};

const STATUS: &str = "containerd.io/restart.status";
const POLICY: &str = "containerd.io/restart.policy";
const COUNT: &str = "containerd.io/restart.count";
const LOG_URI: &str = "containerd.io/restart.loguri";
const EXPLICITLY_STOPPED: &str = "containerd.io/restart.explicitly-stopped";

/// How long a task that was killed may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The policies that there are, for whoever asks (containerd `plugins/restart/monitor.go`).
pub const RESTART_POLICIES: &[&str] = &["no", "always", "on-failure", "unless-stopped"];

/// What is to be done about a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Stop,
    /// Start it, for the `n`th time.
    Start(u64),
}

impl Client {
    /// Starts and stops the containers of the namespace that are not as their labels want them.
    ///
    /// What cannot be done for one container is logged, and tried again the next time.
    pub async fn restart_containers(&self) -> Result<()> {
        let filters = Filters::parse([format!("labels.{STATUS:?}")])?;
        let containers = self.containers.list(&filters).await?;
        join_all(containers.into_iter().map(|container| self.see_to(container))).await;
        Ok(())
    }

    async fn see_to(&self, container: Container) {
        let id = container.id.clone();
        let task = match self.tasks.get(&id, "").await {
            Ok(task) => Some(task),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                // A shim that does not answer may run its task all the same.
                return tracing::warn!(id, %error, "restart: a task does not tell its state");
            }
        };
        let done = match decide(&container.labels, task.as_ref()) {
            Ok(Change::Nothing) => Ok(()),
            Ok(Change::Stop) => self.end_task(&id, task.is_some()).await,
            Ok(Change::Start(count)) => self.start_again(container, count, task.is_some()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(id, %error, "failed to see to a container that is to be restarted");
        }
    }

    async fn start_again(
        &self,
        mut container: Container,
        count: u64,
        has_task: bool,
    ) -> Result<()> {
        let id = container.id.clone();
        tracing::info!(id, count, "restarts a container");
        container.labels.insert(COUNT.to_owned(), count.to_string());
        let mask = FieldMask::new([format!("labels.{COUNT}")]);
        let container = self.containers.update(container, &mask).await?;
        self.end_task(&id, has_task).await?;
        let io = match container.labels.get(LOG_URI) {
            Some(uri) => Io::log(uri, has_terminal(&container)),
            None => Io::default(),
        };
        let mut task = self.new_task(&container, NewTask { io, ..NewTask::default() }).await?;
        if let Err(error) = task.start().await {
            // It is tried again, and must not find what this try left.
            if let Err(left) = task.delete().await {
                tracing::warn!(id, error = %left, "failed to delete a task that did not start");
            }
            return Err(error.context("start task"));
        }
        Ok(())
    }

    /// Ends the task of a container, if it has one, and deletes it.
    async fn end_task(&self, id: &str, has_task: bool) -> Result<()> {
        if !has_task {
            return Ok(());
        }
        let task = match self.attach(id, "", None).await {
            Err(error) if error.is_not_found() => return Ok(()),
            task => task?,
        };
        let ended = tokio::time::timeout(PATIENCE, task.end()).await;
        ended.map_err(|_elapsed| Error::deadline(format!("end of task {id}")))??;
        match task.delete().await {
            Err(error) if !error.is_not_found() => Err(error).context(|| "delete task"),
            _ => Ok(()),
        }
    }
}

/// Decides what to do about a container with these labels, which has this task or none.
fn decide(labels: &Labels, task: Option<&Process>) -> Result<Change> {
    let status = task.map(|task| task.status);
    Ok(match labels.get(STATUS).map(String::as_str) {
        Some("running") => match status {
            Some(Status::Running | Status::Paused | Status::Pausing | Status::Unknown) => {
                Change::Nothing
            }
            _ if wants_start(labels, task)? => Change::Start(count(labels)? + 1),
            _ => Change::Nothing,
        },
        Some("stopped") => match status {
            None | Some(Status::Stopped) => Change::Nothing,
            Some(_) => Change::Stop,
        },
        _ => Change::Nothing,
    })
}

/// Whether the policy lets a container that does not run be started.
///
/// Compat: one that failed and whose task is gone is not started again on failure: nobody knows any
/// more how it ended.
fn wants_start(labels: &Labels, task: Option<&Process>) -> Result<bool> {
    let policy = labels.get(POLICY).map_or("", String::as_str);
    let (name, limit) = match policy.split_once(':') {
        None => (policy, None),
        Some((name @ "on-failure", limit)) => {
            let number = limit.parse::<i64>();
            let bad = |_error| Error::invalid(format!("invalid max retry count: {limit}"));
            (name, Some(number.map_err(bad)?).filter(|&limit| limit != 0))
        }
        Some((name, _)) => {
            let what = format!("restart policy {name:?} not support max retry count");
            return Err(Error::invalid(what));
        }
    };
    match name {
        "" | "always" => Ok(true),
        "no" => Ok(false),
        "unless-stopped" => Ok(!labels.get(EXPLICITLY_STOPPED).is_some_and(|text| is_true(text))),
        "on-failure" => {
            let failed = task.and_then(|task| task.exit).is_some_and(|exit| exit.status != 0);
            let count = count(labels)? as i64;
            Ok(failed && limit.is_none_or(|limit| count < limit))
        }
        _ => Err(Error::invalid(format!("restart policy {policy:?} not supported"))),
    }
}

fn count(labels: &Labels) -> Result<u64> {
    match labels.get(COUNT).map_or("", String::as_str) {
        "" => Ok(0),
        text => text
            .parse()
            .map_err(|_error| Error::invalid(format!("label {COUNT}: not a number: {text:?}"))),
    }
}

/// What Go's `strconv.ParseBool` takes for true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn has_terminal(container: &Container) -> bool {
    let spec = container.spec.as_ref().and_then(|spec| serde_json::from_slice(&spec.value).ok());
    let terminal = spec.as_ref().and_then(|spec: &Value| spec.pointer("/process/terminal"));
    terminal.and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use runtime::Exit;

    use super::*;

    /// Reads `running policy=always count=2` after the common prefix of the labels, the first word
    /// being the status that is wanted.
    fn labels(text: &str) -> Labels {
        let pair = |word: &str| match word.split_once('=') {
            Some((key, value)) => (format!("containerd.io/restart.{key}"), value.to_owned()),
            None => (STATUS.to_owned(), word.to_owned()),
        };
        text.split(' ').filter(|word| !word.is_empty()).map(pair).collect()
    }

    fn process(status: Status, code: u32) -> Process {
        let exit = Exit { pid: 1, status: code, at: UNIX_EPOCH };
        let exit = (status == Status::Stopped).then_some(exit);
        Process { status, exit, ..Process::default() }
    }

    #[track_caller]
    fn check(text: &str, task: Option<(Status, u32)>, want: Change) {
        let task = task.map(|(status, code)| process(status, code));
        assert_eq!(decide(&labels(text), task.as_ref()).unwrap(), want, "{text}");
    }

    const FAILED: Option<(Status, u32)> = Some((Status::Stopped, 1));
    const DONE: Option<(Status, u32)> = Some((Status::Stopped, 0));
    const RUNNING: Option<(Status, u32)> = Some((Status::Running, 0));

    #[test]
    fn what_is_as_it_is_wanted_is_left_alone() {
        check("", FAILED, Change::Nothing);
        check("running", RUNNING, Change::Nothing);
        check("running", Some((Status::Paused, 0)), Change::Nothing);
        check("running", Some((Status::Unknown, 0)), Change::Nothing);
        check("stopped", None, Change::Nothing);
        check("stopped", DONE, Change::Nothing);
        check("stopped", RUNNING, Change::Stop);
        check("nonsense", FAILED, Change::Nothing);
    }

    #[test]
    fn policies_decide_what_is_started() {
        check("running", None, Change::Start(1));
        check("running policy=always", DONE, Change::Start(1));
        check("running policy=no", FAILED, Change::Nothing);
        check("running policy=on-failure", DONE, Change::Nothing);
        check("running policy=on-failure", FAILED, Change::Start(1));
        check("running policy=on-failure", None, Change::Nothing);
        check("running policy=on-failure:2 count=1", FAILED, Change::Start(2));
        check("running policy=on-failure:2 count=2", FAILED, Change::Nothing);
        check("running policy=on-failure:0 count=9", FAILED, Change::Start(10));
        check("running policy=unless-stopped", DONE, Change::Start(1));
        check("running policy=unless-stopped explicitly-stopped=true", DONE, Change::Nothing);
        check("running policy=unless-stopped explicitly-stopped=false", DONE, Change::Start(1));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in ["policy=never", "policy=always:3", "policy=on-failure:x", "count=x"] {
            let error = decide(
                &labels(&format!("running {bad}")),
                FAILED.map(|(s, c)| process(s, c)).as_ref(),
            );
            assert_eq!(error.unwrap_err().kind(), types::Kind::InvalidArgument, "{bad}");
        }
    }
}
