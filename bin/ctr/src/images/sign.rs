// SPDX-License-Identifier: Apache-2.0
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use registry::{Reference, Registry};
use trust::{Evidence, PrivateKey};
use types::{Context as _, Descriptor, Error, Kind, Result};

use super::generate_key::password;
use crate::{access::Access, connection::Connection, output::say};

/// Sign an image, and keep the signature beside it.
#[derive(Debug, Args)]
#[command(after_help = "What is signed is the digest that the name stands for here, and cosign \
                        verifies it.\nThe password of the key is asked for, or taken from \
                        COSIGN_PASSWORD.")]
pub(crate) struct Sign {
    /// The private key: cosign's, or one in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Send the signature to the image's registry too, under the tag where cosign looks for it
    #[arg(long)]
    push: bool,
    /// Send it as an OCI 1.1 referrer of the image instead of under a tag
    #[arg(long, requires = "push")]
    referrer: bool,
    /// The image
    image: Reference,
    #[command(flatten)]
    access: Access,
}

impl Sign {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let name = self.image.to_string();
        let target = client.images.get(&name).await?.target;
        let key = open(&self.key).await?;
        let evidence = Evidence::sign(&key, &self.image.locator(), &target.digest)?;
        let held = client.hold().await?;
        let kept = trust::keep(&*held.client().content, &target.digest, &evidence).await;
        held.release().await;
        kept?;
        say!("{name} ({}) signed by {}", target.digest, key.public().hint());
        if self.push {
            self.send(evidence, &target).await?;
        }
        Ok(())
    }

    async fn send(&self, evidence: Evidence, target: &Descriptor) -> Result<()> {
        let registry = self.access.registry()?;
        let tag = format!("{}:{}", self.image.locator(), trust::tag(&target.digest)).parse()?;
        let (evidence, to) = if self.referrer {
            let evidence = evidence.referring_to(target)?;
            let by_digest = format!("{}@{}", self.image.locator(), evidence.manifest.digest);
            (evidence, by_digest.parse()?)
        } else {
            (with_older(&registry, &tag, evidence).await?, tag)
        };
        push(&registry, &to, &evidence).await.context(|| format!("send the signature to {to}"))?;
        say!("{to}");
        Ok(())
    }
}

/// Others may have signed before: their signatures stay under the tag.
async fn with_older(registry: &Registry, tag: &Reference, new: Evidence) -> Result<Evidence> {
    let older = match registry.resolve(tag).await {
        Err(error) if error.is_not_found() => return Ok(new),
        older => older?,
    };
    match Evidence::read(&*registry.fetcher(tag)?, &older).await? {
        Some(older) => new.joined(&older),
        None => Ok(new),
    }
}

async fn push(registry: &Registry, to: &Reference, evidence: &Evidence) -> Result<()> {
    let pusher = registry.pusher(to)?;
    let whole = [(evidence.manifest.clone(), evidence.data.clone())];
    for (part, data) in evidence.parts.iter().chain(&whole) {
        let part = Descriptor::new(&*part.media_type, part.digest.clone(), part.size);
        let mut upload = match pusher.push(&part).await {
            Err(error) if error.is_already_exists() => continue,
            upload => upload?,
        };
        upload.write(Bytes::clone(data)).await?;
        match upload.commit((&part).into(), types::Labels::new()).await {
            Err(error) if error.is_already_exists() => {}
            committed => drop(committed?),
        }
    }
    Ok(())
}

/// Reads a private key, with its password if it has one.
async fn open(path: &Path) -> Result<PrivateKey> {
    let text = fs_err::read_to_string(path)?;
    let password = if PrivateKey::is_sealed(&text) {
        password(&format!("Password of {}: ", path.display()))?
    } else {
        Vec::new()
    };
    // To open it takes a quarter of a second, by design.
    let opened = tokio::task::spawn_blocking(move || PrivateKey::from_pem(&text, &password)).await;
    opened
        .map_err(|e| Error::caused(Kind::Internal, "open the key", e))?
        .context(|| path.display().to_string())
}
