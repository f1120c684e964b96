// SPDX-License-Identifier: Apache-2.0
//! What happened, told to whoever asked.
//!
//! A publisher never waits for a subscriber: each has a bounded queue, and one that falls behind is
//! told so and cut off, instead of growing the daemon.
//!
//! ```text
//! publish(namespace, topic, event) --.
//!                                     >-- Exchange --filters--> Subscription
//! forward(envelope) -----------------'
//! ```
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use events::{Bus, Event, Exchange, Publisher};
//! use types::Filters;
//!
//! let exchange = Exchange::new();
//! let filters = Filters::parse([r#"topic=="/images/delete",event.name==busybox"#])?;
//! let mut subscription = exchange.subscribe(filters).await?;
//!
//! let event = Event::image_deleted("busybox");
//! exchange.publish("default", event.topic, event.body).await?;
//!
//! let envelope = subscription.next().await.expect("the exchange is still there")?;
//! assert_eq!(envelope.namespace, "default");
//! # Ok::<(), types::Error>(()) }).unwrap();
//! ```
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream::BoxStream};
use types::{Any, Filters, Result};

mod event;
mod exchange;
mod fields;
mod validate;

pub use event::{Event, Typed};
pub use exchange::Exchange;

/// An event, and where and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: SystemTime,
    /// In which namespace.
    pub namespace: String,
    /// What about: `/tasks/start`.
    pub topic: String,
    /// The event itself, a message of `containerd.events`.
    pub event: Any,
}

/// Where events are told.
///
/// Errors, for every implementation: a topic that does not start with `/` or whose components are
/// no identifiers, and a namespace that is none, are `InvalidArgument`; no namespace at all is
/// `FailedPrecondition`.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Tells that `event` happened just now.
    async fn publish(&self, namespace: &str, topic: &str, event: Any) -> Result<()>;

    /// Passes on what was published elsewhere. The envelope must have a timestamp: one at the Unix
    /// epoch counts as none, since that is what an envelope without one decodes to.
    async fn forward(&self, envelope: Envelope) -> Result<()>;
}

/// Where events are told and heard.
#[async_trait]
pub trait Bus: Publisher {
    /// Asks for the events that match, from now on.
    ///
    /// Filters may name `namespace`, `topic` and `event.<field>`, where the field is one of a known
    /// event, as in `event.container_id` or `event.labels.env`.
    async fn subscribe(&self, filters: Filters) -> Result<Subscription>;
}

/// The events that a subscriber asked for, in the order in which they were published.
///
/// Ends with an error when events were lost, and after that without one. Dropping it ends it too.
pub struct Subscription {
    stream: BoxStream<'static, Result<Arc<Envelope>>>,
}

impl Subscription {
    /// A subscription that yields what `stream` does.
    pub fn new(stream: impl Stream<Item = Result<Arc<Envelope>>> + Send + 'static) -> Self {
        Self { stream: stream.boxed() }
    }

    /// Waits for the next event. None means that there will be no more.
    pub async fn next(&mut self) -> Option<Result<Arc<Envelope>>> {
        self.stream.next().await
    }
}

impl Stream for Subscription {
    type Item = Result<Arc<Envelope>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
