// SPDX-License-Identifier: Apache-2.0
//! What a process may be asked for, depending on what it is doing.
//!
//! ```text
//! Created --start--> Running --pause--> Paused
//!    |                 |     <-resume--   |
//!    +------exit-------+-------exit-------+--> Stopped --delete--> gone
//!    `------delete-----------------------------------------------> gone
//! ```
//!
//! The texts are those of Go's shim, on which clients match (containerd
//! `cmd/containerd-shim-runc-v2/process/{init,exec}_state.go`).
use api::containerd::v1::types::Status;
use types::{Error, Kind, Result};

/// What a process is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It is made, and has not begun. For a process that was added, only its specification is there.
    #[default]
    Created,
    /// It will go on from a checkpoint, once it is started.
    Restorable,
    /// It is about to begin.
    Starting,
    /// It runs.
    Running,
    /// It is about to be paused.
    Pausing,
    /// It is stopped where it is.
    Paused,
    /// It has ended.
    Stopped,
}

/// What may be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Pause,
    Resume,
    Update,
    Checkpoint,
    Exec,
    Kill,
    Resize,
    Delete,
}

/// Whether a process is a container's first, or was added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    Exec,
}

impl State {
    /// Says whether a process in this state may be asked for something, and why not.
    pub(crate) fn allow(self, role: Role, action: Action) -> Result<()> {
        match refusal(self, role, action) {
            None => Ok(()),
            Some(Refusal::Finished) => Err(Error::not_found("process already finished")),
            Some(Refusal::NotCreated) => Err(Error::failed_precondition("process not created")),
            Some(Refusal::Cannot(text)) => Err(Error::said(Kind::Unknown, text)),
        }
    }

    /// As it is told on the wire.
    pub(crate) fn status(self) -> Status {
        match self {
            Self::Created | Self::Restorable | Self::Starting => Status::Created,
            Self::Running => Status::Running,
            Self::Pausing => Status::Pausing,
            Self::Paused => Status::Paused,
            Self::Stopped => Status::Stopped,
        }
    }

    /// Whether there is a process, or is about to be.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Pausing | Self::Paused)
    }
}

enum Refusal {
    Finished,
    NotCreated,
    Cannot(&'static str),
}

/// One row for each thing that may be asked for.
fn refusal(state: State, role: Role, action: Action) -> Option<Refusal> {
    use {Action as A, Role as R, State as S};
    let text = match (action, state) {
        (A::Start, S::Starting | S::Running | S::Pausing) => "cannot start a running process",
        (A::Start, S::Paused) => "cannot start a paused process",
        (A::Start, S::Stopped) => "cannot start a stopped process",
        (A::Pause, S::Created | S::Restorable | S::Starting) => {
            "cannot pause task in created state"
        }
        (A::Pause, S::Paused | S::Pausing) => "cannot pause a paused container",
        (A::Pause, S::Stopped) => "cannot pause a stopped container",
        (A::Resume, S::Created | S::Restorable | S::Starting) => {
            "cannot resume task in created state"
        }
        (A::Resume, S::Running | S::Pausing) => "cannot resume a running process",
        (A::Resume, S::Stopped) => "cannot resume a stopped container",
        (A::Update, S::Stopped) => "cannot update a stopped container",
        (A::Checkpoint, S::Created | S::Restorable | S::Starting) => {
            "cannot checkpoint a task in created state"
        }
        (A::Checkpoint, S::Stopped) => "cannot checkpoint a stopped container",
        (A::Exec, S::Restorable) => "cannot exec in a created state",
        (A::Exec, S::Paused | S::Pausing) => "cannot exec in a paused state",
        (A::Exec, S::Stopped) => "cannot exec in a stopped state",
        (A::Kill, S::Created) if role == R::Exec => return Some(Refusal::NotCreated),
        (A::Kill, S::Stopped) => return Some(Refusal::Finished),
        (A::Resize, S::Stopped) if role == R::Exec => "cannot resize a stopped container",
        (A::Delete, S::Starting | S::Running | S::Pausing) => "cannot delete a running process",
        (A::Delete, S::Paused) => "cannot delete a paused process",
        _ => return None,
    };
    Some(Refusal::Cannot(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is allowed; else the words by which the refusal is known.
    #[rustfmt::skip]
    const INIT: &[(Action, [&str; 5])] = &[
        //                   created                running               paused                stopped               restorable
        (Action::Start,      ["+",                  "running process",    "paused process",     "stopped process",    "+"]),
        (Action::Pause,      ["created state",      "+",                  "paused container",   "stopped container",  "created state"]),
        (Action::Resume,     ["created state",      "running process",    "+",                  "stopped container",  "created state"]),
        (Action::Update,     ["+",                  "+",                  "+",                  "stopped container",  "+"]),
        (Action::Checkpoint, ["created state",      "+",                  "+",                  "stopped container",  "created state"]),
        (Action::Exec,       ["+",                  "+",                  "paused state",       "stopped state",      "created state"]),
        (Action::Kill,       ["+",                  "+",                  "+",                  "already finished",   "+"]),
        (Action::Resize,     ["+",                  "+",                  "+",                  "+",                  "+"]),
        (Action::Delete,     ["+",                  "running process",    "paused process",     "+",                  "+"]),
    ];

    #[rustfmt::skip]
    const EXEC: &[(Action, [&str; 3])] = &[
        //                   created                running               stopped
        (Action::Start,      ["+",                  "running process",    "stopped process"]),
        (Action::Kill,       ["not created",        "+",                  "already finished"]),
        (Action::Resize,     ["+",                  "+",                  "stopped container"]),
        (Action::Delete,     ["+",                  "running process",    "+"]),
    ];

    fn check(role: Role, state: State, action: Action, want: &str) {
        let got = state.allow(role, action);
        match got {
            Ok(()) => assert_eq!("+", want, "{role:?} {state:?} {action:?}"),
            Err(error) => assert!(
                want != "+" && error.to_string().contains(want),
                "{role:?} {state:?} {action:?}: {error}, want {want}"
            ),
        }
    }

    #[test]
    fn a_first_process_does_what_its_state_allows() {
        use State::{Created, Paused, Restorable, Running, Stopped};
        for (action, wants) in INIT {
            for (state, want) in [Created, Running, Paused, Stopped, Restorable].iter().zip(wants) {
                check(Role::Init, *state, *action, want);
            }
        }
    }

    #[test]
    fn an_added_process_does_what_its_state_allows() {
        for (action, wants) in EXEC {
            let states = [State::Created, State::Running, State::Stopped];
            for (state, want) in states.iter().zip(wants) {
                check(Role::Exec, *state, *action, want);
            }
        }
    }

    #[test]
    fn only_two_refusals_have_a_code() {
        let kind = |state: State, role, action| state.allow(role, action).unwrap_err().kind();
        assert_eq!(kind(State::Stopped, Role::Init, Action::Kill), Kind::NotFound);
        assert_eq!(kind(State::Created, Role::Exec, Action::Kill), Kind::FailedPrecondition);
        assert_eq!(kind(State::Running, Role::Init, Action::Delete), Kind::Unknown);
    }
}
