// SPDX-License-Identifier: Apache-2.0
//! The version service (`containerd.services.version.v1`).
use api::containerd::services::version::v1 as pb;
use pb::{
    version_client::VersionClient,
    version_server::{Version as Contract, VersionServer},
};
use tonic::{Request, Response};
use types::Result;

use crate::call::{Peer, Reply, error};

/// What a daemon says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// The version of containerd that it stands in for.
    pub version: String,
    /// The revision that it was built from.
    pub revision: String,
}

/// Serves `version`. No namespace is needed.
pub fn serve(version: Version) -> VersionServer<Server> {
    VersionServer::new(Server { version })
}

/// Asks `peer` what it is.
pub async fn fetch(peer: Peer) -> Result<Version> {
    let reply = VersionClient::new(peer).version(()).await.map_err(error)?.into_inner();
    Ok(Version { version: reply.version, revision: reply.revision })
}

/// Puts a version on the wire.
#[derive(Debug)]
pub struct Server {
    version: Version,
}

#[tonic::async_trait]
impl Contract for Server {
    async fn version(&self, _: Request<()>) -> Reply<pb::VersionResponse> {
        let Version { version, revision } = self.version.clone();
        Ok(Response::new(pb::VersionResponse { version, revision }))
    }
}
