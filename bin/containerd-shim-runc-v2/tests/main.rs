// SPDX-License-Identifier: Apache-2.0
//! The shim's binary, driven as a daemon drives it: by us over ttrpc, and by the distribution's
//! containerd. They need root, runc and a static busybox.
#[path = "cases/bundle.rs"]
mod bundle;
#[path = "cases/daemon.rs"]
mod daemon;
#[path = "cases/debian.rs"]
mod debian;
#[path = "cases/driver.rs"]
mod driver;
#[path = "cases/errors.rs"]
mod errors;
#[path = "cases/groups.rs"]
mod groups;
#[path = "cases/life.rs"]
mod life;
#[path = "cases/programs.rs"]
mod programs;
#[path = "cases/streams.rs"]
mod streams;
