// SPDX-License-Identifier: Apache-2.0
use clap::{Args, ValueEnum};
use types::{Platform, Result};

use crate::{connection::Connection, output::say};

/// Make an image otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Only what an image travels in is changed: what is unpacked stays the same, but for \
                        erofs.\n\
                        ctr images convert --oci --zstd example.com/app:1 example.com/app:1-zstd\n\
                        ctr images convert --erofs raw --append-to-index example.com/app:1 example.com/app:2"
)]
pub(crate) struct Convert {
    /// Turn Docker's media types into OCI's
    #[arg(long)]
    oci: bool,
    /// Inflate layers
    #[arg(long, conflicts_with_all = ["zstd", "gzip"])]
    uncompress: bool,
    /// Pack layers with zstd
    #[arg(long, conflicts_with = "gzip")]
    zstd: bool,
    /// Pack layers with gzip
    #[arg(long)]
    gzip: bool,
    /// Make layers into erofs images that are mounted as they are: raw, or packed with zstd
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["uncompress", "zstd", "gzip"])]
    erofs: Option<Format>,
    /// What is compressed inside of erofs images, such as lz4hc,9
    #[arg(long, value_name = "COMPRESSORS", requires = "erofs", default_value = "")]
    #[arg(hide_default_value = true)]
    erofs_compressors: String,
    /// Further options of mkfs.erofs, such as -Efragments,dedupe
    #[arg(long, value_name = "OPTIONS", requires = "erofs", default_value = "")]
    #[arg(hide_default_value = true, allow_hyphen_values = true)]
    erofs_mkfs_options: String,
    /// Keep the image as it is, and add what it becomes: a host takes what suits it best
    #[arg(long, requires = "erofs")]
    append_to_index: bool,
    /// Platforms to keep, such as linux/arm64; this machine's where none is given
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// Keep all platforms
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// The image's name
    source: String,
    /// The name of what it becomes
    target: String,
}

/// How an erofs image is stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Raw,
    Zstd,
}

/// How erofs images are made.
pub(super) fn imaging(compressors: &str, mkfs_options: &str) -> diff::Imaging {
    diff::Imaging {
        compressors: compressors.to_owned(),
        mkfs_options: mkfs_options.split_whitespace().map(str::to_owned).collect(),
    }
}

impl Convert {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let packing = match (self.uncompress, self.zstd, self.gzip) {
            (true, ..) => Some(diff::Packing::Plain),
            (_, true, _) => Some(diff::Packing::Zstd),
            (.., true) => Some(diff::Packing::Gzip),
            _ => None,
        };
        let platforms = match self.all_platforms {
            true => Vec::new(),
            false if self.platform.is_empty() => vec![Platform::host()],
            false => self.platform,
        };
        let native = self.erofs.map(|format| ::images::Native {
            imaging: imaging(&self.erofs_compressors, &self.erofs_mkfs_options),
            is_zstd: matches!(format, Format::Zstd),
            scratch: std::env::temp_dir(),
        });
        let append = self.append_to_index;
        let how = ::images::Convert { oci: self.oci, packing, native, append, platforms };
        let client = connection.client().await?;
        let image = client.convert(&self.source, &self.target, &how).await?;
        say!("{}", image.target.digest);
        Ok(())
    }
}
