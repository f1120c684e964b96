// SPDX-License-Identifier: Apache-2.0
use std::path::PathBuf;

use clap::Args;
use types::{Context as _, Platform, Result, platform::Matcher};

use super::convert::imaging;
use crate::{connection::Connection, output::say};

/// Make erofs images of an image's layers, for the erofs snapshotter to mount.
#[derive(Debug, Args)]
#[command(
    after_help = "Each layer becomes <FOLDER>/<algorithm>/<first two digits>/<diff ID>.erofs.\n\
                        A snapshotter that reads the folder mounts them, and does not fetch the layers."
)]
pub(crate) struct BuildErofsCache {
    /// What is compressed inside of the images, such as lz4hc,9
    #[arg(long, value_name = "COMPRESSORS", default_value = "", hide_default_value = true)]
    compressors: String,
    /// Further options of mkfs.erofs, such as -Efragments,dedupe
    #[arg(long, value_name = "OPTIONS", default_value = "", hide_default_value = true)]
    #[arg(allow_hyphen_values = true)]
    mkfs_options: String,
    /// The platform of the layers
    #[arg(long, value_name = "PLATFORM", default_value_t = Platform::host())]
    platform: Platform,
    /// The image's name
    image: String,
    /// The folder
    folder: PathBuf,
}

impl BuildErofsCache {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let image = client.images.get(&self.image).await?;
        let wanted = Matcher::only(&self.platform);
        let how = imaging(&self.compressors, &self.mkfs_options);
        let folder = std::path::absolute(&self.folder)?;
        let made = ::images::cache(&*client.content, &image.target, &wanted, &folder, &how).await;
        let fetch = || format!("fetch the image's content first: ctr content fetch {}", image.name);
        match made {
            Err(error) if error.is_not_found() => Err(error).context(fetch)?,
            made => drop(made?),
        }
        say!("{}", self.folder.display());
        Ok(())
    }
}
