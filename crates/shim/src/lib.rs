// SPDX-License-Identifier: Apache-2.0
//! A kit for writing shims: the small processes that look after containers, so that the daemon may
//! come and go.
//!
//! A shim implements [`Shim`] and [`Task`]; the kit does what is the same for all: the command line,
//! the socket, ttrpc, reaping, events and the streams of processes. No exit is lost, no event is out
//! of order, and nothing here waits for the daemon or for whoever reads a container's output.
//!
//! ```text
//! daemon --exec: start--> program --finds or makes--> socket <--ttrpc-- daemon
//!                            `--spawns--> server
//!                                           |  Task      what the daemon asks for
//!                                           |  Sandbox   the shim itself, as a pod sees it
//!                                           |  Exits     which process ended how
//!                                           |  Publisher what happened, in order
//!                                           `- stdio     streams of processes
//! daemon --exec: delete--> program: cleans up after a server that is gone
//! ```
//!
//! A shim is one thread. Its `main` is `shim::run(&MyShim)`.
pub mod bootstrap;
pub mod metrics;
pub mod socket;
pub mod stdio;

mod exits;
mod flags;
mod log;
mod process;
mod program;
mod publisher;
mod ready;
mod sandbox;
mod server;
mod task;

pub use exits::{Exited, Exits, Expecting};
pub use flags::Flags;
pub use process::finished;
pub use program::{Placement, Remains, Shim, Stopped, run};
pub use publisher::Publisher;
pub use ready::Ready;
pub use server::{Context, Stop};
pub use task::Task;
