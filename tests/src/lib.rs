// SPDX-License-Identifier: Apache-2.0
//! The end-to-end harness: real daemons, a real registry, real runc, and faults on demand.
//!
//! A scenario is a claim and a function that is given a [`World`]. It is written once and played
//! with different [`Parts`], first of all with the distribution's: what does not hold there is not
//! compatibility. Everything has a time limit, nothing is shared between scenarios, and each ends
//! by checking that it left nothing behind.
//!
//! ```text
//! World --- Daemon --- Estate     what it owns on the machine, found by marks, removed on drop
//!   |          `------ probe      does it answer?
//!   |----- Ctr ------- process    run, watch, with limits      Pty: the same on a terminal
//!   |----- Docker    the Engine, for those who drive containerd through it
//!   `----- Registry    KnobRegistry      a real one, and one that misbehaves
//!               `--- image --- tar       images made on the spot, as wrong as wanted
//! ```
//!
//! ```no_run
//! # fn main() -> e2e::Outcome {
//! let world = e2e::World::new(e2e::Parts::REFERENCE)?;
//! let image = world.busybox()?;
//! let said = world.ctr.ok(["run", "--rm", &image, &world.id("greet"), "echo", "hello"])?;
//! assert_eq!(said, "hello\n");
//! # Ok(())
//! # }
//! ```

pub mod churn;
mod ctr;
mod daemon;
pub mod docker;
mod estate;
mod failure;
mod http;
mod image;
mod knobs;
pub mod parts;
pub mod powercut;
pub mod probe;
pub mod process;
pub mod procfs;
mod pty;
mod registry;
mod scenario;
mod tar;
pub mod wait;
mod world;

pub use ctr::Ctr;
pub use daemon::Daemon;
pub use estate::{Estate, sweep, traces};
pub use failure::{Context, Failure, Outcome};
pub use image::{Blob, Compression, Dialect, Image, Layer, Packed, digest, host};
pub use knobs::{Auth, Fault, KnobRegistry, Part, Seen};
pub use parts::{Make, Parts, Profile};
pub use process::{Output, Running};
pub use pty::Pty;
pub use registry::Registry;
pub use scenario::play;
pub use tar::Tar;
pub use wait::PATIENCE;
pub use world::World;
