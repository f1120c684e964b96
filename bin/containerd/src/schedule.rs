// SPDX-License-Identifier: Apache-2.0
//! When to collect, in the words of containerd's config (`plugins/gc/scheduler.go`).
use std::time::Duration;

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
        let default = Schedule::default();
        Ok(Schedule {
            pause_threshold: self.pause_threshold.unwrap_or(default.pause_threshold),
            deletion_threshold: self.deletion_threshold.unwrap_or(default.deletion_threshold),
            mutation_threshold: self.mutation_threshold.unwrap_or(default.mutation_threshold),
            schedule_delay: span(self.schedule_delay.as_deref(), default.schedule_delay)?,
            startup_delay: span(self.startup_delay.as_deref(), default.startup_delay)?,
        })
    }
}

fn span(text: Option<&str>, default: Duration) -> Result<Duration> {
    let Some(text) = text else { return Ok(default) };
    duration(text).ok_or_else(|| Error::invalid(format!("gc scheduler: not a duration: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_containerd_has_it() {
        let section: Section = toml::from_str("mutation_threshold = 7").unwrap();
        let schedule = section.schedule().unwrap();
        assert_eq!(schedule, Schedule { mutation_threshold: 7, ..Schedule::default() });
        let bad: Section = toml::from_str("startup_delay = \"soon\"").unwrap();
        assert!(bad.schedule().is_err());
    }
}
