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
        self as wire, AuthRequest, AuthResponse, AuthType, Data, HttpDebug, ImageStore,
        OciRegistry, RegistryResolver, UnpackConfiguration, WindowUpdate,
    },
};
use pb::transfer_client::TransferClient;
use tokio::sync::mpsc;
use types::{Any, Descriptor, Labels, Platform, Result};

use crate::call::{Peer, error};
use crate::convert::{FromWire, ToWire, any};
use crate::streaming::{self, Stream};

pub use archive::{Imported, export, import};

/// How many bytes of a log may be on their way.
const WINDOW: i32 = 64 << 10;

/// An image to be pulled by the daemon.
#[derive(Clone)]
pub struct Fetched {
    /// Its name, a full reference.
    pub name: String,
    /// Whether the registry speaks plain HTTP.
    pub plain_http: bool,
    /// The folder, on the daemon's side, that says where registries are; the daemon's own if empty.
    pub hosts_dir: String,
    /// Who hears of each request, as lines of text; nobody if none.
    pub http_log: Option<mpsc::UnboundedSender<String>>,
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
    let logs_stream = match image.http_log.clone() {
        Some(log) => open(&peer, "logs", |stream| read(stream, log)).await?,
        None => String::new(),
    };
    let request = request(image, auth_stream, logs_stream, reports);
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

fn request(
    image: Fetched,
    auth_stream: String,
    logs_stream: String,
    progress_stream: String,
) -> pb::TransferRequest {
    let unpack = |(snapshotter, platform): (String, Platform)| UnpackConfiguration {
        platform: Some(platform.to_wire()),
        snapshotter,
    };
    let default_scheme = if image.plain_http { "http" } else { "" }.to_owned();
    let source = OciRegistry {
        reference: image.name.clone(),
        resolver: Some(RegistryResolver {
            auth_stream,
            default_scheme,
            host_dir: image.hosts_dir,
            http_debug: if logs_stream.is_empty() { HttpDebug::Disabled } else { HttpDebug::Both }
                .into(),
            logs_stream,
            ..Default::default()
        }),
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

/// Takes texts off a stream as they come, and says each time that there is room for as many more
/// (containerd `core/transfer/streaming/reader.go`).
async fn read(mut stream: Stream, log: mpsc::UnboundedSender<String>) {
    let mut room = 2 * WINDOW;
    loop {
        if room >= WINDOW {
            let update = WindowUpdate { update: room };
            if stream.send(any(api::pack(&update))).await.is_err() {
                return;
            }
            room = 0;
        }
        let Some(message) = stream.receive().await else { return };
        let Some(Ok(data)) = api::unpack::<Data>(&message.to_wire()) else { return };
        room += data.data.len() as i32;
        if log.send(String::from_utf8_lossy(&data.data).into_owned()).is_err() {
            return;
        }
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
        Ok(Some(credential)) if !credential.header.is_empty() => {
            response.set_auth_type(AuthType::Header);
            response.secret = credential.header;
        }
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
