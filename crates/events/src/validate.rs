// SPDX-License-Identifier: Apache-2.0
//! What an exchange accepts (containerd `core/events/exchange/exchange.go`).

use types::{Error, Result, Scope, identifiers};

use crate::Envelope;

/// Refuses what cannot be published.
pub(crate) fn publication(namespace: &str, topic: &str) -> Result<()> {
    if namespace.is_empty() {
        let error = Error::failed_precondition("namespace is required");
        return Err(error.context("failed publishing event"));
    }
    Scope::new(namespace).map_err(|error| error.context("failed publishing event"))?;
    check_topic(topic)
}

/// Refuses what cannot be forwarded.
pub(crate) fn envelope(envelope: &Envelope) -> Result<()> {
    identifiers::validate(&envelope.namespace)
        .map_err(|error| error.context("event envelope has invalid namespace"))?;
    // Compat: containerd 2.x takes an event without a time; 1.x refused it.
    check_topic(&envelope.topic)
}

fn check_topic(topic: &str) -> Result<()> {
    components(topic).map_err(|error| error.context(format!("envelope topic {topic:?}")))
}

fn components(topic: &str) -> Result<()> {
    if topic.is_empty() {
        return Err(Error::invalid("must not be empty"));
    }
    let Some(rest) = topic.strip_prefix('/') else {
        return Err(Error::invalid("must start with '/'"));
    };
    if rest.is_empty() {
        return Err(Error::invalid("must have at least one component"));
    }
    rest.split('/').try_for_each(|component| {
        identifiers::validate(component)
            .map_err(|error| error.context(format!("failed validation on component {component:?}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_paths_of_identifiers() {
        for topic in ["/test", "/tasks/exec-added", "/a/b/c"] {
            assert!(check_topic(topic).is_ok(), "{topic}");
        }
        for (topic, want) in [
            ("", r#"envelope topic "": must not be empty: invalid argument"#),
            ("test", r#"envelope topic "test": must start with '/': invalid argument"#),
            ("/", r#"envelope topic "/": must have at least one component: invalid argument"#),
        ] {
            assert_eq!(check_topic(topic).unwrap_err().to_string(), want);
        }
        for topic in ["/test/", "//test", "/a b", "/a/*"] {
            assert!(check_topic(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn a_publication_needs_a_namespace() {
        let error = publication("", "/test").unwrap_err();
        assert_eq!(error.kind(), types::Kind::FailedPrecondition);
        assert_eq!(publication("a b", "/test").unwrap_err().kind(), types::Kind::InvalidArgument);
    }
}
