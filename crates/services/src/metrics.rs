// SPDX-License-Identifier: Apache-2.0
//! Statistics as text for Prometheus, under containerd's names.
//!
//! ```text
//! container_memory_usage_usage_bytes{container_id="web",namespace="default",runtime="..."} 409600
//! ```
//!
//! The format is Prometheus' text exposition format, version 0.0.4.
#![expect(clippy::cast_precision_loss, reason = "all values of the format are of this type")]

mod calls;
mod process;
mod v1;
mod v2;

use std::{collections::BTreeMap, fmt::Write};

use ::runtime::Usage;
use api::io::containerd::cgroups;
use prost::{Message, Name};

pub use calls::{Call, Calls, Messages};
pub use process::process;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics, by name.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, Family>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: &'static str,
    /// Labels as text, and values.
    samples: Vec<(String, f64)>,
}

impl Page {
    /// Which daemon this is (containerd `core/metrics/metrics.go`).
    pub fn build(&mut self, version: &str, revision: &str) {
        let labels = labels(&[("revision", revision), ("version", version)]);
        self.add(
            "containerd_build_info_total",
            "containerd build information",
            "counter",
            labels,
            1.0,
        );
    }

    /// What a task uses.
    pub fn task(&mut self, usage: &Usage) {
        let labels = [
            ("container_id", usage.id.as_str()),
            ("namespace", &usage.namespace),
            ("runtime", &usage.runtime),
        ];
        let mut of = Task { page: self, labels: &labels };
        let value = usage.data.value.clone();
        if usage.data.is(&cgroups::v1::Metrics::full_name()) {
            v1::add(&cgroups::v1::Metrics::decode(value).unwrap_or_default(), &mut of);
        } else if usage.data.is(&cgroups::v2::Metrics::full_name()) {
            v2::add(&cgroups::v2::Metrics::decode(value).unwrap_or_default(), &mut of);
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, Family { help, kind, samples }) in &self.families {
            // Writing to a string cannot fail.
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
            for (labels, value) in samples {
                writeln!(text, "{name}{labels} {value}").ok();
            }
        }
        text
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        help: &'static str,
        kind: &'static str,
        labels: String,
        value: f64,
    ) {
        let family = self.families.entry(name.into());
        let new = || Family { help, kind, samples: Vec::new() };
        family.or_insert_with(new).samples.push((labels, value));
    }
}

/// The part of a page that is about one task.
struct Task<'a> {
    page: &'a mut Page,
    labels: &'a [(&'a str, &'a str)],
}

impl Task<'_> {
    /// A value that goes up and down; to containerd nearly all do.
    fn gauge(&mut self, name: &str, help: &'static str, value: u64) {
        self.labelled(name, help, &[], value);
    }

    fn labelled(&mut self, name: &str, help: &'static str, more: &[(&str, &str)], value: u64) {
        let labels = labels(&[self.labels, more].concat());
        self.page.add(format!("container_{name}"), help, "gauge", labels, value as f64);
    }

    fn counter(&mut self, name: &str, help: &'static str, value: u64) {
        let labels = labels(self.labels);
        self.page.add(format!("container_{name}"), help, "counter", labels, value as f64);
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escaped(value));
    let mut pairs: Vec<_> = pairs.iter().map(pair).collect();
    pairs.sort();
    format!("{{{}}}", pairs.join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use types::Any;

    use super::*;

    fn usage(message: &impl Name) -> Usage {
        let packed = api::pack(message);
        Usage {
            namespace: "n\"s".into(),
            id: "web".into(),
            runtime: "io.containerd.runc.v2".into(),
            at: SystemTime::UNIX_EPOCH,
            data: Any::new(packed.type_url, packed.value),
        }
    }

    const WEB: &str = r#"{container_id="web",namespace="n\"s",runtime="io.containerd.runc.v2"}"#;

    #[test]
    fn version_1_has_containerd_s_names() {
        let memory = cgroups::v1::MemoryStat {
            rss: 7,
            usage: Some(cgroups::v1::MemoryEntry { usage: 9, failcnt: 1, ..Default::default() }),
            ..Default::default()
        };
        let usage_of_cpu = cgroups::v1::CpuUsage { per_cpu: vec![3, 4], ..Default::default() };
        let metrics = cgroups::v1::Metrics {
            memory: Some(memory),
            pids: Some(cgroups::v1::PidsStat { current: 2, limit: 0 }),
            cpu: Some(cgroups::v1::CpuStat { usage: Some(usage_of_cpu), throttling: None }),
            ..Default::default()
        };
        let mut page = Page::default();
        page.task(&usage(&metrics));
        let text = page.text();
        for line in [
            format!("container_memory_rss_bytes{WEB} 7\n"),
            format!("container_memory_usage_usage_bytes{WEB} 9\n"),
            format!("container_memory_usage_failcnt_total{WEB} 1\n"),
            format!("container_pids_current{WEB} 2\n"),
            "# TYPE container_pids_current gauge\n".to_owned(),
            "# HELP container_cpu_total_nanoseconds The total cpu time\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        let cpu = "container_per_cpu_nanoseconds{container_id=\"web\",cpu=\"1\",";
        assert!(text.contains(cpu), "{text}");
        assert!(!text.contains("blkio"), "{text}");
    }

    #[test]
    fn version_2_has_containerd_s_names() {
        let metrics = cgroups::v2::Metrics {
            memory: Some(cgroups::v2::MemoryStat { usage: 5, ..Default::default() }),
            memory_events: Some(cgroups::v2::MemoryEvents { oom: 3, ..Default::default() }),
            cpu: Some(cgroups::v2::CpuStat { usage_usec: 8, ..Default::default() }),
            ..Default::default()
        };
        let mut page = Page::default();
        page.task(&usage(&metrics));
        let text = page.text();
        for line in [
            format!("container_memory_usage_bytes{WEB} 5\n"),
            format!("container_memory_oom_total{WEB} 3\n"),
            format!("container_cpu_usage_usec_microseconds{WEB} 8\n"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
    }

    #[test]
    fn each_name_is_explained_once() {
        let metrics = cgroups::v2::Metrics {
            pids: Some(cgroups::v2::PidsStat::default()),
            ..Default::default()
        };
        let mut page = Page::default();
        page.task(&usage(&metrics));
        page.task(&Usage { id: "db".into(), ..usage(&metrics) });
        page.build("2", "r");
        let text = page.text();
        assert_eq!(text.matches("# TYPE container_pids_limit gauge").count(), 1);
        assert_eq!(text.matches("\ncontainer_pids_limit{").count(), 2);
        assert!(text.contains("containerd_build_info_total{revision=\"r\",version=\"2\"} 1\n"));
    }
}
