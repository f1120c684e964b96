// SPDX-License-Identifier: Apache-2.0
use bytes::Bytes;

/// A message that carries its own type's name.
///
/// Protobuf messages are named by their full name, without the `type.googleapis.com/` prefix; other
/// values are JSON under `types.containerd.io/...` (containerd `typeurl`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Any {
    /// The type's name, such as `containerd.events.TaskExit`.
    pub type_url: String,
    /// The encoded value.
    pub value: Bytes,
}

impl Any {
    /// Names `value` as a `type_url`.
    pub fn new(type_url: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { type_url: type_url.into(), value: value.into() }
    }

    /// Whether the value is of the type `name`, given with or without a prefix that ends in `/`.
    pub fn is(&self, name: &str) -> bool {
        let bare = self.type_url.strip_prefix("type.googleapis.com/").unwrap_or(&self.type_url);
        bare == name
    }
}
