// SPDX-License-Identifier: Apache-2.0
//! A server of whatever is tested, and a connection to it.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use services::Peer;
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    service::Routes,
    transport::{Channel, Server},
};
use types::Scope;

/// A server on a socket in a directory of its own, which ends when this is dropped.
pub(crate) struct Served {
    path: PathBuf,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Served {
    pub(crate) fn new(routes: Routes) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let task = tokio::spawn(async move {
            Server::builder().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
        });
        Self { path, task, _directory: directory }
    }

    /// Its socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn channel(&self) -> Channel {
        services::dial(&self.path, Duration::from_secs(5)).await.unwrap()
    }

    pub(crate) async fn peer(&self) -> Peer {
        services::peer(self.channel().await, &scope()).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn scope() -> Scope {
    Scope::new("suite").unwrap()
}
