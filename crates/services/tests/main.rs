// SPDX-License-Identifier: Apache-2.0
//! The rim: every suite of a contract, once more over `connect(serve(x))` through a real socket.
//! Needs root, since snapshots are mounted.

// In a folder, so that none becomes a binary of its own; `cfg(test)` tells clippy that helpers are
// tests too.
#[cfg(test)]
mod cases {
    mod codes;
    mod files;
    mod foreign;
    mod fuzz;
    mod round_trips;
    mod sandboxers;
    mod streams;
    mod suites;
    mod trees;
    mod world;
}
