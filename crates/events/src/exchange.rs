// SPDX-License-Identifier: Apache-2.0
//! The exchange of one process.
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use types::{Any, Error, Filters, Kind, Result};

use crate::{Bus, Envelope, Publisher, Subscription, fields::Seen, validate};

/// How many events may wait for a subscriber.
const QUEUE: usize = 1024;

/// How long after its start an exchange tells subscribers what happened before it.
///
/// Longer than gRPC clients take to come back: Docker's waits for three seconds at most.
const RETURN: Duration = Duration::from_secs(30);

/// Hands every event to every subscriber that asked for it, in one order.
///
/// Events are shared, not copied, so a queue costs a pointer for each event that waits.
///
/// What happened while no daemon ran reaches an exchange right after its start, when shims find it
/// again, and before its clients have. So what is forwarded then, and is older than the exchange, is
/// told once more to each subscriber of the first moments.
#[derive(Debug)]
pub struct Exchange {
    born: (SystemTime, Instant),
    audience: Mutex<Audience>,
}

#[derive(Debug, Default)]
struct Audience {
    subscribers: Vec<Subscriber>,
    /// What is older than the exchange, for those who are not back yet; at most [`QUEUE`].
    missed: Vec<Arc<Envelope>>,
}

#[derive(Debug)]
struct Subscriber {
    filters: Filters,
    /// None once the subscriber has fallen behind: it gets what is in its queue, and the error.
    queue: Option<mpsc::Sender<Arc<Envelope>>>,
    lost: Arc<AtomicU64>,
}

impl Exchange {
    /// An exchange without subscribers.
    pub fn new() -> Self {
        Self { born: (SystemTime::now(), Instant::now()), audience: Mutex::default() }
    }

    /// Queues `envelope` wherever it was asked for. Never waits.
    fn hand_out(&self, envelope: Envelope) {
        let envelope = Arc::new(envelope);
        let mut audience = self.audience();
        audience.hear(&envelope);
        if envelope.timestamp < self.born.0 && audience.missed.len() < QUEUE && self.is_young() {
            audience.missed.push(envelope);
        }
    }

    fn is_young(&self) -> bool {
        self.born.1.elapsed() < RETURN
    }

    fn audience(&self) -> MutexGuard<'_, Audience> {
        let mut audience = self.audience.lock().unwrap_or_else(PoisonError::into_inner);
        if !audience.missed.is_empty() && !self.is_young() {
            audience.missed = Vec::new();
        }
        audience
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Audience {
    fn hear(&mut self, envelope: &Arc<Envelope>) {
        let seen = Seen::new(envelope);
        self.subscribers.retain_mut(|subscriber| {
            if subscriber.filters.matches(&seen) {
                subscriber.offer(envelope);
            }
            subscriber.is_there()
        });
    }

    fn join(&mut self, mut subscriber: Subscriber) {
        for envelope in &self.missed {
            if subscriber.filters.matches(&Seen::new(envelope)) {
                subscriber.offer(envelope);
            }
        }
        self.subscribers.retain(Subscriber::is_there);
        self.subscribers.push(subscriber);
    }
}

impl Subscriber {
    fn offer(&mut self, envelope: &Arc<Envelope>) {
        let full = match &self.queue {
            Some(queue) => match queue.try_send(Arc::clone(envelope)) {
                Err(mpsc::error::TrySendError::Full(_)) => true,
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => false,
            },
            None => true,
        };
        if full {
            // Counted before the queue is closed, so that whoever finds it closed sees the count.
            self.lost.fetch_add(1, Ordering::Release);
            self.queue = None;
        }
    }

    /// The subscription holds the other half of `lost` for as long as it lives.
    fn is_there(&self) -> bool {
        match &self.queue {
            Some(queue) => !queue.is_closed(),
            None => Arc::strong_count(&self.lost) > 1,
        }
    }
}

#[async_trait]
impl Publisher for Exchange {
    async fn publish(&self, namespace: &str, topic: &str, event: Any) -> Result<()> {
        validate::publication(namespace, topic)?;
        tracing::trace!(namespace, topic, kind = event.type_url, "event published");
        self.hand_out(Envelope {
            timestamp: SystemTime::now(),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event,
        });
        Ok(())
    }

    async fn forward(&self, envelope: Envelope) -> Result<()> {
        validate::envelope(&envelope)?;
        let (namespace, topic) = (&envelope.namespace, &envelope.topic);
        tracing::trace!(namespace, topic, kind = envelope.event.type_url, "event forwarded");
        self.hand_out(envelope);
        Ok(())
    }
}

#[async_trait]
impl Bus for Exchange {
    async fn subscribe(&self, filters: Filters) -> Result<Subscription> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let subscriber = Subscriber { filters, queue: Some(queue), lost: Arc::clone(&lost) };
        self.audience().join(subscriber);
        Ok(Subscription::new(drain(waiting, lost)))
    }
}

/// Yields what waits, and the error once the queue was closed because of loss.
fn drain(
    waiting: mpsc::Receiver<Arc<Envelope>>,
    lost: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Arc<Envelope>>> {
    stream::unfold(Some((waiting, lost)), |state| async {
        let (mut waiting, lost) = state?;
        if let Some(envelope) = waiting.recv().await {
            return Some((Ok(envelope), Some((waiting, lost))));
        }
        match lost.load(Ordering::Acquire) {
            0 => None,
            count => Some((Err(behind(count)), None)),
        }
    })
}

fn behind(lost: u64) -> Error {
    Error::new(Kind::ResourceExhausted, format!("subscriber fell behind, {lost} events lost"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use futures_util::FutureExt;

    use super::*;
    use crate::Event;

    async fn publish(exchange: &Exchange, namespace: &str, event: Event) {
        exchange.publish(namespace, event.topic, event.body).await.unwrap();
    }

    async fn subscribe(exchange: &Exchange, filters: &[&str]) -> Subscription {
        exchange.subscribe(Filters::parse(filters).unwrap()).await.unwrap()
    }

    fn topics(mut subscription: Subscription) -> Vec<String> {
        let mut topics = Vec::new();
        while let Some(Some(Ok(envelope))) = subscription.next().now_or_never() {
            topics.push(format!("{}{}", envelope.namespace, envelope.topic));
        }
        topics
    }

    #[tokio::test]
    async fn a_subscriber_hears_what_matches_in_order() {
        let exchange = Exchange::new();
        let all = subscribe(&exchange, &[]).await;
        let moby = subscribe(&exchange, &["namespace==moby,topic~=|^/images/|"]).await;
        let named = subscribe(&exchange, &["event.name==b", "event.id==c"]).await;
        publish(&exchange, "moby", Event::image_deleted("a")).await;
        publish(&exchange, "k8s.io", Event::image_deleted("b")).await;
        publish(&exchange, "moby", Event::container_deleted("c")).await;

        let want = ["moby/images/delete", "k8s.io/images/delete", "moby/containers/delete"];
        assert_eq!(topics(all), want);
        assert_eq!(topics(moby), ["moby/images/delete"]);
        assert_eq!(topics(named), ["k8s.io/images/delete", "moby/containers/delete"]);
    }

    #[tokio::test]
    async fn who_falls_behind_is_told_how_far_and_cut_off() {
        let exchange = Exchange::new();
        let mut slow = subscribe(&exchange, &[]).await;
        for _ in 0..QUEUE + 3 {
            publish(&exchange, "n", Event::image_deleted("a")).await;
        }
        for _ in 0..QUEUE {
            assert!(slow.next().await.unwrap().is_ok());
        }
        let error = slow.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert!(error.to_string().contains("3 events lost"), "{error}");
        assert!(slow.next().await.is_none());
        publish(&exchange, "n", Event::image_deleted("a")).await;
        assert!(exchange.audience().subscribers.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_subscription_is_forgotten() {
        let exchange = Exchange::new();
        drop(subscribe(&exchange, &[]).await);
        publish(&exchange, "n", Event::image_deleted("a")).await;
        assert!(exchange.audience().subscribers.is_empty());
    }

    #[tokio::test]
    async fn an_exchange_that_ends_ends_its_subscriptions() {
        let exchange = Exchange::new();
        let mut subscription = subscribe(&exchange, &[]).await;
        drop(exchange);
        assert!(subscription.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_forwarded_keeps_its_time() {
        let exchange = Exchange::new();
        let mut subscription = subscribe(&exchange, &[]).await;
        let event = Event::image_deleted("a");
        let envelope = Envelope {
            timestamp: UNIX_EPOCH,
            namespace: "n".into(),
            topic: event.topic.into(),
            event: event.body,
        };
        exchange.forward(envelope.clone()).await.unwrap();
        assert_eq!(*subscription.next().await.unwrap().unwrap(), envelope);
    }

    fn forwarded(age: Duration) -> Envelope {
        let event = Event::image_deleted("a");
        Envelope {
            timestamp: SystemTime::now() - age,
            namespace: "n".into(),
            topic: event.topic.into(),
            event: event.body,
        }
    }

    #[tokio::test]
    async fn who_comes_back_after_a_restart_hears_what_happened_meanwhile() {
        let mut exchange = Exchange::new();
        exchange.forward(forwarded(Duration::from_secs(5))).await.unwrap();
        exchange.forward(forwarded(Duration::ZERO)).await.unwrap();
        assert_eq!(topics(subscribe(&exchange, &["namespace==n"]).await), ["n/images/delete"]);
        assert!(topics(subscribe(&exchange, &["namespace==m"]).await).is_empty());

        exchange.born.1 -= RETURN;
        assert!(topics(subscribe(&exchange, &[]).await).is_empty());
        assert!(exchange.audience().missed.is_empty());
    }
}
