// SPDX-License-Identifier: Apache-2.0
//! What refers to images: signatures, lists of materials, and what else people attach.
use std::{collections::HashSet, sync::Arc};

use clap::Args;
use client::{Client, Pull, Push};
use images::Referrer;
use registry::{Reference, Registry};
use types::{Descriptor, Digest, Result, media_types};

use crate::{connection::Connection, output::say, table::Table, units};

/// How many referrers of one image are fetched, and how far off: a signature of a list of materials of
/// an image is two steps away.
const MAX_COUNT: usize = 64;
const MAX_STEPS: usize = 3;

/// List what refers to an image and is kept beside it.
#[derive(Debug, Args)]
#[command(after_help = "`ctr images pull --referrers` fetches what the registry has.")]
pub(crate) struct Referrers {
    /// The image's name
    #[arg(value_name = "REF")]
    reference: String,
}

impl Referrers {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let image = client.images.get(&self.reference).await?;
        let mut table = Table::new(["DIGEST", "ARTIFACT TYPE", "SIZE", "SUBJECT"]);
        for (subject, referrer) in kept(&client, &image.target).await? {
            let it = referrer.descriptor;
            table.row([
                it.digest.to_string(),
                it.artifact_type.unwrap_or_default(),
                units::bytes(it.size),
                subject.to_string(),
            ]);
        }
        table.print();
        Ok(())
    }
}

/// The image and its manifests, as far as they are here: any of them may be referred to.
async fn subjects(client: &Client, image: &Descriptor) -> Result<Vec<Digest>> {
    let store = &*client.content;
    let found = images::walk(store, image.clone(), |parent, children| match children {
        // A manifest of another platform may be missing.
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Ok(children) if media_types::is_index(&parent.media_type) => Ok(children),
        children => children.map(|_parts| Vec::new()),
    });
    let mut subjects = Vec::new();
    for descriptor in found.await? {
        if store.info(&descriptor.digest).await.is_ok() {
            subjects.push(descriptor.digest);
        }
    }
    Ok(subjects)
}

/// What refers to an image, to its manifests, and to what refers to them, each with what it is about.
async fn kept(client: &Client, image: &Descriptor) -> Result<Vec<(Digest, Referrer)>> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut ahead = subjects(client, image).await?;
    for _ in 0..MAX_STEPS {
        for subject in std::mem::take(&mut ahead) {
            for referrer in images::referrers(&*client.content, &subject).await? {
                if seen.insert(referrer.descriptor.digest.clone()) {
                    ahead.push(referrer.descriptor.digest.clone());
                    found.push((subject.clone(), referrer));
                }
            }
        }
    }
    Ok(found)
}

/// Fetches what a registry says refers to the image that `pull` has brought. Answers with how many.
pub(super) async fn fetch(
    client: &Client,
    registry: &Registry,
    reference: &Reference,
    pull: &Pull,
) -> Result<usize> {
    let (mut count, mut seen) = (0, HashSet::new());
    let mut ahead = subjects(client, &pull.target).await?;
    for _ in 0..MAX_STEPS {
        for subject in std::mem::take(&mut ahead) {
            let mut listed = registry.signatures(reference, &subject).await?;
            listed.retain(|it| seen.insert(it.digest.clone()));
            listed.truncate(MAX_COUNT.saturating_sub(count));
            count += listed.len();
            let brought = client.pull_referrers(pull, &subject, &listed).await?;
            ahead.extend(brought.into_iter().map(|it| it.descriptor.digest));
        }
    }
    Ok(count)
}

/// Sends what refers to an image after it, each to where the registry looks for it.
pub(super) async fn send(
    client: &Client,
    registry: &Registry,
    remote: &Reference,
    push: &Push,
) -> Result<()> {
    for (subject, Referrer { descriptor, subject: said }) in kept(client, &push.target).await? {
        let place = match said {
            // What names no subject is found by a tag that is made of the subject's digest.
            None => format!("{}:{}", remote.locator(), trust::tag(&subject)),
            Some(_) => format!("{}@{}", remote.locator(), descriptor.digest),
        };
        let place: Reference = place.parse()?;
        let referrer = Push {
            name: place.to_string(),
            target: descriptor,
            to: registry.pusher(&place)?,
            platforms: Vec::new(),
            progress: Arc::new(client::Silent),
            ..push.clone()
        };
        client.push(&referrer).await?;
        say!("{place}");
    }
    Ok(())
}
