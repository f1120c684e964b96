// SPDX-License-Identifier: Apache-2.0
//! Single objects of a registry: to the standard output, and from the store.
use ::content::{Expected, Store};
use clap::Args;
use futures_util::TryStreamExt as _;
use registry::Reference;
use types::{Descriptor, Digest, Error, Hasher, Labels, Result};

use super::CHUNK;
use crate::{
    access::Access,
    connection::Connection,
    output::{self, say},
};

/// Write an object of a registry to the standard output.
#[derive(Debug, Args)]
pub(crate) struct FetchObject {
    /// Its full name, such as docker.io/library/busybox:latest
    #[arg(value_name = "REF")]
    reference: Reference,
    #[command(flatten)]
    access: Access,
}

impl FetchObject {
    pub(crate) async fn run(self) -> Result<()> {
        let target = self.access.registry()?.resolve(&self.reference).await?;
        print(&self.access, &self.reference, &target).await
    }
}

/// Write a blob of a registry to the standard output.
#[derive(Debug, Args)]
pub(crate) struct FetchBlob {
    /// The repository, such as docker.io/library/busybox
    #[arg(value_name = "REF")]
    reference: Reference,
    /// The blob
    digest: Digest,
    /// What it is, such as application/vnd.oci.image.manifest.v1+json
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    #[arg(hide_default_value = true)]
    media_type: String,
    #[command(flatten)]
    access: Access,
}

impl FetchBlob {
    pub(crate) async fn run(self) -> Result<()> {
        // Its length is not known, and a descriptor says that with 0.
        let blob = Descriptor::new(self.media_type, self.digest, 0);
        print(&self.access, &self.reference, &blob).await
    }
}

/// Writes what `target` points at. That it is not what was promised can only be said in the end.
async fn print(access: &Access, from: &Reference, target: &Descriptor) -> Result<()> {
    let mut stream = access.registry()?.fetcher(from)?.fetch(target, 0).await?;
    let mut hasher = Hasher::new(target.digest.algorithm());
    while let Some(chunk) = stream.try_next().await? {
        hasher.update(&chunk);
        output::bytes(&chunk);
    }
    match hasher.finish() {
        digest if digest == target.digest => Ok(()),
        digest => {
            let what = format!("{from} sent {digest} in place of {}", target.digest);
            Err(Error::failed_precondition(what))
        }
    }
}

/// Send a blob to a registry.
#[derive(Debug, Args)]
pub(crate) struct PushObject {
    /// Where to send it
    #[arg(value_name = "REF")]
    reference: Reference,
    /// The blob
    digest: Digest,
    /// What it is, such as application/vnd.oci.image.manifest.v1+json
    #[arg(value_name = "TYPE")]
    media_type: String,
    #[command(flatten)]
    access: Access,
}

impl PushObject {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let store = connection.client().await?.content;
        let size = store.info(&self.digest).await?.size;
        let target = Descriptor::new(self.media_type, self.digest, size);
        let pusher = self.access.registry()?.pusher(&self.reference)?;
        match pusher.push(&target).await {
            Ok(ingest) => send(&*store, &target, ingest).await?,
            // The registry has it: that is what was wanted.
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        say!("{} {}", target.digest, target.media_type);
        Ok(())
    }
}

async fn send(
    store: &dyn Store,
    target: &Descriptor,
    mut ingest: Box<dyn ::content::Ingest>,
) -> Result<()> {
    let reader = store.reader(&target.digest).await?;
    let mut offset = ingest.status().offset;
    while offset < target.size {
        let chunk = reader.read_at(offset, CHUNK).await?;
        if chunk.is_empty() {
            return Err(Error::internal(format!("content {} is too short", target.digest)));
        }
        offset += chunk.len() as u64;
        ingest.write(chunk).await?;
    }
    match ingest.commit(Expected::from(target), Labels::new()).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}
