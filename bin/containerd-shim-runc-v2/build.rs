// SPDX-License-Identifier: Apache-2.0
//! How the shim is linked: at a fixed address.
//!
//! A program that can be loaded anywhere is patched by the loader at each start, and the pages with
//! the patches are each process's own: 150 KiB for every container on the host.

fn main() {
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
