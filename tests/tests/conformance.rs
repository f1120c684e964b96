// SPDX-License-Identifier: Apache-2.0
//! What each call of the tasks, sandbox and events services answers in each state of its subject.
//!
//! The table is `docs/conformance.md`. Every cell of it is played against the distribution's
//! containerd and against ours, so it cannot say what is not so.

mod events;
mod sandboxes;
mod table;
mod tasks;

use std::time::Duration;

use e2e::{Outcome, World, over_the_wire};
use prost::Message;
use tonic::{Code, Status};

use crate::wire::Wire;
use table::Table;

over_the_wire!(
    tasks_answer_as_the_table_says,
    processes_answer_as_the_table_says,
    events_answer_as_the_table_says,
);
// The distribution's daemon has no sandboxes: a newer one plays (`cargo xtask newer`), with our shim,
// because theirs has none either.
e2e::plays!(sandboxes_answer_as_the_table_says: our_shim OUR_SHIM, ours OURS);
e2e::plays!(pods_answer_as_the_table_says: our_shim OUR_SHIM, ours OURS);

fn tasks_answer_as_the_table_says(world: &mut World) -> Outcome {
    let table = Table::read(world)?;
    tasks::play_tasks(world, &table)?;
    table.done(&["a task"])
}

fn processes_answer_as_the_table_says(world: &mut World) -> Outcome {
    let table = Table::read(world)?;
    tasks::play_processes(world, &table)?;
    table.done(&["a process"])
}

fn events_answer_as_the_table_says(world: &mut World) -> Outcome {
    let table = Table::read(world)?;
    events::play(world, &table)?;
    table.done(&["events"])
}

fn sandboxes_answer_as_the_table_says(world: &mut World) -> Outcome {
    if !sandboxes::are_there(world)? {
        println!("skipped: this containerd has no sandboxes");
        return Ok(());
    }
    let table = Table::read(world)?;
    sandboxes::play_store(world, &table)?;
    sandboxes::play_shims(world, &table)?;
    table.done(&["a sandbox's record", "a sandbox"])
}

fn pods_answer_as_the_table_says(world: &mut World) -> Outcome {
    if !sandboxes::are_there(world)? {
        println!("skipped: this containerd has no sandboxes");
        return Ok(());
    }
    let table = Table::read(world)?;
    sandboxes::furnish(world)?;
    sandboxes::play_pods(world, &table)?;
    table.done(&["a pod"])
}

/// How long an answer may take; calls that wait for an end get less.
const LIMIT: Duration = Duration::from_secs(20);

/// A message, told by what is in it.
trait Shape: Message + Default + 'static {
    /// The names of the fields that say something.
    fn shape(&self) -> String;
}

impl Shape for () {
    fn shape(&self) -> String {
        String::new()
    }
}

/// The names of those fields that say something.
fn fields(all: &[(&str, bool)]) -> String {
    let said = all.iter().filter(|(_, is_said)| *is_said).map(|(name, _)| *name);
    said.collect::<Vec<_>>().join(", ")
}

/// Makes a call and puts its answer into the words of the table.
fn told<M, R>(wire: &Wire, method: &str, message: M, limit: Duration) -> String
where
    M: Message + 'static,
    R: Shape,
{
    words(wire.ask::<M, R>(method, message, limit).map(|answer| answer.shape()))
}

fn words(answer: Result<String, Status>) -> String {
    match answer {
        Ok(shape) => format!("OK {shape}").trim().to_owned(),
        Err(status) if status.code() == Code::DeadlineExceeded => "waits".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}
