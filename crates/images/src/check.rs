// SPDX-License-Identifier: Apache-2.0
use content::Store;
use snapshots::Snapshotter;
use types::{Context, Descriptor, Result, platform::Matcher};

use crate::{chain::chain_id, choose};

/// What is there of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Whether it is known what the image needs. If not, all that is `required` is the image itself.
    pub available: bool,
    /// What it needs: its config and its layers.
    pub required: Vec<Descriptor>,
    /// What of that is there.
    pub present: Vec<Descriptor>,
    /// What of that is not.
    pub missing: Vec<Descriptor>,
}

/// Tells what is there of the manifest of `image` that fits `wanted` best (containerd
/// `core/images/image.go`, `Check`).
pub async fn check(
    store: &(impl Store + ?Sized),
    image: &Descriptor,
    wanted: &Matcher,
) -> Result<Check> {
    let failed = |digest| move || format!("failed to check image {digest}");
    let manifest = match choose(store, image, wanted).await {
        Ok(chosen) => chosen.manifest,
        Err(error) if error.is_not_found() => {
            let it = vec![image.clone()];
            return Ok(Check { required: it.clone(), missing: it, ..Check::default() });
        }
        Err(error) => return Err(error).context(failed(&image.digest)),
    };
    let mut check = Check { available: true, ..Check::default() };
    check.required.push(manifest.config);
    check.required.extend(manifest.layers);
    for descriptor in &check.required {
        match store.info(&descriptor.digest).await {
            Ok(_) => check.present.push(descriptor.clone()),
            Err(error) if error.is_not_found() => check.missing.push(descriptor.clone()),
            Err(error) => return Err(error).context(failed(&descriptor.digest)),
        }
    }
    Ok(check)
}

/// Whether the manifest of `image` that fits `wanted` best has been unpacked. One without layers has.
pub async fn is_unpacked(
    store: &(impl Store + ?Sized),
    snapshotter: &(impl Snapshotter + ?Sized),
    image: &Descriptor,
    wanted: &Matcher,
) -> Result<bool> {
    let (_, config) = choose::config(store, image, wanted).await?;
    let Some(top) = chain_id(&config.root_fs.diff_ids) else { return Ok(true) };
    match snapshotter.stat(top.as_str()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
