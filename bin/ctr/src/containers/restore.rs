// SPDX-License-Identifier: Apache-2.0
use std::{collections::BTreeMap, process::ExitCode, time::SystemTime};

use clap::Args;
use client::{Client, NewContainer, NewTask};
use records::Container;
use types::{Descriptor, Labels, Platform, Result};

use crate::{checkpoints::Saved, connection::Connection, tasks::Start};

/// Make a container as a checkpoint says, and start it.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// With what it had changed in its files
    #[arg(long)]
    rw: bool,
    /// Have its processes go on where they were
    #[arg(long)]
    live: bool,
    /// The new container's name
    id: String,
    /// The image that the checkpoint is
    #[arg(value_name = "REF")]
    reference: String,
}

impl Restore {
    pub(super) async fn run(self, connection: &Connection) -> Result<ExitCode> {
        let client = connection.client().await?;
        let saved = Saved::read(&client, &self.reference).await?;
        // Whatever is missing is missed before anything is made.
        let checkpoint = self.live.then(|| saved.task().cloned()).transpose()?;
        let layer = self.rw.then(|| saved.changes().cloned()).transpose()?;
        let container = self.container(&client, &saved).await?;
        let outcome = async {
            if let Some(layer) = layer {
                apply(&client, &container, &layer).await?;
            }
            let new = NewTask { checkpoint, ..NewTask::default() };
            let start = Start::unless_terminal(&container)?;
            start.run(&client, &container, connection.namespace(), new).await
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            // The error tells more than that nobody could clean up.
            drop(client.delete_container(&container.id, false).await);
        }
        outcome
    }

    async fn container(&self, client: &Client, saved: &Saved) -> Result<Container> {
        let now = SystemTime::now();
        let container = Container {
            id: self.id.clone(),
            labels: Labels::new(),
            image: String::new(),
            runtime: saved.runtime(client).await?,
            spec: Some(saved.spec(client).await?),
            snapshotter: saved.snapshotter()?.to_owned(),
            snapshot_key: String::new(),
            created_at: now,
            updated_at: now,
            extensions: BTreeMap::default(),
            sandbox: String::new(),
        };
        let image = client.images.get(saved.image()?).await?;
        let image = Some((image, Platform::host()));
        let snapshot_labels = Labels::new();
        client
            .new_container(NewContainer { container, image, read_only: false, snapshot_labels })
            .await
    }
}

async fn apply(client: &Client, container: &Container, layer: &Descriptor) -> Result<()> {
    let snapshotter = (client.snapshotters)(&container.snapshotter)?;
    let mounts = snapshotter.mounts(&container.snapshot_key).await?;
    client.differ.apply(layer, &mounts, diff::Apply::default()).await.map(drop)
}
