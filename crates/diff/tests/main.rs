// SPDX-License-Identifier: Apache-2.0
//! Layers on a real filesystem. Needs root: devices, owners and overlays are real.

// `cfg(test)` tells clippy that helpers are tests too.
#[cfg(test)]
mod cases {
    mod archive;
    mod comparing;
    mod differ;
    mod erofs;
    mod escapes;
    mod foreign;
    mod hostile;
    mod overlays;
    mod random;
    mod tree;
    mod unpacking;
    mod whiteouts;
}
