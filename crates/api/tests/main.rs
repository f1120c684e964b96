// SPDX-License-Identifier: Apache-2.0

//! What is generated, held against containerd's own bytes, numbers and names.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod additions;
mod captured;
#[cfg(feature = "grpc")]
mod services;
