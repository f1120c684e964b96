// SPDX-License-Identifier: Apache-2.0
//! Real processes, fifos and loop devices. Needs root.

mod command;
mod loop_device;
mod signals;
