// SPDX-License-Identifier: Apache-2.0
//! What is run from a snapshotter where nobody says which platform.
//!
//! A snapshotter that tells of features of its own, as `erofs` does, is given images that are made
//! for them: `linux(+erofs)/amd64` before `linux/amd64`.
use ::client::Client;
use ::types::{Descriptor, Filters, Platform, Result, platform::Matcher};
use services::introspection;

use super::{Chosen, DEFAULT};
use crate::connection::Connection;

/// The snapshotters that have no layer but what they are given.
const LOCAL: [&str; 8] =
    ["overlayfs", "native", "btrfs", "erofs", "blockfile", "devmapper", "zfs", "fuse-overlayfs"];

impl Chosen {
    /// Whether it may have layers without being given them, as those that fetch them when they are
    /// read.
    pub(crate) fn may_bring_layers(&self) -> bool {
        !LOCAL.contains(&self.name())
    }

    /// This machine, with what the snapshotter is able to besides.
    pub(crate) async fn platform(&self, connection: &Connection) -> Result<Platform> {
        let host = Platform::host();
        if self.name() == DEFAULT {
            return Ok(host);
        }
        let filter = format!("type==io.containerd.snapshotter.v1,id=={:?}", self.name());
        let filters = Filters::parse([filter])?;
        let plugins = introspection::plugins(connection.peer().await?, &filters).await?;
        let told = plugins.into_iter().flat_map(|plugin| plugin.platforms);
        let ours = told.filter(|it| (&it.os, &it.architecture) == (&host.os, &host.architecture));
        let features = ours.flat_map(|it| it.os_features);
        Ok(features.fold(host.clone(), |host, feature| host.with_feature(&feature)))
    }

    /// The same for an image that is here: of one that was fetched for this machine as it is, what is
    /// made for the snapshotter is not.
    pub(crate) async fn platform_of(
        &self,
        connection: &Connection,
        client: &Client,
        image: &Descriptor,
    ) -> Result<Platform> {
        let able = self.platform(connection).await?;
        if able.os_features.is_empty() {
            return Ok(able);
        }
        let checked = ::images::check(&*client.content, image, &Matcher::only(&able)).await;
        let is_here = match checked {
            Ok(checked) if checked.missing.is_empty() => true,
            _ => client.is_unpacked(image, self.name(), &able).await.unwrap_or(false),
        };
        Ok(if is_here { able } else { Platform::host() })
    }
}
