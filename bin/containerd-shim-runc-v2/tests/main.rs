// SPDX-License-Identifier: Apache-2.0
//! The shim's binary, driven as a daemon drives it: by us over ttrpc, and by the distribution's
//! containerd. They need root, runc and a static busybox.

// In a folder, so that none becomes a binary of its own; `cfg(test)` tells clippy that helpers are
// tests too.
#[cfg(test)]
mod cases {
    mod bundle;
    mod daemon;
    mod deaths;
    mod debian;
    mod driver;
    mod errors;
    mod groups;
    mod growth;
    mod life;
    mod programs;
    mod runtimes;
    mod streams;
    mod unified;
}
