// SPDX-License-Identifier: Apache-2.0
//! The snapshotters, and what the config may tell them: keys and defaults are those of containerd's
//! `plugins/snapshots/*/plugin`. One that cannot work on its directory is listed with the reason.
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde::Deserialize;
use snapshots::{
    Blockfile, BlockfileOptions, Btrfs, Capability, Erofs, ErofsOptions, Native, Options, Overlay,
    Snapshotter,
};
use types::{Error, Kind, Result};

use super::kinds::SNAPSHOTTER;
use crate::{
    Config,
    proxies::Proxies,
    registry::{Part, Registry},
};

pub(super) fn add(registry: &mut Registry) {
    registry.add::<dyn Snapshotter>(SNAPSHOTTER, "overlayfs", overlayfs);
    registry.add::<dyn Snapshotter>(SNAPSHOTTER, "native", native);
    registry.add::<dyn Snapshotter>(SNAPSHOTTER, "btrfs", btrfs);
    registry.add::<dyn Snapshotter>(SNAPSHOTTER, "erofs", erofs);
    registry.add::<dyn Snapshotter>(SNAPSHOTTER, "blockfile", blockfile);
}

/// Tells what the snapshotter can do.
fn told(part: &Part<'_>, snapshotter: impl Snapshotter) -> Arc<dyn Snapshotter> {
    part.capabilities(snapshotter.capabilities().iter().copied().map(Capability::name));
    Arc::new(snapshotter)
}

/// Compat: `ctr plugins list` tells what cannot work here from what is broken by these words
/// (containerd `plugins/snapshots/*/plugin`, `cmd/ctr/commands/plugins`).
fn skipped(error: Error) -> Error {
    if error.kind() != Kind::FailedPrecondition {
        return error;
    }
    let reason = error.to_string();
    let class = format!(": {}", error.kind().text());
    let reason = reason.strip_suffix(&class).unwrap_or(&reason);
    Error::said(Kind::Unknown, format!("{reason}: skip plugin"))
}

fn root(part: &Part<'_>, root_path: &str) -> PathBuf {
    if root_path.is_empty() { part.root() } else { part.root_at(root_path) }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OverlaySection {
    root_path: String,
    upperdir_label: bool,
    sync_remove: bool,
    slow_chown: bool,
    mount_options: Vec<String>,
}

fn overlayfs(part: &Part<'_>) -> Result<Arc<dyn Snapshotter>> {
    let section: OverlaySection = part.section()?;
    let options = Options {
        async_remove: !section.sync_remove,
        upperdir_label: section.upperdir_label,
        slow_chown: section.slow_chown,
        mount_options: section.mount_options,
    };
    Ok(told(part, Overlay::open(root(part, &section.root_path), options)?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootSection {
    root_path: String,
}

fn native(part: &Part<'_>) -> Result<Arc<dyn Snapshotter>> {
    let section: RootSection = part.section()?;
    Ok(told(part, Native::open(root(part, &section.root_path))?))
}

fn btrfs(part: &Part<'_>) -> Result<Arc<dyn Snapshotter>> {
    let section: RootSection = part.section()?;
    Ok(told(part, Btrfs::open(root(part, &section.root_path)).map_err(skipped)?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErofsSection {
    root_path: String,
    ovl_mount_options: Vec<String>,
    enable_fsverity: bool,
    set_immutable: bool,
    default_size: String,
    dmverity_mode: String,
    layer_content_cache: String,
}

fn erofs(part: &Part<'_>) -> Result<Arc<dyn Snapshotter>> {
    let section: ErofsSection = part.section()?;
    match section.dmverity_mode.as_str() {
        "" | "auto" | "off" => {}
        "on" => {
            let text = "dmverity_mode is 'on' but dm-verity is not supported on this system";
            return Err(Error::failed_precondition(text));
        }
        other => {
            let text =
                format!(r#"invalid dmverity_mode {other:?}: must be "auto", "on", or "off""#);
            return Err(Error::invalid(text));
        }
    }
    let options = ErofsOptions {
        overlay_options: section.ovl_mount_options,
        default_size: size(&section.default_size)?,
        set_immutable: section.set_immutable,
        layer_content_cache: given_path(&section.layer_content_cache)?,
        enable_fsverity: section.enable_fsverity,
    };
    let erofs = Erofs::open(root(part, &section.root_path), options)?;
    // Layers that are images already are mounted as they came.
    part.os_features(["erofs"]);
    Ok(told(part, erofs))
}

/// Links to what is in the folder are kept for long.
fn given_path(path: &str) -> Result<Option<PathBuf>> {
    match path {
        "" => Ok(None),
        path if path.starts_with('/') => Ok(Some(path.into())),
        _ => Err(Error::invalid(format!("layer_content_cache {path:?}: not an absolute path"))),
    }
}

/// The snapshotters that may have layers without being given them.
pub(crate) fn bringing_layers(config: &Config, proxies: &Proxies) -> Result<BTreeSet<String>> {
    let erofs: ErofsSection = config.section(&format!("{SNAPSHOTTER}.erofs"))?;
    let cached = (!erofs.layer_content_cache.is_empty()).then(|| "erofs".to_owned());
    Ok(proxies.snapshotters.keys().cloned().chain(cached).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlockfileSection {
    root_path: String,
    scratch_file: String,
    fs_type: String,
    mount_options: Vec<String>,
    recreate_scratch: bool,
}

fn blockfile(part: &Part<'_>) -> Result<Arc<dyn Snapshotter>> {
    let section: BlockfileSection = part.section()?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let options = BlockfileOptions {
        scratch_file: given(section.scratch_file).map(PathBuf::from),
        fs_type: given(section.fs_type),
        mount_options: section.mount_options,
        recreate_scratch: section.recreate_scratch,
    };
    Ok(told(part, Blockfile::open(root(part, &section.root_path), options).map_err(skipped)?))
}

/// A size as people write it, in units of 1024: `20GiB`, `512m`, `1.5 GB`, `4096`. None is 0 (docker
/// `go-units`, `RAMInBytes`).
fn size(text: &str) -> Result<u64> {
    let invalid = || Error::invalid(format!("invalid size: '{text}'"));
    let end = text.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
    let (number, unit) = text.split_at(end);
    if text.is_empty() {
        return Ok(0);
    }
    let number: f64 = number.parse().ok().filter(|it| *it >= 0.0).ok_or_else(invalid)?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match letter {
        "" if unit.len() < 2 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    Ok((number * 1024_f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use services::introspection::Plugin;

    use super::*;
    use crate::Config;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, want) in [
            ("", 0),
            ("4096", 4096),
            ("10b", 10),
            ("512m", 512 << 20),
            ("20GiB", 20 << 30),
            ("1.5 GB", 3 << 29),
            ("2T", 2 << 40),
        ] {
            assert_eq!(size(text).unwrap(), want, "{text}");
        }
        for text in ["x", "GiB", "-1", "1x", "1 gg", "1ib"] {
            assert_eq!(size(text).unwrap_err().kind(), Kind::InvalidArgument, "{text}");
        }
    }

    fn listed(config: &str, root: &std::path::Path) -> Vec<Plugin> {
        let text = format!("version = 3\nroot = {:?}\n{config}", root.display().to_string());
        let mut registry = Registry::new(Config::parse(&text).unwrap().0);
        add(&mut registry);
        registry.inspect()
    }

    fn fault<'a>(plugins: &'a [Plugin], id: &str) -> &'a str {
        let plugin = plugins.iter().find(|plugin| plugin.id == id).unwrap();
        plugin.fault.as_ref().map_or("", |fault| &fault.1)
    }

    #[test]
    fn what_cannot_work_here_is_listed_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let plugins = listed("", root.path());
        assert_eq!(fault(&plugins, "native"), "");
        let blockfile = fault(&plugins, "blockfile");
        assert_eq!(blockfile, "no scratch file generator: scratch_file is not set: skip plugin");
        let btrfs = fault(&plugins, "btrfs");
        let is_skipped = btrfs.ends_with("used with the btrfs snapshotter: skip plugin");
        assert!(btrfs.is_empty() || is_skipped, "{btrfs}");
    }

    #[test]
    fn what_the_config_says_wrongly_is_told() {
        let root = tempfile::tempdir().unwrap();
        let section = "[plugins.\"io.containerd.snapshotter.v1.erofs\"]\n";
        for (line, want) in [
            ("default_size = \"big\"", "invalid size: 'big'"),
            ("dmverity_mode = \"perhaps\"", "invalid dmverity_mode"),
            ("dmverity_mode = \"on\"", "dm-verity is not supported on this system"),
        ] {
            let plugins = listed(&format!("{section}{line}"), root.path());
            let said = fault(&plugins, "erofs");
            assert!(said.contains(want), "{said}");
        }
    }
}
