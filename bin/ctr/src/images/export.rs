// SPDX-License-Identifier: Apache-2.0
//! Images into an archive. The daemon makes it where it can; else it is made here, of blobs that are
//! read through the daemon's content service.
use std::{io::Write, path::Path, sync::Arc};

use bytes::Bytes;
use clap::Args;
use services::transfer;
use tokio::sync::mpsc;
use types::{Context, Kind, Platform, Result};

use crate::{connection::Connection, progress::Display};

/// How many pieces may wait.
const WAITING: usize = 4;

/// Export images into an archive.
#[derive(Debug, Args)]
#[command(after_help = "The archive is an OCI layout, with a manifest.json for Docker.\nWith \
                        --all-platforms everything that an index names has to be here.")]
pub(crate) struct Export {
    /// Leave out the manifest.json that Docker reads
    #[arg(long)]
    skip_manifest_json: bool,
    /// Leave out layers that are not to be handed on
    #[arg(long)]
    skip_non_distributable: bool,
    /// Platforms to export, such as linux/arm64; this machine's where none is given
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// Export the content of all platforms
    #[arg(long)]
    all_platforms: bool,
    /// Leave out what is not here
    #[arg(long)]
    skip_missing: bool,
    /// Make the archive here and not in the daemon
    #[arg(long)]
    local: bool,
    /// The archive; - is the standard output
    #[arg(value_name = "OUT")]
    output: String,
    /// The images
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,
}

impl Export {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let mut output = Output::create(&self.output)?;
        let display = (self.output != "-").then(Display::new);
        let outcome = self.export(connection, &mut output, display.as_ref()).await;
        let outcome = outcome.and_then(|()| output.finish());
        if let Some(display) = display {
            display.give_up();
        }
        outcome.inspect_err(|_| output.discard())
    }

    async fn export(
        &self,
        connection: &Connection,
        output: &mut Output,
        display: Option<&Arc<Display>>,
    ) -> Result<()> {
        if !self.local && !self.skip_missing {
            let outcome = self.by_daemon(connection, output, display).await;
            match outcome {
                // Before containerd 1.7, daemons knew no transfers.
                Err(error) if error.kind() == Kind::Unimplemented => {}
                outcome => return outcome,
            }
        }
        let client = connection.client().await?;
        let named = client.named(&self.references).await.context(|| "unable to get image")?;
        let what = self.what(named);
        let (sender, mut pieces) = mpsc::channel::<Bytes>(WAITING);
        let taking = async move {
            let mut taken = Ok(());
            while let (true, Some(piece)) = (taken.is_ok(), pieces.recv().await) {
                taken = output.write(&piece);
            }
            taken
        };
        let (made, taken) = tokio::join!(client.export(&what, sender), taking);
        taken.and(made)
    }

    async fn by_daemon(
        &self,
        connection: &Connection,
        output: &mut Output,
        display: Option<&Arc<Display>>,
    ) -> Result<()> {
        let images = connection.client().await?.named(&self.references).await?;
        let (progress, watching) = match display {
            Some(display) => {
                let (progress, watching) = display.watch();
                (progress, Some(watching))
            }
            None => (Arc::new(client::Silent) as Arc<dyn client::Progress>, None),
        };
        let take = |piece: Bytes| output.write(&piece);
        let outcome =
            transfer::export(connection.peer().await?, self.what(images), progress, take).await;
        if let Some(watching) = watching {
            watching.end().await;
        }
        outcome
    }

    fn what(&self, images: Vec<(Option<String>, types::Descriptor)>) -> ::images::archive::Export {
        ::images::archive::Export {
            images,
            platforms: self.platform.clone(),
            all_platforms: self.all_platforms,
            skip_docker_manifest: self.skip_manifest_json,
            skip_non_distributable: self.skip_non_distributable,
            skip_missing: self.skip_missing,
        }
    }
}

/// Where the archive goes: a file, or the standard output.
enum Output {
    File { file: fs_err::File, was_there: bool },
    Stdout,
}

impl Output {
    fn create(output: &str) -> Result<Self> {
        if output == "-" {
            return Ok(Self::Stdout);
        }
        let was_there = fs_err::symlink_metadata(Path::new(output)).is_ok();
        Ok(Self::File { file: fs_err::File::create(output)?, was_there })
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        match self {
            Self::File { file, .. } => Ok(file.write_all(piece)?),
            Self::Stdout => Ok(std::io::stdout().lock().write_all(piece)?),
        }
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            Self::File { file, .. } => Ok(file.flush()?),
            Self::Stdout => Ok(std::io::stdout().lock().flush()?),
        }
    }

    /// Removes half an archive, unless there was something before, such as a device.
    fn discard(&self) {
        if let Self::File { file, was_there: false } = self {
            // The error that led here tells more.
            drop(fs_err::remove_file(file.path()));
        }
    }
}
