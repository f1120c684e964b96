// SPDX-License-Identifier: Apache-2.0
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;
use client::{Files, Package as What};
use serde_json::{Map, Value, json};
use types::{Error, Platform, Result};

use super::import::read;
use crate::{connection::Connection, labels, output::say};

/// Make an image of files.
#[derive(Debug, Args)]
#[command(
    after_help = "With the same files and the same --source-date-epoch, the same image comes \
                        out.\nctr images package --directory rootfs --cmd /bin/sh example.com/app:1"
)]
pub(crate) struct Package {
    /// Make it of everything in this directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Make it of this tar archive, packed or not; - is the standard input
    #[arg(long, value_name = "FILE", conflicts_with = "directory")]
    archive: Option<String>,
    /// Make it of a container's image and what the container has changed
    #[arg(long, value_name = "ID", conflicts_with_all = ["directory", "archive"])]
    container: Option<String>,
    /// A word of the command's fixed part
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A word of the command's part that users replace
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// A variable of its environment, NAME=value
    #[arg(long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Where its command starts
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who runs it
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Labels of the image's config, key=value
    #[arg(long, value_name = "LABEL")]
    config_label: Vec<String>,
    /// Labels of the image here, key=value
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// What it runs on
    #[arg(long, value_name = "PLATFORM", default_value_t = Platform::host())]
    platform: Platform,
    /// The time that it is made at, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", hide_env_values = true)]
    source_date_epoch: Option<u64>,
    /// The image's name
    #[arg(value_name = "REF")]
    reference: String,
}

impl Package {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let files = self.files()?;
        let epoch =
            self.source_date_epoch.map(|it| SystemTime::UNIX_EPOCH + Duration::from_secs(it));
        let what = What {
            name: self.reference.clone(),
            platform: self.platform.clone(),
            run: self.run_config(),
            epoch,
            labels: labels::parse(&self.label),
        };
        let image = connection.client().await?.package(files, &what).await?;
        say!("{}", image.target.digest);
        Ok(())
    }

    fn files(&self) -> Result<Files> {
        match (&self.directory, &self.archive, &self.container) {
            // The daemon has to find it, too.
            (Some(path), ..) => Ok(Files::Directory(fs_err::canonicalize(path)?)),
            (_, Some(archive), _) => Ok(Files::Archive(read(archive)?)),
            (.., Some(id)) => Ok(Files::Container(id.clone())),
            _ => Err(Error::invalid("of what? give --directory, --archive or --container")),
        }
    }

    /// What was said of its containers, in the words of an image config.
    fn run_config(&self) -> Map<String, Value> {
        let mut run = Map::new();
        let lists = [("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd), ("Env", &self.env)];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            run.insert(key.to_owned(), json!(list));
        }
        let texts = [("WorkingDir", &self.workdir), ("User", &self.user)];
        for (key, text) in texts.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?))) {
            run.insert(key.to_owned(), json!(text));
        }
        if !self.config_label.is_empty() {
            run.insert("Labels".to_owned(), json!(labels::parse(&self.config_label)));
        }
        run
    }
}
