// SPDX-License-Identifier: Apache-2.0
//! Progress over a stream that the client opened.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::client::{Event, Progress};
use api::containerd::types::transfer as wire;
use tokio::{sync::mpsc, task::JoinHandle};
use types::Any;

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
            stream.settle().await;
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
