// SPDX-License-Identifier: Apache-2.0
//! The diff service (`containerd.services.diff.v1`).
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use ::diff::{Apply, Compare, Differ};
use ::mount::Mount;
use api::containerd::services::diff::v1 as pb;
use async_trait::async_trait;
use pb::{
    diff_client::DiffClient,
    diff_server::{Diff, DiffServer},
};
use tonic::{Request, Response};
use types::{Descriptor, Result, Scope};

use crate::call::{Limits, Peer, Reply, detached, error, limited, open, status};
use crate::convert::{FromWire, ToWire, any, present};

/// Serves the differ that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> DiffServer<Server<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Differ>> + Send + Sync + 'static,
{
    limited!(DiffServer::new(Server { find }), limits)
}

/// The differ that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Differ> {
    Arc::new(Remote { client: limited!(DiffClient::new(peer), Limits::default()) })
}

/// Puts differs on the wire.
#[derive(Debug)]
pub struct Server<F> {
    find: F,
}

#[tonic::async_trait]
impl<F> Diff for Server<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Differ>> + Send + Sync + 'static,
{
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Reply<pb::ApplyResponse> {
        let (scope, request) = open(request)?;
        let differ = (self.find)(&scope).map_err(status)?;
        let descriptor =
            present(request.diff, "diff").and_then(Descriptor::from_wire).map_err(status)?;
        let mounts: Vec<Mount> = Vec::from_wire(request.mounts).map_err(status)?;
        let payloads: BTreeMap<_, _> =
            request.payloads.into_iter().map(|(name, payload)| (name, any(payload))).collect();
        let options = Apply { payloads, sync_fs: request.sync_fs };
        let applied =
            detached(async move { differ.apply(&descriptor, &mounts, options).await }).await?;
        Ok(Response::new(pb::ApplyResponse { applied: Some(applied.to_wire()) }))
    }

    async fn diff(&self, request: Request<pb::DiffRequest>) -> Reply<pb::DiffResponse> {
        let (scope, request) = open(request)?;
        let differ = (self.find)(&scope).map_err(status)?;
        let lower: Vec<Mount> = Vec::from_wire(request.left).map_err(status)?;
        let upper: Vec<Mount> = Vec::from_wire(request.right).map_err(status)?;
        let options = Compare {
            media_type: request.media_type,
            reference: request.r#ref,
            labels: request.labels,
            source_date_epoch: request
                .source_date_epoch
                .and_then(|epoch| SystemTime::try_from(epoch).ok()),
        };
        let made = detached(async move { differ.compare(&lower, &upper, options).await }).await?;
        Ok(Response::new(pb::DiffResponse { diff: Some(made.to_wire()) }))
    }
}

struct Remote {
    client: DiffClient<Peer>,
}

#[async_trait]
impl Differ for Remote {
    async fn apply(
        &self,
        descriptor: &Descriptor,
        mounts: &[Mount],
        options: Apply,
    ) -> Result<Descriptor> {
        let payloads = options.payloads.into_iter();
        let request = pb::ApplyRequest {
            diff: Some(descriptor.clone().to_wire()),
            mounts: mounts.to_vec().to_wire(),
            payloads: payloads.map(|(name, payload)| (name, payload.to_wire())).collect(),
            sync_fs: options.sync_fs,
        };
        let reply = self.client.clone().apply(request).await.map_err(error)?.into_inner();
        Descriptor::from_wire(present(reply.applied, "applied")?)
    }

    async fn compare(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        options: Compare,
    ) -> Result<Descriptor> {
        let request = pb::DiffRequest {
            left: lower.to_vec().to_wire(),
            right: upper.to_vec().to_wire(),
            media_type: options.media_type,
            r#ref: options.reference,
            labels: options.labels,
            source_date_epoch: options.source_date_epoch.and_then(ToWire::to_wire),
        };
        let reply = self.client.clone().diff(request).await.map_err(error)?.into_inner();
        Descriptor::from_wire(present(reply.diff, "diff")?)
    }
}
