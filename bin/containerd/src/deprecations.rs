// SPDX-License-Identifier: Apache-2.0
//! What the config uses that will not be there for ever (containerd `pkg/deprecation`, and the
//! validation of CRI's and tracing's sections).
use std::{env, time::SystemTime};

use services::introspection::Deprecation;
use toml::Value;

use crate::Config;

/// Names of warnings that shall not be given, with commas between them.
const SUPPRESS: &str = "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS";

const PREFIX: &str = "io.containerd.deprecation/";

/// A property that is deprecated: its plugin, where it is in the plugin's section, the name of the
/// warning, and what to do.
struct Rule {
    plugin: &'static str,
    path: &'static [&'static str],
    id: &'static str,
    message: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        plugin: "io.containerd.cri.v1.images",
        path: &["registry", "mirrors"],
        id: "cri-registry-mirrors",
        message: "The `mirrors` property of `[plugins.\"io.containerd.grpc.v1.cri\".registry]` is \
                  deprecated since containerd v1.5. Use `config_path` instead.",
    },
    Rule {
        plugin: "io.containerd.cri.v1.images",
        path: &["registry", "auths"],
        id: "cri-registry-auths",
        message: "The `auths` property of `[plugins.\"io.containerd.grpc.v1.cri\".registry]` is \
                  deprecated since containerd v1.3. Use `ImagePullSecrets` instead.",
    },
    Rule {
        plugin: "io.containerd.cri.v1.images",
        path: &["registry", "configs"],
        id: "cri-registry-configs",
        message: "The `configs` property of `[plugins.\"io.containerd.grpc.v1.cri\".registry]` is \
                  deprecated since containerd v1.5. Use `config_path` instead.",
    },
    Rule {
        plugin: "io.containerd.cri.v1.runtime",
        path: &["cni", "bin_dir"],
        id: "cri-cni-bin-dir",
        message: "The `bin_dir` property of `[plugins.\"io.containerd.cri.v1.runtime\".cni]` is \
                  deprecated since containerd v2.1. Use `bin_dirs` in the same section instead.",
    },
    Rule {
        plugin: "io.containerd.tracing.processor.v1.otlp",
        path: &[],
        id: "tracing-processor-config",
        message: "The `otlp` property of `[plugins.\"io.containerd.tracing.processor.v1\".otlp]` is \
                  deprecated since containerd v1.6. Use OTLP environment variables instead: \
                  https://opentelemetry.io/docs/specs/otel/protocol/exporter/",
    },
    Rule {
        plugin: "io.containerd.internal.v1.tracing",
        path: &[],
        id: "tracing-service-config",
        message: "The `tracing` property of `[plugins.\"io.containerd.internal.v1\".tracing]` is \
                  deprecated since containerd v1.6. Use OTEL environment variables instead: \
                  https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/",
    },
];

/// The warnings about `config`, but for those that the environment does not want.
pub(crate) fn of(config: &Config) -> Vec<Deprecation> {
    let suppressed = env::var(SUPPRESS).unwrap_or_default();
    found(config, &suppressed)
}

fn found(config: &Config, suppressed: &str) -> Vec<Deprecation> {
    let is_wanted = |rule: &&Rule| {
        let id = format!("{PREFIX}{}", rule.id);
        !suppressed.split(',').any(|name| name.trim() == id || name.trim() == rule.id)
    };
    let used = RULES.iter().filter(|rule| is_used(config, rule)).filter(is_wanted);
    used.map(|rule| Deprecation {
        id: format!("{PREFIX}{}", rule.id),
        message: rule.message.to_owned(),
        last: SystemTime::now(),
    })
    .collect()
}

fn is_used(config: &Config, rule: &Rule) -> bool {
    let Some(section) = config.plugins.get(rule.plugin) else { return false };
    let whole = Value::Table(section.clone());
    let value = rule.path.iter().try_fold(&whole, |value, key| value.get(key));
    value.is_some_and(says_something)
}

/// A config that was dumped has all keys, most of them empty.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Table(table) => table.values().any(says_something),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Integer(number) => *number != 0,
        Value::Boolean(is_set) => *is_set,
        Value::Float(_) | Value::Datetime(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str, suppressed: &str) -> Vec<String> {
        let config = Config::parse(text).unwrap().0;
        found(&config, suppressed).into_iter().map(|warning| warning.id).collect()
    }

    #[test]
    fn what_is_used_is_told_unless_it_shall_not_be() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"x\"]\n\
            endpoint = [\"y\"]\n[plugins.\"io.containerd.grpc.v1.cri\".registry.auths]\n";
        assert_eq!(ids(text, ""), ["io.containerd.deprecation/cri-registry-mirrors"]);
        assert!(ids(text, "a, io.containerd.deprecation/cri-registry-mirrors").is_empty());
        assert!(ids("version = 3", "").is_empty());
    }
}
