// SPDX-License-Identifier: Apache-2.0
//! Control groups, read: what a task uses, which processes it has, whether it ran out of memory.
//!
//! Setting limits is the runtime's business. A file that the kernel does not have is passed over: it
//! is a statistic less, never an error. A cgroup that is gone is `NotFound`.
//!
//! ```text
//!                     Legacy, Hybrid                            Unified
//! of_pid(pid) --> memory: /sys/fs/cgroup/memory/ns/id       /sys/fs/cgroup/ns/id
//!                 pids:   /sys/fs/cgroup/pids/ns/id  ...
//!                        | metrics()                              | metrics()
//!                        v                                        v
//!                   v1::Metrics                              v2::Metrics
//! ```
//!
//! ```no_run
//! # fn main() -> types::Result<()> {
//! let cgroup = cgroups::Cgroup::of_pid(4711)?;
//! println!("{:?} of {:?}", cgroup.metrics()?, cgroup.processes()?);
//! # Ok(())
//! # }
//! ```
//!
//! Everything here blocks, though never for long, but for [`Cgroup::kill`] and [`Cgroup::delete`].

mod cgroup;
mod hierarchy;
mod huge_pages;
mod oom;
mod processes;
mod values;

pub mod v1;
pub mod v2;

pub use cgroup::{Cgroup, Metrics};
pub use hierarchy::Mode;
pub use oom::{OomReport, OomWatch};
