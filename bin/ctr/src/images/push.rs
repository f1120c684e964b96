// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use clap::Args;
use registry::Reference;
use types::{Context as _, Descriptor, Digest, Platform, Result, media_types};

use crate::{access::Access, connection::Connection, progress::Display};

/// Send an image to a registry.
#[derive(Debug, Args)]
#[command(
    after_help = "What the registry has already is not sent.\nAn image that was fetched for \
                        one platform only is not complete: give --platform to send that."
)]
pub(crate) struct Push {
    /// Send this manifest, and not what the name stands for
    #[arg(long, value_name = "DIGEST")]
    manifest: Option<Digest>,
    /// What the manifest is
    #[arg(long, value_name = "TYPE", default_value = media_types::MANIFEST, requires = "manifest")]
    manifest_type: String,
    /// Platforms whose manifests are sent
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// How many blobs to send at once (0 is a default of 3)
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_concurrent_uploaded_layers: usize,
    /// Send layers too that registries are asked not to hand on
    #[arg(long)]
    allow_non_distributable_blobs: bool,
    /// Send what refers to the image too, as far as it is here
    #[arg(long)]
    referrers: bool,
    /// Accepted for scripts: images are always sent from here
    #[arg(long, hide = true)]
    local: bool,
    /// Where to send it, such as localhost:5000/busybox:latest
    remote: Reference,
    /// The name of the image here, where it is another
    local_name: Option<String>,
    #[command(flatten)]
    access: Access,
}

impl Push {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let registry = self.access.registry()?;
        let target = self.target(&client).await?;
        let display = Display::new();
        let push = client::Push {
            name: self.remote.to_string(),
            target: target.clone(),
            to: registry.pusher(&self.remote)?,
            platforms: self.platform.clone(),
            non_distributable: self.allow_non_distributable_blobs,
            turns: None,
            concurrency: self.max_concurrent_uploaded_layers,
            progress: Arc::<Display>::clone(&display),
        };
        client.push(&push).await.inspect_err(|_| display.give_up())?;
        display.finish();
        if self.referrers {
            super::referrers::send(&client, &registry, &self.remote, &push).await?;
        }
        Ok(())
    }

    async fn target(&self, client: &client::Client) -> Result<Descriptor> {
        if let Some(digest) = &self.manifest {
            let size = client.content.info(digest).await?.size;
            return Ok(Descriptor::new(&*self.manifest_type, digest.clone(), size));
        }
        let name = self.local_name.clone().unwrap_or_else(|| self.remote.to_string());
        let image = client.images.get(&name).await;
        let target = image.context(|| "unable to resolve image to manifest")?.target;
        let [platform] = &self.platform[..] else { return Ok(target) };
        // One platform alone is one manifest: an index would promise others.
        let wanted = types::platform::Matcher::only(platform);
        Ok(::images::choose(&*client.content, &target, &wanted).await?.descriptor)
    }
}
