// SPDX-License-Identifier: Apache-2.0
//! The snapshotters of this crate, held to the suite, and what a crash may leave of them. Needs root.

// In a folder, so that none becomes a binary of its own; `cfg(test)` tells clippy that helpers are
// tests too.
#[cfg(test)]
mod cases {
    mod btrfs;
    mod carried;
    mod crash;
    mod erofs;
    mod leftovers;
    mod overlay;
    mod quota;
    mod snapshotters;
}
