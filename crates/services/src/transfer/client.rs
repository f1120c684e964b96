// SPDX-License-Identifier: Apache-2.0
//! A transfer that a daemon does for us.
mod archive;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use ::client::{Event, Progress};
use ::registry::Credentials;
use api::containerd::{
    services::transfer::v1 as pb,
    types::transfer::{
        self as wire, AuthRequest, AuthResponse, AuthType, ImageStore, OciRegistry,
        RegistryResolver, UnpackConfiguration,
    },
};
use pb::transfer_client::TransferClient;
use types::{Any, Descriptor, Labels, Platform, Result};

use crate::call::{Peer, error};
use crate::convert::{FromWire, ToWire, any};
use crate::streaming::{self, Stream};

pub use archive::{Imported, export, import};

/// An image to be pulled by the daemon.
#[derive(Clone)]
pub struct Fetched {
    /// Its name, a full reference.
    pub name: String,
    /// Whether the registry speaks plain HTTP.
    pub plain_http: bool,
    /// The platforms that are wanted; none are all.
    pub platforms: Vec<Platform>,
    /// Whether the manifests of other platforms are wanted too.
    pub all_metadata: bool,
    /// The snapshotters to unpack to, each for a platform.
    pub unpack: Vec<(String, Platform)>,
    /// Labels of the image record.
    pub labels: Labels,
    /// Who we are to the registry, asked when it wants to know.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// Who hears of it.
    pub progress: Arc<dyn Progress>,
}

/// Has the daemon at `peer` pull an image.
pub async fn fetch(peer: Peer, image: Fetched) -> Result<()> {
    let progress = image.progress.clone();
    let reports = open(&peer, "progress", |stream| listen(stream, progress)).await?;
    let auth_stream = match image.credentials.clone() {
        Some(credentials) => open(&peer, "creds", |stream| answer(stream, credentials)).await?,
        None => String::new(),
    };
    let request = request(image, auth_stream, reports);
    TransferClient::new(peer).transfer(request).await.map_err(error)?;
    Ok(())
}

/// Opens a stream under a name that nobody else has, and has `work` done on it.
async fn open<W>(peer: &Peer, prefix: &str, work: impl FnOnce(Stream) -> W) -> Result<String>
where
    W: Future<Output = ()> + Send + 'static,
{
    let id = format!("{prefix}-{:016x}", RandomState::new().build_hasher().finish());
    let stream = streaming::connect(peer.clone(), &id).await?;
    tokio::spawn(work(stream));
    Ok(id)
}

fn request(image: Fetched, auth_stream: String, progress_stream: String) -> pb::TransferRequest {
    let unpack = |(snapshotter, platform): (String, Platform)| UnpackConfiguration {
        platform: Some(platform.to_wire()),
        snapshotter,
    };
    let default_scheme = if image.plain_http { "http" } else { "" }.to_owned();
    let source = OciRegistry {
        reference: image.name.clone(),
        resolver: Some(RegistryResolver { auth_stream, default_scheme, ..Default::default() }),
    };
    let destination = ImageStore {
        name: image.name,
        labels: image.labels,
        platforms: image.platforms.to_wire(),
        all_metadata: image.all_metadata,
        unpacks: image.unpack.into_iter().map(unpack).collect(),
        ..Default::default()
    };
    pb::TransferRequest {
        source: Some(api::pack(&source)),
        destination: Some(api::pack(&destination)),
        options: Some(pb::TransferOptions { progress_stream }),
    }
}

async fn listen(mut stream: Stream, progress: Arc<dyn Progress>) {
    while let Some(message) = stream.receive().await {
        if let Some(Ok(report)) = api::unpack::<wire::Progress>(&message.to_wire()) {
            progress.report(event(report));
        }
    }
}

fn event(wire: wire::Progress) -> Event {
    Event {
        event: wire.event.into(),
        name: wire.name,
        parents: wire.parents,
        progress: wire.progress as u64,
        total: wire.total as u64,
        descriptor: wire.desc.and_then(|descriptor| Descriptor::from_wire(descriptor).ok()),
    }
}

async fn answer(mut stream: Stream, credentials: Arc<dyn Credentials>) {
    while let Some(question) = stream.receive().await {
        let Some(Ok(question)) = api::unpack::<AuthRequest>(&question.to_wire()) else { return };
        if stream.send(credential(&*credentials, &question.host).await).await.is_err() {
            return;
        }
    }
}

async fn credential(credentials: &dyn Credentials, host: &str) -> Any {
    let mut response = AuthResponse::default();
    match credentials.credential(host).await {
        Ok(Some(credential)) if credential.username.is_empty() => {
            response.set_auth_type(AuthType::Refresh);
            response.secret = credential.secret;
        }
        Ok(Some(credential)) => {
            response.set_auth_type(AuthType::Credentials);
            response.username = credential.username;
            response.secret = credential.secret;
        }
        Ok(None) | Err(_) => response.set_auth_type(AuthType::None),
    }
    any(api::pack(&response))
}
