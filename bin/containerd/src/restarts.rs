// SPDX-License-Identifier: Apache-2.0
//! The restart monitor: it looks at what is to be kept running, again and again (containerd
//! `plugins/restart/monitor.go`).
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use types::{Error, Filters, Result, Scope};

use crate::{config::duration, daemon::Parts};

/// The name of its section, and the one that it had before version 3.
pub(crate) const SECTION: &str = "io.containerd.monitor.container.v1.restart";

/// How long to wait between two looks, where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(10);

/// The section of the monitor.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Section {
    interval: String,
}

impl Section {
    pub(crate) fn interval(&self) -> Result<Duration> {
        let bad =
            || Error::invalid(format!("restart monitor: not a duration: {:?}", self.interval));
        match self.interval.as_str() {
            "" => Ok(INTERVAL),
            text => {
                duration(text).map(|it| if it.is_zero() { INTERVAL } else { it }).ok_or_else(bad)
            }
        }
    }
}

/// Looks at all namespaces every `interval`, until it is dropped.
pub(crate) async fn monitor(parts: Parts, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = look(&parts).await {
            tracing::warn!(%error, "the restart monitor cannot list namespaces");
        }
    }
}

async fn look(parts: &Parts) -> Result<()> {
    let namespaces = parts.db.namespaces().list(&Filters::default()).await?;
    let each = namespaces.into_iter().map(|namespace| async move {
        let looked = match Scope::new(&namespace.name) {
            Ok(scope) => parts.client(&scope).restart_containers().await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            tracing::warn!(namespace = namespace.name, %error, "the restart monitor failed");
        }
    });
    join_all(each).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_ten_seconds_unless_it_is_said() {
        let of = |text: &str| toml::from_str::<Section>(text).unwrap().interval();
        assert_eq!(of("").unwrap(), INTERVAL);
        assert_eq!(of("interval = \"0s\"").unwrap(), INTERVAL);
        assert_eq!(of("interval = \"250ms\"").unwrap(), Duration::from_millis(250));
        assert!(of("interval = \"often\"").is_err());
    }
}
