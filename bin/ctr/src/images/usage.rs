// SPDX-License-Identifier: Apache-2.0
use clap::Args;
use types::{Context as _, Error, Platform, Result};

use crate::{connection::Connection, snapshots::Chosen, table::Table, units};

/// Print what the snapshots of an image take on disk.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    #[command(flatten)]
    chosen: Chosen,
    /// The image's name
    #[arg(value_name = "REF")]
    reference: String,
}

impl Usage {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let Self { chosen, reference } = self;
        let (client, here) = (connection.client().await?, Platform::host());
        let image = client.images.get(&reference).await;
        let image = image.context(|| format!("failed to ensure if image {reference} exists"))?;
        if !client.is_unpacked(&image.target, chosen.name(), &here).await? {
            let what = format!("image {reference} isn't unpacked in snapshotter {}", chosen.name());
            return Err(Error::said(types::Kind::FailedPrecondition, what));
        }
        let config = client.image_config(&image, &here).await?;
        let find = &client.snapshotters;
        let snapshots = find(chosen.name())?;
        let mut table = Table::new(["KEY", "SIZE", "INODES"]);
        let mut next = ::images::chain_id(&config.root_fs.diff_ids).map(|top| top.to_string());
        while let Some(key) = next {
            let usage = snapshots.usage(&key).await;
            let usage = usage.context(|| format!("failed to get usage for snapshot {key}"))?;
            next = snapshots.stat(&key).await?.parent;
            table.row([key, units::bytes(usage.size), usage.inodes.to_string()]);
        }
        table.print();
        Ok(())
    }
}
