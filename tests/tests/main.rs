// SPDX-License-Identifier: Apache-2.0
//! The scenarios: claims, played on the distribution's containerd first and then on ours.

mod archives;
mod audits;
mod bad_registries;
mod codes;
mod configs;
mod conformance;
mod content;
mod crowd;
mod daemon;
mod damage;
mod distribution;
mod docker;
mod events;
mod execution;
mod faults;
mod grants;
mod hardship;
mod hostile;
mod hosts;
mod images;
mod keeping;
mod leases;

mod namespaces;
mod native;
mod newer;
mod observing;
mod powercuts;
mod refusals;
mod restart;
mod run;
mod sandboxes;
mod sharing;
mod shims;
mod snapshots;
mod steps;
mod store;
mod takeover;
mod tasks;
mod terminal;
mod trust;
mod version;
mod wire;
