// SPDX-License-Identifier: Apache-2.0
//! The scenarios: claims, played on the distribution's containerd first and then on ours.

mod archives;
mod audits;
mod codes;
mod configs;
mod content;
mod crowd;
mod daemon;
mod docker;
mod events;
mod execution;
mod faults;
mod hostile;
mod hosts;
mod images;
mod keeping;
mod leases;
mod mischief;
mod namespaces;
mod observing;
mod powercuts;
mod refusals;
mod restart;
mod run;
mod sandboxes;
mod shims;
mod snapshots;
mod store;
mod takeover;
mod tasks;
mod terminal;
mod trust;
mod version;
mod wire;
