// SPDX-License-Identifier: Apache-2.0
//! The events that containerd knows: each with its message, its topic, and its fields for filters.
use std::borrow::Cow;

use api::containerd::{
    events::{
        ContainerCreate, ContainerDelete, ContainerUpdate, ContentCreate, ContentDelete,
        NamespaceCreate, NamespaceDelete, NamespaceUpdate, SandboxCreate, SandboxExit,
        SandboxStart, SnapshotCommit, SnapshotPrepare, SnapshotRemove, TaskCheckpointed,
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused,
        TaskResumed, TaskStart, container_create::Runtime,
    },
    services::images::v1::{ImageCreate, ImageDelete, ImageUpdate},
};
use prost::{Message, Name};
use types::{Any, Digest, Fields, Labels, filter::label};

/// A message that is published, always about the same topic.
pub trait Typed {
    /// What it is about: `/tasks/start`.
    const TOPIC: &'static str;

    /// The message under its type's bare name.
    fn to_any(&self) -> Any;
}

/// An event ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub topic: &'static str,
    /// The encoded message.
    pub body: Any,
}

/// For those who know no generated message.
impl Event {
    /// The event that `message` is.
    pub fn of(message: &impl Typed) -> Self {
        event(message)
    }

    /// `/containers/create`.
    pub fn container_created(id: &str, image: &str, runtime: &str, options: Option<&Any>) -> Self {
        let options = options.map(|any| prost_types::Any {
            type_url: any.type_url.clone(),
            value: any.value.to_vec(),
        });
        let runtime = Some(Runtime { name: runtime.into(), options });
        event(&ContainerCreate { id: id.into(), image: image.into(), runtime })
    }

    /// `/containers/update`.
    pub fn container_updated(id: &str, image: &str, labels: &Labels, snapshot_key: &str) -> Self {
        event(&ContainerUpdate {
            id: id.into(),
            image: image.into(),
            labels: labels.clone(),
            snapshot_key: snapshot_key.into(),
        })
    }

    /// `/containers/delete`.
    pub fn container_deleted(id: &str) -> Self {
        event(&ContainerDelete { id: id.into() })
    }

    /// `/images/create`.
    pub fn image_created(name: &str, labels: &Labels) -> Self {
        event(&ImageCreate { name: name.into(), labels: labels.clone() })
    }

    /// `/images/update`.
    pub fn image_updated(name: &str, labels: &Labels) -> Self {
        event(&ImageUpdate { name: name.into(), labels: labels.clone() })
    }

    /// `/images/delete`.
    pub fn image_deleted(name: &str) -> Self {
        event(&ImageDelete { name: name.into() })
    }

    /// `/namespaces/create`.
    pub fn namespace_created(name: &str, labels: &Labels) -> Self {
        event(&NamespaceCreate { name: name.into(), labels: labels.clone() })
    }

    /// `/namespaces/update`.
    pub fn namespace_updated(name: &str, labels: &Labels) -> Self {
        event(&NamespaceUpdate { name: name.into(), labels: labels.clone() })
    }

    /// `/namespaces/delete`.
    pub fn namespace_deleted(name: &str) -> Self {
        event(&NamespaceDelete { name: name.into() })
    }

    /// `/content/create`.
    pub fn content_created(digest: &Digest, size: u64) -> Self {
        event(&ContentCreate {
            digest: digest.to_string(),
            size: size as i64,
            ..Default::default()
        })
    }

    /// `/content/delete`.
    pub fn content_deleted(digest: &Digest) -> Self {
        event(&ContentDelete { digest: digest.to_string() })
    }

    /// `/snapshot/prepare`.
    pub fn snapshot_prepared(snapshotter: &str, key: &str, parent: &str) -> Self {
        event(&SnapshotPrepare {
            key: key.into(),
            parent: parent.into(),
            snapshotter: snapshotter.into(),
        })
    }

    /// `/snapshot/commit`.
    pub fn snapshot_committed(snapshotter: &str, key: &str, name: &str) -> Self {
        event(&SnapshotCommit {
            key: key.into(),
            name: name.into(),
            snapshotter: snapshotter.into(),
        })
    }

    /// `/snapshot/remove`.
    pub fn snapshot_removed(snapshotter: &str, key: &str) -> Self {
        event(&SnapshotRemove { key: key.into(), snapshotter: snapshotter.into() })
    }
}

fn event<T: Typed>(message: &T) -> Event {
    Event { topic: T::TOPIC, body: message.to_any() }
}

/// Reads a known event, so that a filter may look into it.
pub(crate) fn decode(any: &Any) -> Option<Box<dyn Fields>> {
    let name = any.type_url.rsplit_once('/').map_or(any.type_url.as_str(), |(_, name)| name);
    KNOWN.iter().find(|known| (known.name)() == name).and_then(|known| (known.decode)(&any.value))
}

struct Known {
    name: fn() -> String,
    decode: fn(&[u8]) -> Option<Box<dyn Fields>>,
}

/// A message that filters look into.
struct Decoded<M>(M);

/// A field that is a text is absent when it is empty, as for Go's generated field paths
/// (containerd `cmd/protoc-gen-go-fieldpath`, `api/events/*_fieldpath.pb.go`).
fn text(value: &str) -> Option<Cow<'_, str>> {
    (!value.is_empty()).then_some(Cow::Borrowed(value))
}

macro_rules! known {
    ($($message:ident $topic:literal [$($field:ident),*] $(|$it:ident, $path:ident| $more:expr)?;)*) => {
        const KNOWN: &[Known] = &[$(Known {
            name: $message::full_name,
            decode: |value| Some(Box::new(Decoded($message::decode(value).ok()?))),
        }),*];
        $(
            impl Typed for $message {
                const TOPIC: &'static str = $topic;

                fn to_any(&self) -> Any {
                    Any::new(Self::full_name(), self.encode_to_vec())
                }
            }

            impl Fields for Decoded<$message> {
                fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
                    match path {
                        $([stringify!($field), ..] => text(&self.0.$field),)*
                        _ => known!(@more self path $(|$it, $path| $more)?),
                    }
                }
            }
        )*
    };
    (@more $self:ident $path:ident) => { None };
    (@more $self:ident $rest:ident |$it:ident, $path:ident| $more:expr) => {{
        let ($it, $path) = (&$self.0, $rest);
        $more
    }};
}

known! {
    ContainerCreate "/containers/create" [id, image] |it, path| match (path, &it.runtime) {
        (["runtime", "name", ..], Some(runtime)) => text(&runtime.name),
        _ => None,
    };
    ContainerUpdate "/containers/update" [id, image, snapshot_key] |it, path| labelled(&it.labels, path);
    ContainerDelete "/containers/delete" [id];
    ContentCreate "/content/create" [digest] |it, path| match path {
        ["mediaType", ..] => text(&it.media_type),
        _ => None,
    };
    ContentDelete "/content/delete" [digest];
    ImageCreate "/images/create" [name] |it, path| labelled(&it.labels, path);
    ImageUpdate "/images/update" [name] |it, path| labelled(&it.labels, path);
    ImageDelete "/images/delete" [name];
    NamespaceCreate "/namespaces/create" [name] |it, path| labelled(&it.labels, path);
    NamespaceUpdate "/namespaces/update" [name] |it, path| labelled(&it.labels, path);
    NamespaceDelete "/namespaces/delete" [name];
    SandboxCreate "/sandboxes/create" [sandbox_id];
    SandboxStart "/sandboxes/start" [sandbox_id];
    SandboxExit "/sandboxes/exit" [sandbox_id];
    SnapshotPrepare "/snapshot/prepare" [key, parent, snapshotter];
    SnapshotCommit "/snapshot/commit" [key, name, snapshotter];
    SnapshotRemove "/snapshot/remove" [key, snapshotter];
    TaskCreate "/tasks/create" [container_id, bundle, checkpoint] |it, path| match (path, &it.io) {
        (["io", "stdin", ..], Some(io)) => text(&io.stdin),
        (["io", "stdout", ..], Some(io)) => text(&io.stdout),
        (["io", "stderr", ..], Some(io)) => text(&io.stderr),
        (["io", "terminal", ..], Some(io)) => Some(io.terminal.to_string().into()),
        _ => None,
    };
    TaskStart "/tasks/start" [container_id];
    TaskOom "/tasks/oom" [container_id];
    TaskExit "/tasks/exit" [container_id, id];
    TaskDelete "/tasks/delete" [container_id, id];
    TaskExecAdded "/tasks/exec-added" [container_id, exec_id];
    TaskExecStarted "/tasks/exec-started" [container_id, exec_id];
    TaskPaused "/tasks/paused" [container_id];
    TaskResumed "/tasks/resumed" [container_id];
    TaskCheckpointed "/tasks/checkpointed" [container_id, checkpoint];
}

fn labelled<'a>(labels: &'a Labels, path: &[&str]) -> Option<Cow<'a, str>> {
    match path {
        ["labels", key @ ..] => label(labels, key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: &Event, path: &[&str], want: Option<&str>) {
        let fields = decode(&event.body).unwrap();
        assert_eq!(fields.field(path).as_deref(), want, "{path:?}");
    }

    #[test]
    fn an_event_is_named_by_its_bare_type() {
        let event = Event::container_deleted("c");
        assert_eq!(event.topic, "/containers/delete");
        assert_eq!(event.body.type_url, "containerd.events.ContainerDelete");
    }

    #[test]
    fn images_have_their_own_package() {
        let event = Event::image_created("busybox", &Labels::new());
        assert_eq!(event.body.type_url, "containerd.services.images.v1.ImageCreate");
    }

    #[test]
    fn fields_are_those_of_the_message() {
        let created = Event::container_created("c", "", "io.containerd.runc.v2", None);
        check(&created, &["id"], Some("c"));
        check(&created, &["image"], None);
        check(&created, &["runtime", "name"], Some("io.containerd.runc.v2"));
        check(&created, &["pid"], None);

        let labels = Labels::from([("a.b".into(), "x".into())]);
        check(&Event::image_updated("i", &labels), &["labels", "a", "b"], Some("x"));

        let exit = TaskExit { container_id: "c".into(), pid: 3, ..Default::default() };
        check(&Event::of(&exit), &["container_id"], Some("c"));
        check(&Event::of(&exit), &["id"], None);
    }

    #[test]
    fn a_prefixed_type_is_read_too_and_a_foreign_one_is_not() {
        let mut event = Event::image_deleted("i");
        event.body.type_url.insert_str(0, "type.googleapis.com/");
        check(&event, &["name"], Some("i"));
        assert!(decode(&Any::new("some.Message", "")).is_none());
    }
}
