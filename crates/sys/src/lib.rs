// SPDX-License-Identifier: Apache-2.0
//! The one crate with unsafe code: what the kernel offers and rustix does not.
//!
//! Every other crate forbids `unsafe`. What needs it is wrapped here, one topic to a file, behind
//! functions that are safe to call. Errors are plain [`std::io::Error`]s, because callers branch on
//! the errno; whoever knows what was being done wraps them.
//!
//! ```text
//! Command --spawn--> Child --wait--------------> Exit
//!                      |                           ^
//!                      `--dies--> reaper::reap() --'   both see it: neither steals from the other
//! ```
//!
//! What rustix has safely is used from there, and not repeated here: `pidfd_open`,
//! `syncfs`, `eventfd`, `umask`, `prlimit`, `socket_peercred`, `set_name`, `set_child_subreaper`.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod btrfs;
pub mod errno;
pub mod failpoint;
pub mod fifo;
pub mod inherited;
pub mod kill;
pub mod limits;
pub mod lock;
pub mod loop_device;
pub mod memory;
pub mod mount_attr;
pub mod oom_score;
pub mod program;
pub mod project_quota;
pub mod reaper;
pub mod thread;
pub mod user_namespace;
pub mod verity;

mod child;
mod command;
mod exit;
mod signals;

pub use child::{Child, Output};
pub use command::Command;
pub use exit::Exit;
pub use signals::{Received, Signals};
