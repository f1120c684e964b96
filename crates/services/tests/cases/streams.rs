// SPDX-License-Identifier: Apache-2.0
//! Streams that other calls refer to, and events.
use std::{sync::Arc, time::Duration};

use ::events::{Exchange, Publisher};
use services::{
    Limits, events,
    streaming::{self, Streams},
};
use tokio::time::timeout;
use tonic::service::Routes;
use types::{Any, Filters, Kind};

use super::world::Served;

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_stream_is_taken_once_and_goes_both_ways() {
    let streams = Streams::default();
    let served = Served::new(Routes::new(streaming::serve(streams.clone(), Limits::default())));
    let mut near = streaming::connect(served.peer().await, "s1").await.unwrap();
    assert!(streams.take("other", "s1").is_err());
    let mut far = streams.take("suite", "s1").unwrap();
    assert_eq!(streams.take("suite", "s1").unwrap_err().kind(), Kind::NotFound);
    near.send(Any::new("x.Y", "there")).await.unwrap();
    assert_eq!(timeout(SOON, far.receive()).await.unwrap(), Some(Any::new("x.Y", "there")));
    far.send(Any::new("x.Z", "back")).await.unwrap();
    assert_eq!(timeout(SOON, near.receive()).await.unwrap(), Some(Any::new("x.Z", "back")));
    drop(near);
    assert_eq!(timeout(SOON, far.receive()).await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_that_nobody_took_is_forgotten_with_its_client() {
    let streams = Streams::default();
    let served = Served::new(Routes::new(streaming::serve(streams.clone(), Limits::default())));
    drop(streaming::connect(served.peer().await, "s1").await.unwrap());
    let gone = async {
        loop {
            match streaming::connect(served.peer().await, "s1").await {
                Ok(stream) => return stream,
                Err(error) => assert_eq!(error.kind(), Kind::AlreadyExists),
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
}

#[tokio::test]
async fn a_subscriber_is_subscribed_once_it_has_been_answered() {
    let exchange = Arc::new(Exchange::new());
    let served = Served::new(Routes::new(events::serve(exchange.clone(), Limits::default())));
    let remote = events::connect(served.peer().await);
    let filters = Filters::parse([r#"topic=="/x/y""#]).unwrap();
    let mut heard = remote.subscribe(filters).await.unwrap();
    exchange.publish("elsewhere", "/x/z", Any::default()).await.unwrap();
    remote.publish("", "/x/y", Any::new("a.B", "c")).await.unwrap();
    let envelope = timeout(SOON, heard.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((envelope.namespace.as_str(), envelope.topic.as_str()), ("suite", "/x/y"));
    assert_eq!(envelope.event, Any::new("a.B", "c"));
}
