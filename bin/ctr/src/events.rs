// SPDX-License-Identifier: Apache-2.0
//! `ctr events`.
use ::events::Envelope;
use api::containerd::{events as pb, services::images::v1 as images};
use clap::Args;
use serde_json::{Value, json};
use types::{Any, Filters, Result};

use crate::{
    connection::Connection,
    json::{Field, messages, object},
    output::say,
    units,
};

/// Print events as they happen.
#[derive(Debug, Args)]
pub(crate) struct Command {
    /// Filters, such as topic==/tasks/exit
    filters: Vec<String>,
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let bus = connection.client().await?.events;
        let mut events = bus.subscribe(Filters::parse(self.filters)?).await?;
        while let Some(event) = events.next().await {
            say!("{}", line(&*event?));
        }
        Ok(())
    }
}

/// When, where, what about, and the event itself as JSON.
fn line(envelope: &Envelope) -> String {
    let Envelope { timestamp, namespace, topic, event } = envelope;
    format!("{} {namespace} {topic} {}", units::time(*timestamp), describe(event))
}

messages! {
    pb::container_create::Runtime { name }
    pb::TaskIo { stdin, stdout, stderr, terminal }
}

impl Field for api::containerd::types::Mount {
    fn value(&self) -> Value {
        json!({ "type": self.r#type, "source": self.source, "options": self.options })
    }
}

macro_rules! events {
    ($($module:ident::$event:ident { $($field:ident),* })*) => {
        /// An event that is known as JSON, and any other by its type.
        fn describe(event: &Any) -> Value {
            let any = prost_types::Any {
                type_url: event.type_url.clone(),
                value: event.value.to_vec(),
            };
            $(
                if let Some(Ok(event)) = api::unpack::<$module::$event>(&any) {
                    return object([$((stringify!($field), event.$field.value())),*]);
                }
            )*
            json!({ "type_url": event.type_url })
        }
    };
}

events! {
    pb::ContainerCreate { id, image, runtime }
    pb::ContainerUpdate { id, image, labels, snapshot_key }
    pb::ContainerDelete { id }
    images::ImageCreate { name, labels }
    images::ImageUpdate { name, labels }
    images::ImageDelete { name }
    pb::NamespaceCreate { name, labels }
    pb::NamespaceUpdate { name, labels }
    pb::NamespaceDelete { name }
    pb::ContentCreate { digest, size }
    pb::ContentDelete { digest }
    pb::SnapshotPrepare { key, parent, snapshotter }
    pb::SnapshotCommit { key, name, snapshotter }
    pb::SnapshotRemove { key, snapshotter }
    pb::TaskCreate { container_id, bundle, rootfs, io, checkpoint, pid }
    pb::TaskStart { container_id, pid }
    pb::TaskDelete { container_id, pid, exit_status, exited_at, id }
    pb::TaskExit { container_id, id, pid, exit_status, exited_at }
    pb::TaskOom { container_id }
    pb::TaskExecAdded { container_id, exec_id }
    pb::TaskExecStarted { container_id, exec_id, pid }
    pb::TaskPaused { container_id }
    pb::TaskResumed { container_id }
    pb::TaskCheckpointed { container_id, checkpoint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_shown_as_json_without_what_is_empty() {
        let exit = api::pack(&pb::TaskExit {
            container_id: "redis".into(),
            id: "redis".into(),
            pid: 7,
            ..Default::default()
        });
        let shown = describe(&Any::new(exit.type_url, exit.value));
        assert_eq!(shown.to_string(), r#"{"container_id":"redis","id":"redis","pid":7}"#);
    }

    #[test]
    fn an_event_that_is_not_known_is_shown_by_its_type() {
        let shown = describe(&Any::new("x.Y", ""));
        assert_eq!(shown.to_string(), r#"{"type_url":"x.Y"}"#);
    }
}
