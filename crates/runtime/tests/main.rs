// SPDX-License-Identifier: Apache-2.0
//! The shims of a daemon over real sockets and processes: a shim here is a ttrpc server in this
//! process, and its program a script that says where that listens. Needs no root.

// `cfg(test)` tells clippy that helpers are tests too.
#[cfg(test)]
mod cases {
    mod dialects;
    mod recovery;
    mod refusals;
    mod silence;
    mod world;
}
