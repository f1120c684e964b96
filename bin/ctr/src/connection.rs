// SPDX-License-Identifier: Apache-2.0
//! The daemon that the commands speak to. It is dialled once, when it is first needed.
use std::{path::Path, time::Duration};

use client::Client;
use services::Peer;
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use types::{Result, Scope};

use crate::Global;

/// How long to wait for a connection where nothing else was said.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon, and on whose behalf it is spoken to.
pub(crate) struct Connection {
    global: Global,
    channel: OnceCell<Channel>,
}

impl Connection {
    pub(crate) fn new(global: Global) -> Self {
        Self { global, channel: OnceCell::new() }
    }

    /// Where the daemon listens.
    pub(crate) fn address(&self) -> &Path {
        &self.global.address
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.global.namespace
    }

    /// The daemon's contracts in the namespace.
    pub(crate) async fn client(&self) -> Result<Client> {
        services::connect_beside(self.channel().await?, self.address(), &self.scope()?)
    }

    /// The daemon's contracts, with what is created held by `lease`.
    pub(crate) async fn leased(&self, lease: &str) -> Result<Client> {
        let scope = self.scope()?.with_lease(lease);
        services::connect_beside(self.channel().await?, self.address(), &scope)
    }

    /// For services that are no contract.
    pub(crate) async fn peer(&self) -> Result<Peer> {
        services::peer(self.channel().await?.clone(), &self.scope()?)
    }

    fn scope(&self) -> Result<Scope> {
        Scope::new(&self.global.namespace)
    }

    async fn channel(&self) -> Result<&Channel> {
        let patience = self.global.connect_timeout;
        let patience = if patience.is_zero() { PATIENCE } else { patience };
        let dial = || services::dial(&self.global.address, patience);
        self.channel.get_or_try_init(dial).await
    }
}
