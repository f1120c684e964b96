// SPDX-License-Identifier: Apache-2.0
//! The stores of this crate, held to the suite, and what is particular to the one on disk.

// In a folder, so that none becomes a binary of its own; `cfg(test)` tells clippy that helpers are
// tests too.
#[cfg(test)]
mod cases {
    mod local;
    mod stores;
}
