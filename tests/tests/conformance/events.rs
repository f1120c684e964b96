// SPDX-License-Identifier: Apache-2.0
//! Every call of the events service, with what can be said in it.
use std::time::{Duration, SystemTime};

use api::containerd::services::events::v1 as pb;
use api::containerd::types::Envelope;
use e2e::{Outcome, World};
use prost_types::Any;

use super::{LIMIT, Shape, Table, fields, told};
use crate::wire::Wire;

const SUBJECT: &str = "events";

/// Plays them.
pub(super) fn play(world: &World, table: &Table) -> Outcome {
    let wire = Wire::connect(world, "events.v1.Events")?;
    let topics = [("a topic", "/tests/one"), ("no topic", ""), ("no slash", "tests/one")];
    for (state, topic) in topics {
        let topic = topic.to_owned();
        let request = pb::PublishRequest { topic: topic.clone(), event: Some(Any::default()) };
        let answer = told::<_, ()>(&wire, "Publish", request, LIMIT);
        table.check([SUBJECT, "Events.Publish", state], "{id}", &answer);
        let answer = forward(&wire, envelope(topic, world.ctr.namespace(), true));
        table.check([SUBJECT, "Events.Forward", state], "{id}", &answer);
    }
    let topic = || "/tests/one".to_owned();
    for (state, envelope) in [
        ("no namespace", envelope(topic(), "", true)),
        ("no time", envelope(topic(), world.ctr.namespace(), false)),
    ] {
        table.check([SUBJECT, "Events.Forward", state], "{id}", &forward(&wire, envelope));
    }
    for (state, filter) in
        [("no filter", ""), ("a filter", "topic==\"/x\""), ("a bad filter", "===")]
    {
        let filters = if filter.is_empty() { Vec::new() } else { vec![filter.to_owned()] };
        let request = pb::SubscribeRequest { filters };
        let answer = told::<_, Envelope>(&wire, "Subscribe", request, Duration::from_secs(1));
        table.check([SUBJECT, "Events.Subscribe", state], "{id}", &answer);
    }
    let nameless = Wire::connect(world, "events.v1.Events")?.in_namespace("");
    let request = pb::PublishRequest { topic: topic(), event: Some(Any::default()) };
    let answer = told::<_, ()>(&nameless, "Publish", request, LIMIT);
    table.check([SUBJECT, "Events.Publish", "no namespace"], "{id}", &answer);
    Ok(())
}

fn forward(wire: &Wire, envelope: Envelope) -> String {
    told::<_, ()>(wire, "Forward", pb::ForwardRequest { envelope: Some(envelope) }, LIMIT)
}

fn envelope(topic: String, namespace: &str, is_dated: bool) -> Envelope {
    Envelope {
        timestamp: is_dated.then(|| SystemTime::now().into()),
        namespace: namespace.to_owned(),
        topic,
        event: Some(Any::default()),
    }
}

impl Shape for Envelope {
    fn shape(&self) -> String {
        fields(&[("topic", !self.topic.is_empty()), ("namespace", !self.namespace.is_empty())])
    }
}
