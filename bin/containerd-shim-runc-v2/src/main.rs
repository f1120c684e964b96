// SPDX-License-Identifier: Apache-2.0
//! The shim for runc, and for whatever has runc's command line: one small process that looks after
//! one container, or all containers of a pod.
//!
//! ```text
//! Service --find--> Handle --calls--> Owner (one task for each container) --> runc
//!                     | watches          | owns state, streams, exits
//!                     `-- Facts <--------'
//! ```
//!
//! The owner of a container does one thing after the other, so that what happens and what is told
//! have one order. Whoever only asks reads what the owner last said, and never waits for runc.
use std::process::ExitCode;

mod container;
mod manager;
mod memory_file;
mod oom;
mod options;
mod process;
mod runc;
mod service;
mod spec;
mod state;

fn main() -> ExitCode {
    shim::run(&manager::RuncShim)
}
