// SPDX-License-Identifier: Apache-2.0
//! `ctr content`.
mod edit;
mod objects;

use ::content::{Expected, Info, Store};
use bytes::Bytes;
use clap::Subcommand;
use futures_util::TryStreamExt;
use tokio::io::AsyncReadExt;
use types::{Digest, Error, Filters, Labels, Result};

use crate::{
    connection::Connection,
    images, labels,
    output::{self, say},
    table::Table,
    units,
};

/// How much is read or written at a time.
const CHUNK: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what is being written
    Active {
        /// Accepted for scripts: it has no effect in Go's ctr either
        #[arg(long, short, value_name = "TIME", hide = true)]
        timeout: Option<String>,
        /// Accepted for scripts: it has no effect in Go's ctr either
        #[arg(long, value_name = "DIRECTORY", hide = true)]
        root: Option<String>,
        /// Filters, such as ref~=layer
        filters: Vec<String>,
    },
    /// Delete blobs
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Their digests
        #[arg(required = true)]
        digests: Vec<Digest>,
    },
    /// Edit a blob and store the outcome as another
    Edit(edit::Edit),
    /// Fetch all content of an image into the store, without unpacking it
    Fetch(Box<images::Fetch>),
    /// Write an object of a registry to the standard output
    FetchObject(objects::FetchObject),
    /// Write a blob of a registry to the standard output
    FetchBlob(objects::FetchBlob),
    /// Send a blob to a registry
    PushObject(objects::PushObject),
    /// Write a blob to the standard output
    Get {
        /// Its digest
        digest: Digest,
    },
    /// Write the standard input into a blob
    Ingest {
        /// What it has to be
        #[arg(long)]
        expected_digest: Option<Digest>,
        /// How long it has to be, in bytes (0 is any length)
        #[arg(long, default_value_t = 0)]
        expected_size: u64,
        /// The name of the ingest
        reference: String,
    },
    /// Set or clear labels of a blob
    Label {
        /// Its digest
        digest: Digest,
        /// Labels, key=value; an empty value clears. Without any, prints what there is
        labels: Vec<String>,
    },
    /// Let go of what is kept
    #[command(subcommand)]
    Prune(Prune),
    /// List blobs
    #[command(visible_alias = "ls")]
    List {
        /// Print the digests only
        #[arg(long, short)]
        quiet: bool,
        /// Filters, such as labels.x==y
        filters: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Prune {
    /// Take off the labels by which manifests keep their layers
    References(edit::PruneReferences),
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let store = async || connection.client().await.map(|client| client.content);
        match self {
            Self::Fetch(fetch) => fetch.run(connection).await,
            Self::FetchObject(fetch) => fetch.run().await,
            Self::FetchBlob(fetch) => fetch.run().await,
            Self::PushObject(push) => push.run(connection).await,
            Self::Edit(edit) => edit.run(&*store().await?).await,
            Self::Prune(Prune::References(prune)) => prune.run(connection).await,
            Self::Active { filters, .. } => {
                active(&*store().await?, &Filters::parse(filters)?).await
            }
            Self::Delete { digests } => delete(&*store().await?, &digests).await,
            Self::Get { digest } => get(&*store().await?, &digest).await,
            Self::Ingest { expected_digest: digest, expected_size, reference } => {
                let size = Some(expected_size).filter(|&size| size > 0);
                ingest(&*store().await?, &reference, Expected { size, digest }).await
            }
            Self::Label { digest, labels } => label(&*store().await?, digest, &labels).await,
            Self::List { quiet, filters } => {
                list(&*store().await?, quiet, Filters::parse(filters)?).await
            }
        }
    }
}

async fn active(store: &dyn Store, filters: &Filters) -> Result<()> {
    let mut table = Table::new(["REF", "SIZE", "AGE"]);
    for status in store.statuses(filters).await? {
        let (size, age) = (units::bytes(status.offset), units::ago(status.started_at));
        table.row([status.reference, size, age]);
    }
    table.print();
    Ok(())
}

/// Deletes what it can, and fails with the first failure in the end.
async fn delete(store: &dyn Store, digests: &[Digest]) -> Result<()> {
    let mut outcome = Ok(());
    for digest in digests {
        match store.delete(digest).await {
            Ok(()) => say!("{digest}"),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
}

/// Writes a blob to the standard output.
pub(crate) async fn get(store: &dyn Store, digest: &Digest) -> Result<()> {
    let reader = store.reader(digest).await?;
    let mut offset = 0;
    while offset < reader.size() {
        let chunk = reader.read_at(offset, CHUNK).await?;
        if chunk.is_empty() {
            return Err(Error::internal(format!("content {digest} is shorter than it says")));
        }
        offset += chunk.len() as u64;
        output::bytes(&chunk);
    }
    Ok(())
}

async fn ingest(store: &dyn Store, reference: &str, expected: Expected) -> Result<()> {
    let mut ingest = store.writer(reference, expected.clone()).await?;
    ingest.truncate(0).await?;
    let mut input = tokio::io::stdin();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        if (&mut input).take(CHUNK as u64).read_to_end(&mut chunk).await? == 0 {
            break;
        }
        ingest.write(Bytes::from(chunk)).await?;
    }
    match ingest.commit(expected, Labels::new()).await {
        Err(error) if !error.is_already_exists() => {
            Err(error.context(format!("failed commit on ref {reference:?}")))
        }
        _ => Ok(()),
    }
}

async fn label(store: &dyn Store, digest: Digest, pairs: &[String]) -> Result<()> {
    let mut info = store.info(&digest).await?;
    if !pairs.is_empty() {
        let labels = labels::parse(pairs);
        let mask = labels::mask(&labels);
        info = store.update(Info { labels, ..info }, &mask).await?;
    }
    say!("{}", labels::cell(&info.labels));
    Ok(())
}

async fn list(store: &dyn Store, quiet: bool, filters: Filters) -> Result<()> {
    let mut blobs: Vec<Info> = store.walk(filters).try_collect().await?;
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    if quiet {
        output::lines(blobs.iter().map(|info| &info.digest));
        return Ok(());
    }
    let mut table = Table::new(["DIGEST", "SIZE", "AGE", "LABELS"]);
    for info in blobs {
        let (size, age) = (units::bytes(info.size), units::ago(info.created_at));
        table.row([info.digest.to_string(), size, age, labels::cell(&info.labels)]);
    }
    table.print();
    Ok(())
}
