// SPDX-License-Identifier: Apache-2.0
//! `ctr events`.
use ::events::Envelope;
use api::containerd::{events as pb, services::images::v1 as images};
use clap::Args;
use serde_json::{Map, Value, json};
use types::{Any, Filters, Result};

use crate::{connection::Connection, units};

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
            println!("{}", line(&*event?));
        }
        Ok(())
    }
}

/// When, where, what about, and the event itself as JSON.
fn line(envelope: &Envelope) -> String {
    let Envelope { timestamp, namespace, topic, event } = envelope;
    format!("{} {namespace} {topic} {}", units::time(*timestamp), describe(event))
}

/// A field of an event as JSON; what is empty is left out, as Go does.
trait Field {
    fn value(&self) -> Value;
}

impl Field for String {
    fn value(&self) -> Value {
        if self.is_empty() { Value::Null } else { json!(self) }
    }
}

impl Field for u32 {
    fn value(&self) -> Value {
        if *self == 0 { Value::Null } else { json!(self) }
    }
}

impl Field for i64 {
    fn value(&self) -> Value {
        if *self == 0 { Value::Null } else { json!(self) }
    }
}

impl Field for bool {
    fn value(&self) -> Value {
        if *self { json!(true) } else { Value::Null }
    }
}

impl Field for types::Labels {
    fn value(&self) -> Value {
        if self.is_empty() { Value::Null } else { json!(self) }
    }
}

impl Field for Option<prost_types::Timestamp> {
    fn value(&self) -> Value {
        let time = self.and_then(|time| std::time::SystemTime::try_from(time).ok());
        time.map_or(Value::Null, |time| json!(units::time(time)))
    }
}

impl Field for Option<pb::container_create::Runtime> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, |runtime| json!({ "name": runtime.name }))
    }
}

impl Field for Option<pb::TaskIo> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::Null, |io| {
            object([
                ("stdin", io.stdin.value()),
                ("stdout", io.stdout.value()),
                ("stderr", io.stderr.value()),
                ("terminal", io.terminal.value()),
            ])
        })
    }
}

impl Field for Vec<api::containerd::types::Mount> {
    fn value(&self) -> Value {
        let mount = |it: &api::containerd::types::Mount| {
            json!({ "type": it.r#type, "source": it.source, "options": it.options })
        };
        if self.is_empty() { Value::Null } else { self.iter().map(mount).collect() }
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
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
