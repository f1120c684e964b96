// SPDX-License-Identifier: Apache-2.0
use api::containerd::runc::v1::CheckpointOptions;
use clap::Args;
use client::Client;
use types::{Labels, Result};

use crate::{
    checkpoints::{Saving, packed, while_paused},
    connection::Connection,
};

/// Save a container as an image that it can be restored from.
#[derive(Debug, Args)]
#[command(
    after_help = "A task is frozen meanwhile, and goes on then. It can be restored live only \
                        with --task, which needs CRIU."
)]
pub(crate) struct Checkpoint {
    /// With what the container has changed in its files
    #[arg(long)]
    rw: bool,
    /// With the image that it was made from
    #[arg(long)]
    image: bool,
    /// With what its processes are doing
    #[arg(long)]
    task: bool,
    /// The container's name
    id: String,
    /// The name of the image that the checkpoint becomes
    #[arg(value_name = "REF")]
    reference: String,
}

impl Checkpoint {
    pub(super) async fn run(self, connection: &Connection) -> Result<()> {
        let held = connection.client().await?.hold().await?;
        let outcome = while_paused(held.client(), &self.id, self.save(held.client())).await;
        held.release().await;
        outcome
    }

    async fn save(&self, client: &Client) -> Result<()> {
        let container = client.containers.get(&self.id).await?;
        let mut saving = Saving::new(client, &container);
        saving.describe();
        saving.runtime().await?;
        if self.image {
            saving.image().await?;
        }
        if self.rw {
            saving.changes().await?;
        }
        if self.task {
            // Compat: containerd `client/container.go`, `Checkpoint`.
            let options = packed(&CheckpointOptions { file_locks: true, ..Default::default() });
            saving.task(&options).await?;
            saving.options(&options).await?;
        }
        saving.keep(self.reference.clone(), Labels::new()).await.map(drop)
    }
}
