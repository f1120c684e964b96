// SPDX-License-Identifier: Apache-2.0
//! The transfer service (`containerd.services.transfer.v1`): images moved by the daemon itself.
//!
//! ```text
//! OCIRegistry --> ImageStore    pull, with unpack
//! ImageStore  --> OCIRegistry   push
//! ImageStore  --> ImageStore    tag
//!
//! ImageImportStream --> ImageStore         import, with unpack
//! ImageStore        --> ImageExportStream  export
//! ImageImportStream --> ImageExportStream  nothing but a way through
//! ```
//!
//! What a client has to hear or to say meanwhile goes over streams that it has opened before:
//! progress, and who it is to a registry.
mod archive;
mod client;
mod gate;
mod logs;
mod progress;
mod source;
mod unpacks;

use std::{sync::Arc, time::SystemTime};

use ::client::{Client, Progress, Pull, Push, Silent};
use ::records::Image;
use api::containerd::{
    services::transfer::v1 as pb,
    types::transfer::{ImageExportStream, ImageImportStream, ImageStore, OciRegistry},
};
use pb::transfer_server::{Transfer, TransferServer};
use prost::Name;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};
use types::{Context, Error, Result, Scope};

pub use client::{Fetched, Imported, export, fetch, import};
pub use gate::{Gate, Open, Resolved};

use crate::call::{Limits, Reply, detached, limited, open, status};
use crate::convert::{FromWire, present};
use crate::streaming::{Stream, Streams};
use progress::{Remembering, Reporter};
pub use source::Registries;
use source::Source;
pub use unpacks::{Supported, Unpacks};

/// Serves transfers between what `find` finds for a scope and the world.
pub fn serve<F>(
    find: F,
    streams: Streams,
    registries: Registries,
    gate: Arc<dyn Gate>,
    limits: Limits,
) -> TransferServer<Server<F>>
where
    F: Fn(&Scope) -> Result<Client> + Send + Sync + 'static,
{
    limited!(TransferServer::new(Server { find, streams, registries, gate }), limits)
}

/// Puts transfers on the wire.
pub struct Server<F> {
    find: F,
    streams: Streams,
    registries: Registries,
    gate: Arc<dyn Gate>,
}

#[tonic::async_trait]
impl<F> Transfer for Server<F>
where
    F: Fn(&Scope) -> Result<Client> + Send + Sync + 'static,
{
    async fn transfer(&self, request: Request<pb::TransferRequest>) -> Reply<()> {
        let (scope, request) = open(request)?;
        let client = (self.find)(&scope).map_err(status)?;
        let plan = Plan::read(&request).map_err(status)?;
        let options = request.options.unwrap_or_default();
        let reporter = match options.progress_stream.as_str() {
            "" => None,
            id => Some(Reporter::new(self.streams.take(scope.namespace(), id).map_err(status)?)),
        };
        let progress: Arc<dyn Progress> = match &reporter {
            Some(reporter) => Arc::new(reporter.clone()),
            None => Arc::new(Silent),
        };
        let ends = plan.ends(&scope, &self.streams, &self.registries).map_err(status)?;
        let unpacks = self.registries.unpacks.clone();
        // A client that is gone does not want its image any more.
        let stop = CancellationToken::new();
        let _gone = stop.clone().drop_guard();
        let gate = Arc::clone(&self.gate);
        let done = detached(async move {
            let asked = Asked { gate: &*gate, scope: &scope };
            let going = Going { unpacks, progress, stop };
            let outcome = plan.run(&client, ends, going, asked).await;
            if let Some(reporter) = reporter {
                reporter.finish().await;
            }
            outcome
        });
        done.await.map(Response::new)
    }
}

/// What is moved where.
enum Plan {
    Pull { from: OciRegistry, to: ImageStore },
    Push { from: ImageStore, to: OciRegistry },
    Tag { from: ImageStore, to: ImageStore },
    Import { from: ImageImportStream, to: ImageStore },
    Export { from: ImageStore, to: ImageExportStream },
    Echo { from: ImageImportStream, to: ImageExportStream },
}

/// How a transfer is carried out.
struct Going {
    unpacks: Unpacks,
    progress: Arc<dyn Progress>,
    /// Ends it.
    stop: CancellationToken,
}

/// What a transfer reaches beside the store.
enum Ends {
    Registry(Source),
    One(Stream),
    Both(Stream, Stream),
    None,
}

/// On whose behalf, and who has to agree.
struct Asked<'a> {
    gate: &'a dyn Gate,
    scope: &'a Scope,
}

impl Plan {
    fn read(request: &pb::TransferRequest) -> Result<Self> {
        let source = present(request.source.as_ref(), "source")?;
        let destination = present(request.destination.as_ref(), "destination")?;
        let kind = |any: &prost_types::Any| any.type_url.rsplit('/').next().map(str::to_owned);
        let (registry, store) = (Some(OciRegistry::full_name()), Some(ImageStore::full_name()));
        let import = Some(ImageImportStream::full_name());
        let export = Some(ImageExportStream::full_name());
        match (kind(source), kind(destination)) {
            (from, to) if from == registry && to == store => {
                Ok(Self::Pull { from: unpack(source)?, to: unpack(destination)? })
            }
            (from, to) if from == store && to == registry => {
                Ok(Self::Push { from: unpack(source)?, to: unpack(destination)? })
            }
            (from, to) if from == store && to == store => {
                Ok(Self::Tag { from: unpack(source)?, to: unpack(destination)? })
            }
            (from, to) if from == import && to == store => {
                Ok(Self::Import { from: unpack(source)?, to: unpack(destination)? })
            }
            (from, to) if from == store && to == export => {
                Ok(Self::Export { from: unpack(source)?, to: unpack(destination)? })
            }
            (from, to) if from == import && to == export => {
                Ok(Self::Echo { from: unpack(source)?, to: unpack(destination)? })
            }
            // Compat: Go's words for pairs that it has not either (containerd
            // `plugins/services/transfer/service.go`).
            _ => Err(Error::unimplemented(format!(
                "method Transfer not implemented for {} to {}",
                source.type_url, destination.type_url
            ))),
        }
    }

    /// The registry or the streams that take part.
    fn ends(&self, scope: &Scope, streams: &Streams, registries: &Registries) -> Result<Ends> {
        let take = |id: &str| streams.take(scope.namespace(), id);
        match self {
            Self::Pull { from: registry, .. } | Self::Push { to: registry, .. } => {
                Source::new(registry, scope, streams, registries).map(Ends::Registry)
            }
            Self::Import { from, .. } => Ok(Ends::One(take(&from.stream)?)),
            Self::Export { to, .. } => Ok(Ends::One(take(&to.stream)?)),
            Self::Echo { from, to } => Ok(Ends::Both(take(&from.stream)?, take(&to.stream)?)),
            Self::Tag { .. } => Ok(Ends::None),
        }
    }

    async fn run(self, client: &Client, ends: Ends, going: Going, asked: Asked<'_>) -> Result<()> {
        let Going { unpacks, progress, .. } = &going;
        let progress = Arc::clone(progress);
        match (self, ends) {
            (Self::Pull { to, .. }, Ends::Registry(it)) => {
                pull(client, it, to, &going, asked).await
            }
            (Self::Push { from, .. }, Ends::Registry(it)) => push(client, it, from, progress).await,
            (Self::Import { from, to }, Ends::One(stream)) => {
                archive::import(client, from, stream, to, unpacks, progress).await
            }
            (Self::Export { from, to }, Ends::One(stream)) => {
                archive::export(client, from, to, stream, progress).await
            }
            (Self::Echo { .. }, Ends::Both(from, to)) => archive::echo(from, to).await,
            (Self::Tag { from, to }, _) => tag(client, &from, to).await,
            _ => Err(Error::internal("a transfer without its ends")),
        }
    }
}

fn unpack<M: prost::Message + Name + Default>(any: &prost_types::Any) -> Result<M> {
    match api::unpack(any) {
        Some(Ok(message)) => Ok(message),
        _ => Err(Error::invalid(format!("malformed {}", any.type_url))),
    }
}

fn said(event: String) -> ::client::Event {
    ::client::Event { event: event.into(), ..Default::default() }
}

async fn pull(
    client: &Client,
    source: Source,
    to: ImageStore,
    going: &Going,
    asked: Asked<'_>,
) -> Result<()> {
    let progress = &going.progress;
    let registry = format!("OCI Registry ({})", source.name());
    let rules = archive::rules(&to.name, to.extra_references);
    if rules.iter().all(|rule| rule.is_prefix) {
        return Err(Error::not_found("no image name found"));
    }
    let unpack = going.unpacks.choose(to.unpacks)?;
    progress.report(said(format!("Resolving from {registry}")));
    let target = source.resolve().await.context(|| "failed to resolve image")?;
    let names = ::images::archive::names(&rules, &target, true);
    for name in &names {
        asked.gate.admit(asked.scope, &source.resolved(&target, name)).await?;
    }
    progress.report(said(format!("Pulling from {registry}")));
    let progress = Arc::new(Remembering::new(Arc::clone(progress), target.digest.clone()));
    let pull = Pull {
        name: source.name().to_owned(),
        kept_as: names,
        target,
        fetch: source.fetcher()?,
        platforms: Vec::from_wire(to.platforms)?,
        metadata_only: false,
        manifest_limit: to.manifest_limit as usize,
        all_metadata: to.all_metadata,
        unpack,
        discard_layers: false,
        labels: to.labels,
        concurrency: source.downloads(),
        stop: going.stop.clone(),
        progress: progress.clone(),
    };
    client.pull(&pull).await?;
    progress.close(said(format!("Completed pull from {registry}")));
    Ok(())
}

async fn push(
    client: &Client,
    source: Source,
    from: ImageStore,
    progress: Arc<dyn Progress>,
) -> Result<()> {
    let image = client.images.get(&from.name).await?;
    let registry = format!("OCI Registry ({})", source.name());
    progress.report(said(format!("Pushing to {registry}")));
    let progress = Arc::new(Remembering::new(progress, image.target.digest.clone()));
    let push = Push {
        name: image.name,
        target: image.target,
        to: source.pusher()?,
        platforms: Vec::from_wire(from.platforms)?,
        non_distributable: false,
        concurrency: source.uploads(),
        turns: source.upload_turns(),
        progress: progress.clone(),
    };
    client.push(&push).await?;
    progress.close(::client::Event {
        descriptor: Some(push.target),
        ..said(format!("Completed push to {registry}"))
    });
    Ok(())
}

async fn tag(client: &Client, from: &ImageStore, to: ImageStore) -> Result<()> {
    let image = client.images.get(&from.name).await?;
    let now = SystemTime::now();
    let rules = archive::rules(&to.name, to.extra_references);
    for name in ::images::archive::names(&rules, &image.target, true) {
        let (labels, target) = (to.labels.clone(), image.target.clone());
        let tagged = Image { name, labels, target, created_at: now, updated_at: now };
        client.keep_image(tagged).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(source: prost_types::Any, destination: prost_types::Any) -> pb::TransferRequest {
        let (source, destination) = (Some(source), Some(destination));
        pb::TransferRequest { source, destination, options: None }
    }

    #[test]
    fn what_is_moved_where_is_read_from_the_types() {
        let registry = api::pack(&OciRegistry::default());
        let store = api::pack(&ImageStore::default());
        let plan = |from: &prost_types::Any, to: &prost_types::Any| {
            Plan::read(&request(from.clone(), to.clone()))
        };
        assert!(matches!(plan(&registry, &store), Ok(Plan::Pull { .. })));
        assert!(matches!(plan(&store, &registry), Ok(Plan::Push { .. })));
        assert!(matches!(plan(&store, &store), Ok(Plan::Tag { .. })));
        let import = api::pack(&ImageImportStream::default());
        let export = api::pack(&ImageExportStream::default());
        assert!(matches!(plan(&import, &store), Ok(Plan::Import { .. })));
        assert!(matches!(plan(&store, &export), Ok(Plan::Export { .. })));
        assert!(matches!(plan(&import, &export), Ok(Plan::Echo { .. })));
        assert!(plan(&export, &store).is_err());
        let refused = plan(&registry, &registry).err().unwrap();
        assert_eq!(refused.kind(), types::Kind::Unimplemented);
    }
}
