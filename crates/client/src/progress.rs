// SPDX-License-Identifier: Apache-2.0
//! How far a transfer is, in the words of containerd's transfer service
//! (`core/transfer/local/progress.go`, `cmd/ctr/commands/images/pull.go`).
//!
//! ```text
//! waiting -+-> downloading ... -> complete -+-> extracting -> extracted
//!          `-> already exists --------------'
//! ```
use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use images::ref_key;
use types::Descriptor;

/// How often it is said how far a blob is.
const EVERY: Duration = Duration::from_millis(100);

/// Something that happened to a transfer, or to one blob of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What: one of the words above, or about the whole a sentence such as `fetching image content`.
    pub event: Cow<'static, str>,
    /// To what: the ingest of a blob such as `layer-sha256:...`, or an image. Empty for the whole.
    pub name: String,
    /// The names of what refers to it.
    pub parents: Vec<String>,
    /// How many bytes of it are done.
    pub progress: u64,
    /// How many there are.
    pub total: u64,
    /// Where it is.
    pub descriptor: Option<Descriptor>,
}

/// Hears how far a transfer is. It is told often, and has to return at once.
pub trait Progress: Send + Sync {
    /// Hears of an event.
    fn report(&self, event: Event);
}

/// Hears, and says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _event: Event) {}
}

impl<F: Fn(Event) + Send + Sync> Progress for F {
    fn report(&self, event: Event) {
        self(event);
    }
}

/// Tells of the blobs of one transfer.
#[derive(Clone)]
pub(crate) struct Tracker {
    to: Arc<dyn Progress>,
    moving: &'static str,
}

impl Tracker {
    pub(crate) fn new(to: Arc<dyn Progress>, moving: &'static str) -> Self {
        Self { to, moving }
    }

    /// Tells of the whole.
    pub(crate) fn whole(&self, event: &'static str, name: &str, target: &Descriptor) {
        let (event, name, descriptor) = (event.into(), name.to_owned(), Some(target.clone()));
        self.to.report(Event { event, name, descriptor, ..Event::default() });
    }

    /// Tells that a blob's turn will come.
    pub(crate) fn blob(&self, descriptor: &Descriptor, parent: &str) -> Meter {
        let meter = self.meter(descriptor, parent);
        meter.say("waiting", 0);
        meter
    }

    /// Tells that a layer is being unpacked, or is.
    pub(crate) fn unpacked(&self, layer: &Descriptor, parent: &str, is_done: bool) {
        let meter = self.meter(layer, parent);
        let (event, progress) = if is_done { ("extracted", layer.size) } else { ("extracting", 0) };
        meter.say(event, progress);
    }

    fn meter(&self, descriptor: &Descriptor, parent: &str) -> Meter {
        let about = Event {
            name: ref_key(descriptor),
            parents: vec![parent.to_owned()],
            total: descriptor.size,
            descriptor: Some(descriptor.clone()),
            ..Event::default()
        };
        Meter { to: Arc::clone(&self.to), moving: self.moving, about, last: None }
    }
}

/// Tells how far one blob is, but not more often than anybody could look.
pub(crate) struct Meter {
    to: Arc<dyn Progress>,
    moving: &'static str,
    about: Event,
    last: Option<Instant>,
}

impl Meter {
    pub(crate) fn at(&mut self, offset: u64) {
        if self.last.is_none_or(|last| last.elapsed() >= EVERY) {
            self.last = Some(Instant::now());
            self.say(self.moving, offset);
        }
    }

    pub(crate) fn complete(&self) {
        self.say("complete", self.about.total);
    }

    pub(crate) fn exists(&self) {
        self.say("already exists", self.about.total);
    }

    fn say(&self, event: &'static str, progress: u64) {
        self.to.report(Event { event: event.into(), progress, ..self.about.clone() });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use types::{Digest, media_types};

    use super::*;

    #[test]
    fn a_blob_tells_how_far_it_is_but_not_all_the_time() {
        let heard: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
        let ears = Arc::clone(&heard);
        let to = move |event: Event| {
            assert_eq!(event.parents, ["manifest-x"]);
            ears.lock().unwrap().push((event.event.into_owned(), event.progress));
        };
        let layer = Descriptor::new(media_types::LAYER, Digest::of(""), 9);
        let mut meter = Tracker::new(Arc::new(to), "downloading").blob(&layer, "manifest-x");
        for offset in 1..9 {
            meter.at(offset);
        }
        meter.complete();
        let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard: Vec<_> = heard.iter().map(|(event, at)| (event.as_str(), *at)).collect();
        assert_eq!(heard, [("waiting", 0), ("downloading", 1), ("complete", 9)]);
    }
}
