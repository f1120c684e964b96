// SPDX-License-Identifier: Apache-2.0
//! The health service (`grpc.health.v1`), by which clients ask whether the daemon serves.
use std::{future::Future, pin::Pin, time::Duration};

use api::grpc::health::v1 as pb;
use futures_util::{Stream, StreamExt, stream};
use pb::{
    health_check_response::ServingStatus,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tonic::{Request, Response, Status};
use types::{Error, Result};

use crate::call::{Peer, Reply, error};

/// Says that the daemon serves, for as long as it can say anything.
pub fn serve() -> HealthServer<Server> {
    HealthServer::new(Server)
}

/// Asks `peer` whether it serves, for at most `patience`.
pub async fn is_serving(peer: Peer, patience: Duration) -> Result<bool> {
    let mut client = HealthClient::new(peer);
    let request = pb::HealthCheckRequest { service: String::new() };
    let reply = within(patience, client.check(request)).await?.map_err(error)?;
    Ok(reply.into_inner().status() == ServingStatus::Serving)
}

async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, work).await.map_err(|_elapsed| Error::deadline("health check"))
}

/// Answers every question with yes.
#[derive(Debug)]
pub struct Server;

#[tonic::async_trait]
impl Health for Server {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, _: Request<pb::HealthCheckRequest>) -> Reply<pb::HealthCheckResponse> {
        Ok(Response::new(serving()))
    }

    /// The state never changes: one answer, and the stream stays open.
    async fn watch(&self, _: Request<pb::HealthCheckRequest>) -> Reply<Self::WatchStream> {
        Ok(Response::new(stream::iter([Ok(serving())]).chain(stream::pending()).boxed()))
    }
}

fn serving() -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: ServingStatus::Serving.into() }
}
