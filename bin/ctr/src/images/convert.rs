// SPDX-License-Identifier: Apache-2.0
use clap::Args;
use types::{Platform, Result};

use crate::{connection::Connection, output::say};

/// Make an image otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Only what an image travels in is changed: what is unpacked stays the same.\n\
                        ctr images convert --oci --zstd example.com/app:1 example.com/app:1-zstd"
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
        let how = ::images::Convert { oci: self.oci, packing, platforms };
        let client = connection.client().await?;
        let image = client.convert(&self.source, &self.target, &how).await?;
        say!("{}", image.target.digest);
        Ok(())
    }
}
