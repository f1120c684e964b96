// SPDX-License-Identifier: Apache-2.0
//! A kit for writing shims.
pub mod bootstrap;
