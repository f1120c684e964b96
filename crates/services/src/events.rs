// SPDX-License-Identifier: Apache-2.0
//! The events service (`containerd.services.events.v1`), and its narrow twin over ttrpc for shims.
mod shims;

use std::{pin::Pin, sync::Arc};

use ::events::{Bus, Envelope, Publisher, Subscription};
use api::containerd::{services::events::v1 as pb, types as wire};
use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use pb::{
    events_client::EventsClient,
    events_server::{Events, EventsServer},
};
use tonic::{Request, Response, Status};
use types::{Any, Filters, Result};

pub use shims::serve_shims;

use crate::call::{Limits, Peer, Reply, error, limited, open, status};
use crate::convert::{FromWire, ToWire, any, filters, present, time};

/// Serves `bus`.
pub fn serve(bus: Arc<dyn Bus>, limits: Limits) -> EventsServer<Server> {
    limited!(EventsServer::new(Server { bus }), limits)
}

/// The bus that `peer` serves. What is published there is in the peer's namespace.
pub fn connect(peer: Peer) -> Arc<dyn Bus> {
    Arc::new(Remote { client: limited!(EventsClient::new(peer), Limits::default()) })
}

/// Puts a bus on the wire.
pub struct Server {
    bus: Arc<dyn Bus>,
}

#[tonic::async_trait]
impl Events for Server {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<wire::Envelope, Status>> + Send>>;

    async fn publish(&self, request: Request<pb::PublishRequest>) -> Reply<()> {
        let (scope, request) = open(request).map_err(|refused| {
            // Compat: containerd's `core/events/exchange` puts these words before it.
            let words = format!("failed publishing event: {}", refused.message());
            Status::new(refused.code(), words)
        })?;
        let event = present(request.event, "event").map(any).map_err(status)?;
        let published = self.bus.publish(scope.namespace(), &request.topic, event).await;
        published.map(Response::new).map_err(status)
    }

    async fn forward(&self, request: Request<pb::ForwardRequest>) -> Reply<()> {
        let envelope = present(request.into_inner().envelope, "envelope")
            .and_then(Envelope::from_wire)
            .map_err(status)?;
        self.bus.forward(envelope).await.map(Response::new).map_err(status)
    }

    /// The headers of the answer go out at once, so that a client knows that it is subscribed.
    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Reply<Self::SubscribeStream> {
        let filters = filters(&request.into_inner().filters).map_err(status)?;
        let events = self.bus.subscribe(filters).await.map_err(status)?;
        let messages = events.map(|event| match event {
            Ok(envelope) => Ok(Arc::unwrap_or_clone(envelope).to_wire()),
            Err(error) => Err(status(error)),
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

impl ToWire for Envelope {
    type Wire = wire::Envelope;

    fn to_wire(self) -> wire::Envelope {
        wire::Envelope {
            timestamp: self.timestamp.to_wire(),
            namespace: self.namespace,
            topic: self.topic,
            event: Some(self.event.to_wire()),
        }
    }
}

impl FromWire<wire::Envelope> for Envelope {
    fn from_wire(wire: wire::Envelope) -> Result<Self> {
        let wire::Envelope { timestamp, namespace, topic, event } = wire;
        let event = any(present(event, "event")?);
        Ok(Self { timestamp: time(timestamp), namespace, topic, event })
    }
}

struct Remote {
    client: EventsClient<Peer>,
}

#[async_trait]
impl Publisher for Remote {
    async fn publish(&self, _: &str, topic: &str, event: Any) -> Result<()> {
        let request = pb::PublishRequest { topic: topic.to_owned(), event: Some(event.to_wire()) };
        self.client.clone().publish(request).await.map_err(error)?;
        Ok(())
    }

    async fn forward(&self, envelope: Envelope) -> Result<()> {
        let request = pb::ForwardRequest { envelope: Some(envelope.to_wire()) };
        self.client.clone().forward(request).await.map_err(error)?;
        Ok(())
    }
}

#[async_trait]
impl Bus for Remote {
    async fn subscribe(&self, filters: Filters) -> Result<Subscription> {
        let request = pb::SubscribeRequest { filters: filters.texts() };
        let messages = self.client.clone().subscribe(request).await.map_err(error)?.into_inner();
        Ok(Subscription::new(
            messages
                .map(|message| message.map_err(error).and_then(Envelope::from_wire).map(Arc::new)),
        ))
    }
}
