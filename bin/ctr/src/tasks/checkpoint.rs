// SPDX-License-Identifier: Apache-2.0
use std::{path::PathBuf, time::SystemTime};

use api::containerd::runc::v1::CheckpointOptions;
use clap::Args;
use client::Client;
use records::Image;
use types::{Labels, Result};

use crate::{
    checkpoints::{Saving, packed, while_paused},
    output::say,
};

/// Save a task as an image that it can be restored from.
#[derive(Debug, Args)]
#[command(
    after_help = "It is frozen meanwhile, and goes on then unless --exit is given. This needs \
                        CRIU."
)]
pub(crate) struct Checkpoint {
    /// End it with the checkpoint
    #[arg(long)]
    exit: bool,
    /// A directory for what CRIU writes: then there is no image
    #[arg(long, value_name = "DIRECTORY")]
    image_path: Option<PathBuf>,
    /// A directory for CRIU's log
    #[arg(long, value_name = "DIRECTORY")]
    work_path: Option<PathBuf>,
    /// The container's name
    id: String,
}

impl Checkpoint {
    pub(super) async fn run(self, client: &Client) -> Result<()> {
        let held = client.hold().await?;
        let outcome = while_paused(held.client(), &self.id, self.save(held.client())).await;
        held.release().await;
        if let Some(image) = outcome? {
            say!("{}", image.name);
        }
        Ok(())
    }

    async fn save(&self, client: &Client) -> Result<Option<Image>> {
        let container = client.containers.get(&self.id).await?;
        let path = |path: &Option<PathBuf>| -> Result<String> {
            let path = path.as_ref().map(std::path::absolute).transpose()?;
            Ok(path.map(|path| path.display().to_string()).unwrap_or_default())
        };
        let options = packed(&CheckpointOptions {
            exit: self.exit,
            image_path: path(&self.image_path)?,
            work_path: path(&self.work_path)?,
            ..Default::default()
        });
        let mut saving = Saving::new(client, &container);
        saving.task(&options).await?;
        if self.image_path.is_some() {
            return Ok(None);
        }
        if !container.image.is_empty() {
            saving.image().await?;
            saving.annotate([("image.name", &container.image)]);
        }
        if !container.snapshot_key.is_empty() {
            saving.changes().await?;
        }
        let name = name(&self.id, SystemTime::now());
        let labels = Labels::from([("containerd.io/checkpoint".to_owned(), "true".to_owned())]);
        saving.keep(name, labels).await.map(Some)
    }
}

/// The name of a checkpoint that nobody has named (containerd `client/client.go`,
/// `checkpointNameFormat`).
fn name(id: &str, at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default();
    format!("containerd.io/checkpoint/{id}:{}", at.strftime("%m-%d-%Y-%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_named_by_its_task_and_the_time() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400 + 3_661);
        assert_eq!(name("a", at), "containerd.io/checkpoint/a:01-02-1970-01:01:01");
    }
}
