// SPDX-License-Identifier: Apache-2.0
//! Our specs against those that containerd 1.6.20 and its `ctr` made for the same wishes on the
//! machine that these tests were written on, and against runc.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#[path = "cases/apparmor.rs"]
mod apparmor;
#[path = "cases/captured.rs"]
mod captured;
#[path = "cases/runc.rs"]
mod runc;
