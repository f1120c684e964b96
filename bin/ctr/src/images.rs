// SPDX-License-Identifier: Apache-2.0
//! `ctr images`.
mod cache;
mod check;
mod convert;
mod export;
mod generate_key;
mod hosts;
mod import;
mod inspect;
mod list;
pub(crate) mod mount;
mod package;
mod pull;
mod push;
mod referrers;
mod sign;
mod usage;
mod verify;

use clap::Subcommand;
use records::{Delete, Image};
use types::{Error, FieldMask, Filters, Result};

use crate::{connection::Connection, labels, output::say};

pub(crate) use pull::Fetch;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check that images are complete and unpacked
    Check(check::Check),
    /// List images
    #[command(visible_alias = "ls")]
    List {
        /// Print the names only
        #[arg(long, short)]
        quiet: bool,
        /// Filters, such as name==x
        filters: Vec<String>,
    },
    /// Make an image otherwise
    Convert(convert::Convert),
    BuildErofsCache(cache::BuildErofsCache),
    /// Export images into an archive
    Export(export::Export),
    /// Import images from an archive
    Import(Box<import::Import>),
    /// Mount the filesystem of an image
    Mount(mount::Attach),
    /// Unmount the filesystem of an image
    Unmount(mount::Detach),
    /// Make an image of files
    Package(Box<package::Package>),
    /// Fetch an image from a registry and make it ready to run
    Pull(Box<pull::Pull>),
    /// Send an image to a registry
    Push(Box<push::Push>),
    /// List what refers to an image and is kept beside it
    Referrers(referrers::Referrers),
    /// Tell where an image would be fetched from, and what each host says to that
    Hosts(Box<hosts::Ask>),
    /// Make a pair of keys to sign images with
    GenerateKey(generate_key::GenerateKey),
    /// Sign an image, and keep the signature beside it
    Sign(Box<sign::Sign>),
    /// Tell who has signed an image
    Verify(Box<verify::Verify>),
    /// Delete images
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Wait until what they alone held has been collected
        #[arg(long)]
        sync: bool,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Give an image further names
    Tag {
        /// Replace what has the name
        #[arg(long)]
        force: bool,
        /// Accepted for scripts: tags are always made through the image service
        #[arg(long, hide = true)]
        local: bool,
        /// Accepted for scripts: names are not held to any form
        #[arg(long, hide = true)]
        skip_reference_check: bool,
        /// Its name
        source: String,
        /// The further names
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Set or clear labels of an image
    Label {
        /// Replace all labels
        #[arg(long, short)]
        replace_all: bool,
        /// Its name
        name: String,
        /// Labels, key=value; an empty value clears
        labels: Vec<String>,
    },
    /// Print what the snapshots of an image take on disk
    Usage(usage::Usage),
    /// Print what an image is made of
    #[command(visible_alias = "i")]
    Inspect(inspect::Inspect),
    /// Delete images that no container uses
    Prune {
        /// All of them, not only those without a name
        #[arg(long, required = true)]
        all: bool,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        match self {
            Self::Check(check) => check.run(connection).await,
            Self::List { quiet, filters } => list::run(connection, quiet, filters).await,
            Self::Convert(convert) => convert.run(connection).await,
            Self::BuildErofsCache(build) => build.run(connection).await,
            Self::Export(export) => export.run(connection).await,
            Self::Import(import) => import.run(connection).await,
            Self::Mount(attach) => attach.run(connection).await,
            Self::Unmount(detach) => detach.run(connection).await,
            Self::Package(package) => package.run(connection).await,
            Self::Pull(pull) => pull.run(connection).await,
            Self::Push(push) => push.run(connection).await,
            Self::Referrers(referrers) => referrers.run(connection).await,
            Self::Hosts(ask) => ask.run().await,
            Self::GenerateKey(generate) => generate.run().await,
            Self::Sign(sign) => sign.run(connection).await,
            Self::Verify(verify) => verify.run(connection).await,
            Self::Delete { sync, names } => delete(connection, &names, sync).await,
            Self::Tag { force, source, targets, .. } => {
                tag(connection, &source, targets, force).await
            }
            Self::Label { replace_all, name, labels } => {
                label(connection, name, &labels, replace_all).await
            }
            Self::Usage(usage) => usage.run(connection).await,
            Self::Inspect(inspect) => inspect.run(connection).await,
            Self::Prune { .. } => prune(connection).await,
        }
    }
}

/// Deletes what it can, and fails with the first failure in the end. That an image is not there is
/// said, but is as good. Only the last deletion waits: it waits for all of them.
async fn delete(connection: &Connection, names: &[String], sync: bool) -> Result<()> {
    let images = connection.client().await?.images;
    let mut outcome = Ok(());
    for (at, name) in names.iter().enumerate() {
        let sync = sync && at == names.len() - 1;
        match images.delete(name, Delete { sync, target: None }).await {
            Ok(()) => say!("{name}"),
            Err(error) if error.is_not_found() => eprintln!("ctr: {name}: image not found"),
            Err(error) => {
                outcome = outcome.and(Err(error.context(format!("unable to delete {name}"))));
            }
        }
    }
    outcome
}

async fn tag(
    connection: &Connection,
    source: &str,
    targets: Vec<String>,
    force: bool,
) -> Result<()> {
    let client = connection.client().await?;
    let image = client.images.get(source).await?;
    for name in targets {
        let image = Image { name, ..image.clone() };
        let kept = if force {
            client.keep_image(image).await?
        } else {
            client.images.create(image).await?
        };
        say!("{}", kept.name);
    }
    Ok(())
}

async fn label(
    connection: &Connection,
    name: String,
    pairs: &[String],
    replace_all: bool,
) -> Result<()> {
    let images = connection.client().await?.images;
    let labels = labels::parse(pairs);
    let mask = match replace_all {
        true => FieldMask::new(["labels"]),
        false if labels.is_empty() => return Err(Error::invalid("no label was given")),
        false => labels::mask(&labels),
    };
    let image = Image { labels, ..images.get(&name).await? };
    say!("{}", labels::cell(&images.update(image, &mask).await?.labels));
    Ok(())
}

async fn prune(connection: &Connection) -> Result<()> {
    let client = connection.client().await?;
    let containers = client.containers.list(&Filters::default()).await?;
    let is_used = |name: &str| containers.iter().any(|container| container.image == name);
    let images = client.images.list(&Filters::default()).await?;
    let unused: Vec<String> =
        images.into_iter().map(|image| image.name).filter(|name| !is_used(name)).collect();
    delete(connection, &unused, true).await
}
