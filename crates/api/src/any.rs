// SPDX-License-Identifier: Apache-2.0
use prost::{DecodeError, Message, Name};
use prost_types::Any;

/// Packs a message as containerd does: the type URL is the bare name of the message.
///
/// prost itself would put a slash before it, and most others `type.googleapis.com/`, and containerd
/// compares the whole (`github.com/containerd/typeurl`, `MarshalAny`).
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Unpacks a message, or returns none if something else is packed. What is before the last slash of
/// the type URL does not matter.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Option<Result<M, DecodeError>> {
    let (_, name) = any.type_url.rsplit_once('/').unwrap_or(("", &any.type_url));
    (name == M::full_name()).then(|| M::decode(any.value.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::events::{TaskExit, TaskOom};

    fn exit() -> TaskExit {
        TaskExit { container_id: "c".into(), pid: 7, exit_status: 137, ..Default::default() }
    }

    #[test]
    fn the_type_url_is_the_bare_name() {
        assert_eq!(pack(&exit()).type_url, "containerd.events.TaskExit");
    }

    #[test]
    fn what_was_packed_is_unpacked_whatever_domain_it_is_from() {
        for domain in ["", "/", "type.googleapis.com/"] {
            let mut any = pack(&exit());
            any.type_url.insert_str(0, domain);
            assert_eq!(unpack::<TaskExit>(&any), Some(Ok(exit())), "{}", any.type_url);
        }
    }

    #[test]
    fn another_type_is_not_unpacked() {
        assert_eq!(unpack::<TaskOom>(&pack(&exit())), None);
    }
}
