// SPDX-License-Identifier: Apache-2.0
//! A daemon at the other end of a socket.
use std::{path::Path, sync::Arc, time::Duration};

use client::Client;
use tonic::transport::{Channel, Endpoint};
use types::{Error, Result, Scope};

use crate::{
    call::peer, containers, content, diff, events, images, leases, mounts, namespaces, snapshots,
    tasks,
};

/// How long a connection may take that is made on demand.
const DIAL: Duration = Duration::from_secs(5);

/// Connects to the daemon whose socket is at `address`, within `patience`.
///
/// Errors: `Unavailable` when nobody listens there.
pub async fn dial(address: &Path, patience: Duration) -> Result<Channel> {
    let uri = format!("unix://{}", address.display());
    let failed = |source: tonic::transport::Error| {
        let reason = std::error::Error::source(&source).map(ToString::to_string);
        let reason = reason.unwrap_or_else(|| source.to_string());
        let message = format!("failed to dial {:?}: {reason}", address.display().to_string());
        Error::said(types::Kind::Unavailable, message)
    };
    let endpoint = Endpoint::from_shared(uri).map_err(failed)?.connect_timeout(patience);
    endpoint.connect().await.map_err(failed)
}

/// A connection to the socket at `address`, which is made when it is first needed, and again
/// whenever it was lost.
pub fn dial_lazily(address: &Path) -> Result<Channel> {
    let uri = format!("unix://{}", address.display());
    let endpoint = Endpoint::from_shared(uri).map_err(|source| {
        Error::caused(
            types::Kind::InvalidArgument,
            format!("address {}", address.display()),
            source,
        )
    })?;
    Ok(endpoint.connect_timeout(DIAL).connect_lazy())
}

/// The daemon at the other end of `channel`, on behalf of `scope`.
pub fn connect(channel: &Channel, scope: &Scope) -> Result<Client> {
    assemble(channel, None, scope)
}

/// The daemon at the other end of `channel`, which leads to the socket `address` of this host, on
/// behalf of `scope`. Blobs are read as files where the daemon hands them out.
pub fn connect_beside(channel: &Channel, address: &Path, scope: &Scope) -> Result<Client> {
    assemble(channel, Some(address), scope)
}

fn assemble(channel: &Channel, address: Option<&Path>, scope: &Scope) -> Result<Client> {
    let peer = peer(channel.clone(), scope)?;
    let snapshotters = peer.clone();
    let under = scope.lease().is_none().then(|| {
        let (channel, address) = (channel.clone(), address.map(Path::to_owned));
        let scope = scope.clone();
        Arc::new(move |lease: &str| {
            assemble(&channel, address.as_deref(), &scope.clone().with_lease(lease))
        }) as Arc<client::Under>
    });
    Ok(Client {
        content: match address {
            Some(address) => content::connect_beside(peer.clone(), address, scope),
            None => content::connect(peer.clone()),
        },
        snapshotters: Arc::new(move |name| {
            Ok(snapshots::connect(snapshotters.clone(), name, Vec::new()))
        }),
        differ: diff::connect(peer.clone()),
        images: images::connect(peer.clone()),
        containers: containers::connect(peer.clone()),
        leases: leases::connect(peer.clone()),
        namespaces: namespaces::connect(peer.clone()),
        events: events::connect(peer.clone()),
        mounts: Some(mounts::connect(peer.clone())),
        tasks: tasks::connect(peer),
        under,
        flights: ::images::Flights::default(),
    })
}
