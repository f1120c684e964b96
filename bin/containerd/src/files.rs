// SPDX-License-Identifier: Apache-2.0
//! Blobs as open files, on a socket beside gRPC's: `docs/decisions/0006-blobs-as-open-files.md`.
use std::path::{Path, PathBuf};

use metadata::Db;
use services::{content, introspection::Plugin};
use tokio::task::JoinSet;
use types::{Kind, Scope};

use crate::{Config, listeners::listen};

/// What it is called among the plugins, and in `disabled_plugins`.
pub(crate) const SECTION: &str = "io.containerd.grpc.v1.content-files";

/// Hands them out until the set is dropped, to those who may open gRPC's socket. Clients can do
/// without: what goes wrong here is no reason not to serve the rest.
pub(crate) async fn hand_out(config: &Config, db: Db) -> JoinSet<()> {
    let mut serving = JoinSet::new();
    if config.is_disabled(SECTION) {
        return serving;
    }
    match listen(&address(config).to_string_lossy(), &config.grpc).await {
        Ok(listener) => {
            let find = move |scope: &Scope| Ok(db.scope(scope.clone()).content());
            serving.spawn(content::serve_files(listener, find));
        }
        Err(error) => tracing::warn!(%error, "content is not handed out as files"),
    }
    serving
}

/// Says where they are to be had, or that they are not.
pub(crate) fn describe(plugin: &mut Plugin, config: &Config) {
    if config.is_disabled(SECTION) {
        let what = format!("{SECTION} is disabled by the config");
        plugin.fault = Some((Kind::Unimplemented, what));
        return;
    }
    plugin.exports.insert("address".to_owned(), address(config).display().to_string());
}

fn address(config: &Config) -> PathBuf {
    content::files_address(Path::new(&config.grpc.address))
}
