// SPDX-License-Identifier: Apache-2.0
//! Progress over a stream that the client opened.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::client::{Event, Progress};
use api::containerd::types::transfer as wire;
use tokio::{sync::mpsc, task::JoinHandle};
use types::{Any, Digest};

use crate::convert::ToWire;
use crate::streaming::Stream;

/// How many reports may wait for a client that is slow to take them. Further ones are left out.
const DEPTH: usize = 1024;
/// How long a client has to take the last of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends reports on, without waiting for whoever reads them.
#[derive(Clone)]
pub(super) struct Reporter {
    sender: Arc<Mutex<Option<mpsc::Sender<Event>>>>,
    forwarding: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Reporter {
    pub(super) fn new(stream: Stream) -> Self {
        let (sender, mut events) = mpsc::channel(DEPTH);
        let forwarding = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if stream.send(packed(event)).await.is_err() {
                    return;
                }
            }
            stream.finish().await;
        });
        Self {
            sender: Arc::new(Mutex::new(Some(sender))),
            forwarding: Arc::new(Mutex::new(Some(forwarding))),
        }
    }

    /// Waits until the client has taken everything, for a while.
    pub(super) async fn finish(self) {
        drop(taken(&self.sender));
        let Some(mut forwarding) = taken(&self.forwarding) else { return };
        if tokio::time::timeout(PATIENCE, &mut forwarding).await.is_err() {
            forwarding.abort();
        }
    }
}

fn taken<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Progress for Reporter {
    fn report(&self, event: Event) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // A client that does not keep up misses some of what was on the way.
            drop(sender.try_send(event));
        }
    }
}

/// Passes on what is told of an image, and remembers what was last told of its root.
///
/// Compat: Go's tracker tells of the blobs that came last only after the word that all is done, and
/// Go's `ctr` shows that word only with the next blob it hears of (containerd
/// `core/transfer/local/pull.go`, `cmd/ctr/commands/images/pull.go`).
pub(super) struct Remembering {
    to: Arc<dyn Progress>,
    root: Digest,
    last: Mutex<Option<Event>>,
}

impl Remembering {
    pub(super) fn new(to: Arc<dyn Progress>, root: Digest) -> Self {
        Self { to, root, last: Mutex::default() }
    }

    /// Tells that all is done, and then once more of the root.
    pub(super) fn close(&self, word: Event) {
        self.to.report(word);
        if let Some(event) = taken(&self.last) {
            self.to.report(event);
        }
    }
}

impl Progress for Remembering {
    fn report(&self, event: Event) {
        let is_blob = !event.parents.is_empty();
        if is_blob && event.descriptor.as_ref().is_some_and(|it| it.digest == self.root) {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            *last = Some(event.clone());
        }
        self.to.report(event);
    }
}

fn packed(event: Event) -> Any {
    let message = api::pack(&wire::Progress {
        event: event.event.into_owned(),
        name: event.name,
        parents: event.parents,
        progress: event.progress as i64,
        total: event.total as i64,
        desc: event.descriptor.map(ToWire::to_wire),
    });
    crate::convert::any(message)
}

#[cfg(test)]
mod tests {
    use types::{Descriptor, media_types};

    use super::*;
    use crate::streaming::pair;

    fn blob(event: &'static str, data: &str) -> Event {
        let descriptor = Some(Descriptor::new(media_types::MANIFEST, Digest::of(data), 4));
        let (name, parents) = (data.to_owned(), vec!["image".to_owned()]);
        Event { event: event.into(), name, parents, descriptor, ..Event::default() }
    }

    fn word(event: &'static str) -> Event {
        Event { event: event.into(), ..Event::default() }
    }

    /// Go's ctr shows the last word only together with a blob.
    #[test]
    fn a_blob_is_told_of_after_the_last_word() {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ears = Arc::clone(&heard);
        let to = move |event: Event| ears.lock().unwrap().push(event.event.into_owned());
        let progress = Remembering::new(Arc::new(to), Digest::of("root"));
        for event in [blob("waiting", "root"), blob("complete", "root"), blob("waiting", "layer")] {
            progress.report(event);
        }
        progress.close(word("Completed"));
        let want = ["waiting", "complete", "waiting", "Completed", "complete"];
        assert_eq!(*heard.lock().unwrap(), want);
    }

    #[tokio::test]
    async fn a_report_is_finished_when_its_reader_has_read_the_end_of_it() {
        let (here, mut there) = pair();
        let reporter = Reporter::new(here);
        reporter.report(word("one"));
        reporter.report(word("two"));
        let reading = async {
            let mut count = 0;
            while there.receive().await.is_some() {
                count += 1;
            }
            // Not before this end is closed, too.
            drop(there);
            count
        };
        let ((), count) = tokio::join!(reporter.finish(), reading);
        assert_eq!(count, 2);
    }
}
