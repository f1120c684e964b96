// SPDX-License-Identifier: Apache-2.0
//! From an archive to images. The daemon reads it where it can; else it is read here, and its blobs
//! go through the daemon's content service.
use std::{
    io::Read,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use ::images::archive::{Bytestream, NameRule};
use bytes::Bytes;
use clap::Args;
use client::{Event, Progress, Unpack};
use futures_util::{StreamExt as _, stream};
use services::transfer::{self, Imported};
use tokio::sync::mpsc;
use types::{Error, Kind, Platform, Result};

use crate::{
    connection::Connection, labels, output::say, progress::Display, snapshots::Chosen, units,
};

/// How much is read at a time, and how many pieces may wait.
const CHUNK: usize = 256 * 1024;
const WAITING: usize = 4;

/// Import images from an archive.
#[derive(Debug, Args)]
#[command(after_help = "The archive is an OCI layout, what `docker save` writes, or both in one, \
                        also packed with gzip or zstd.\nAn OCI layout may name images by their tags \
                        only: --base-name says what goes before those. Without it, they become \
                        import-<date>:<tag>.")]
pub(crate) struct Import {
    /// What goes before tags; only images whose names begin with it are imported
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
    /// Name images by their digests too
    #[arg(long)]
    digests: bool,
    /// Do not name those by their digests that have another name
    #[arg(long, requires = "digests")]
    skip_digest_for_named: bool,
    /// Keep the index of the archive under this name
    #[arg(long, value_name = "NAME")]
    index_name: Option<String>,
    /// Import the content of all platforms
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// The platform to import, such as linux/arm64; this machine's where none is given
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Do not unpack the images
    #[arg(long)]
    no_unpack: bool,
    /// Compress layers that are not (of what `docker save` writes)
    #[arg(long)]
    compress_blobs: bool,
    /// Let layers go once they are unpacked
    #[arg(long, conflicts_with = "no_unpack")]
    discard_unpacked_layers: bool,
    /// Pass over what the archive names but does not have
    #[arg(long)]
    skip_missing: bool,
    /// Labels of the images, key=value
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Read the archive here and not in the daemon
    #[arg(long)]
    local: bool,
    /// Accepted for scripts: what is unpacked is always synced
    #[arg(long, hide = true)]
    sync_fs: bool,
    #[command(flatten)]
    chosen: Chosen,
    /// The archive; - is the standard input
    #[arg(value_name = "IN")]
    input: String,
}

impl Import {
    pub(crate) async fn run(mut self, connection: &Connection) -> Result<()> {
        if self.platform.is_none() && !self.no_unpack {
            self.platform = Some(self.chosen.platform(connection).await?);
        }
        let display = Display::new();
        let saved = Saved::default();
        let outcome = self.import(connection, &display, &saved).await;
        outcome.inspect_err(|_| display.give_up())?;
        display.finish();
        let saved = saved.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, digest) in &*saved {
            say!("imported {name} ({digest})");
        }
        if saved.is_empty() {
            eprintln!("ctr: no image of the archive has a name: try --base-name or --digests");
        }
        Ok(())
    }

    async fn import(
        &self,
        connection: &Connection,
        display: &Arc<Display>,
        saved: &Saved,
    ) -> Result<()> {
        let source = read(&self.input)?;
        if self.local || self.discard_unpacked_layers || self.skip_missing {
            return self.by_ourselves(connection, source, display, saved).await;
        }
        let (progress, watching) = display.watch();
        let unpack = self.unpack().into_iter().map(|it| (it.snapshotter, it.platform)).collect();
        let imported = Imported {
            names: self.names(),
            platforms: self.platforms(),
            unpack,
            compress: self.compress_blobs,
            labels: labels::parse(&self.label),
            progress: saved.listen(progress),
        };
        let outcome = transfer::import(connection.peer().await?, source, imported).await;
        watching.end().await;
        match outcome {
            // Before containerd 1.7, daemons knew no transfers.
            Err(error) if error.kind() == Kind::Unimplemented && self.input != "-" => {
                self.by_ourselves(connection, read(&self.input)?, display, saved).await
            }
            Err(error) if error.kind() == Kind::Unimplemented => {
                Err(error.context("this daemon imports nothing: give --local"))
            }
            outcome => outcome,
        }
    }

    async fn by_ourselves(
        &self,
        connection: &Connection,
        source: Bytestream,
        display: &Arc<Display>,
        saved: &Saved,
    ) -> Result<()> {
        let import = client::Import {
            names: self.names(),
            platforms: self.platforms(),
            unpack: self.unpack(),
            manifest_limit: 0,
            discard_layers: self.discard_unpacked_layers,
            skip_missing: self.skip_missing,
            compress: self.compress_blobs,
            labels: labels::parse(&self.label),
            progress: saved.listen(Arc::<Display>::clone(display)),
        };
        connection.client().await?.import(source, &import).await.map(drop)
    }

    fn names(&self) -> Vec<NameRule> {
        let generated = || format!("import-{}", &units::time(SystemTime::now())[..10]);
        let prefix = NameRule {
            name: self.base_name.clone().unwrap_or_else(generated),
            is_prefix: true,
            allow_overwrite: self.base_name.is_none(),
            add_digest: self.digests,
            skip_named_digest: self.skip_digest_for_named,
        };
        let index = |name: &String| NameRule { name: name.clone(), ..NameRule::default() };
        self.index_name.iter().map(index).chain([prefix]).collect()
    }

    fn wanted(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }

    fn platforms(&self) -> Vec<Platform> {
        if self.all_platforms { Vec::new() } else { vec![self.wanted()] }
    }

    fn unpack(&self) -> Vec<Unpack> {
        let (snapshotter, platform) = (self.chosen.name().to_owned(), self.wanted());
        let unpack = Unpack { snapshotter, platform, ..Unpack::default() };
        if self.no_unpack { Vec::new() } else { vec![unpack] }
    }
}

/// The images that were saved, as they are reported.
#[derive(Clone, Default)]
struct Saved(Arc<Mutex<Vec<(String, String)>>>);

impl Saved {
    fn listen(&self, then: Arc<dyn Progress>) -> Arc<dyn Progress> {
        let saved = self.clone();
        Arc::new(move |event: Event| {
            if let ("saved", Some(target)) = (&*event.event, &event.descriptor) {
                let image = (event.name.clone(), target.digest.to_string());
                saved.0.lock().unwrap_or_else(PoisonError::into_inner).push(image);
            }
            then.report(event);
        })
    }
}

/// Reads a file, or the standard input, on a thread of its own.
pub(super) fn read(input: &str) -> Result<Bytestream> {
    let mut source: Box<dyn Read + Send> = match input {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(fs_err::File::open(Path::new(path))?),
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let piece = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => {
                    chunk.truncate(length);
                    Ok(Bytes::from(chunk))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(Error::from(error)),
            };
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    let next = |mut receiver: mpsc::Receiver<Result<Bytes>>| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    };
    Ok(stream::unfold(receiver, next).boxed())
}
