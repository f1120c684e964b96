// SPDX-License-Identifier: Apache-2.0
//! What a filter sees of an envelope.
use std::{borrow::Cow, cell::OnceCell};

use types::Fields;

use crate::{Envelope, event::decode};

/// An envelope whose event is decoded once, when the first filter asks.
pub(crate) struct Seen<'a> {
    envelope: &'a Envelope,
    event: OnceCell<Option<Box<dyn Fields>>>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(envelope: &'a Envelope) -> Self {
        Self { envelope, event: OnceCell::new() }
    }
}

/// `namespace`, `topic` and `event.<path>` (containerd `api/types/event.proto`, of which the field
/// paths are generated). A timestamp cannot be filtered by.
impl Fields for Seen<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["namespace", ..] => Some(self.envelope.namespace.as_str().into()),
            ["topic", ..] => Some(self.envelope.topic.as_str().into()),
            ["event", rest @ ..] => {
                self.event.get_or_init(|| decode(&self.envelope.event)).as_ref()?.field(rest)
            }
            _ => None,
        }
    }
}
