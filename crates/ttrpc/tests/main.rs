// SPDX-License-Identifier: Apache-2.0
//! The protocol, spoken by both sides of this crate, by hand-made frames, and by Go.

// In a folder, so that none becomes a binary of its own; `cfg(test)` tells clippy that helpers are
// tests too.
#[cfg(test)]
mod cases {
    mod closing;
    mod hostile;
    mod interop;
    mod limits;
    mod streams;
    mod support;
    mod unary;
    mod unix;
}
