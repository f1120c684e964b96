// SPDX-License-Identifier: Apache-2.0
//! The flows over real parts: a content store, snapshotters, a differ and the database.
//!
//! Only what is at the other end is made up: a registry in memory, and a shim that is a thread.

// `cfg(test)` tells clippy that helpers are tests too.
#[cfg(test)]
mod cases {
    mod archives;
    mod image;
    mod platforms;
    mod pulling;
    mod pushing;
    mod referring;
    mod remote;
    mod running;
    mod shim;
    mod trouble;
    mod unpacking;
    mod world;
}
