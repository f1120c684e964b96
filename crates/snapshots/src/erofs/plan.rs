// SPDX-License-Identifier: Apache-2.0
//! The mounts of a snapshot, as containerd gives them (`plugins/snapshots/erofs/erofs.go`, `mounts`):
//! the order of mounts and of options is theirs, since mount managers and shims take them apart.
use std::{os::unix::fs::MetadataExt, path::Path};

use fs_err as fs;
use mount::Mount;
use types::{Context, Result};

use super::{blob, image, is_cached, upper, work};
use crate::{Kind, Layers};

/// Plans the mounts. `size` is that of the image which an active snapshot is written to, if it is one;
/// `shift` is how owners are shifted where there is an overlay.
pub(super) fn plan(
    layers: &Layers,
    size: Option<u64>,
    shift: &[String],
    options: &[String],
) -> Result<Vec<Mount>> {
    let own = &layers.directory;
    match (layers.kind, layers.parents.as_slice()) {
        // There is nothing to write: whoever unpacks sees that the layer is there.
        (Kind::Active, _) if is_cached(own) => Ok(vec![layer(own)?]),
        (Kind::Active, []) => size.map_or_else(
            || Ok(vec![bind(&upper(own), "rw")]),
            |size| Ok(vec![writable(own, size), bind_of_image(own)?]),
        ),
        (_, []) => Ok(vec![bind(&upper(own), "ro")]),
        (Kind::Active, parents) => {
            let mut mounts: Vec<_> = size.map(|size| writable(own, size)).into_iter().collect();
            let first = mounts.len();
            mounts.extend(lower(parents)?);
            let mut all = own_options(own, size)?;
            all.extend_from_slice(shift);
            all.push(lower_option(first, mounts.len()));
            all.extend_from_slice(options);
            mounts.push(overlay(all));
            Ok(mounts)
        }
        (_, [parent]) => Ok(vec![layer(parent)?]),
        (_, parents) => Ok(view(lower(parents)?, shift, options)),
    }
}

fn view(mut mounts: Vec<Mount>, shift: &[String], options: &[String]) -> Vec<Mount> {
    // One merged image is all there is: there is nothing to lay over each other.
    if mounts.len() == 1 {
        let bound = ["ro", "rbind"].map(str::to_owned);
        let options = shift.iter().cloned().chain(bound).collect();
        mounts.push(of("format/bind", "{{ mount 0 }}", options));
        return mounts;
    }
    let lower = [lower_option(0, mounts.len())];
    let all = shift.iter().cloned().chain(lower).chain(options.iter().cloned());
    mounts.push(overlay(all.collect()));
    mounts
}

/// Where an active snapshot with parents is written.
fn own_options(own: &Path, size: Option<u64>) -> Result<Vec<String>> {
    if size.is_none() {
        let (work, upper) = (work(own), upper(own));
        return Ok(vec![
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
        ]);
    }
    Ok(vec![
        make_upper(own)?,
        "X-containerd.mkdir.path={{ mount 0 }}/work:0755".to_owned(),
        "workdir={{ mount 0 }}/work".to_owned(),
        "upperdir={{ mount 0 }}/upper".to_owned(),
    ])
}

/// The root of a layer takes after that of its parent, which is remembered beside the image.
fn make_upper(own: &Path) -> Result<String> {
    let root = fs::metadata(upper(own)).context(|| "failed to stat upper directory")?;
    let mode = root.mode() & 0o7777;
    let owner = match (root.uid(), root.gid()) {
        (0, 0) => String::new(),
        (uid, gid) => format!(":{uid}:{gid}"),
    };
    Ok(format!("X-containerd.mkdir.path={{{{ mount 0 }}}}/upper:{mode:04o}{owner}"))
}

fn bind_of_image(own: &Path) -> Result<Mount> {
    let options = vec![make_upper(own)?, "rw".to_owned(), "rbind".to_owned()];
    Ok(of("format/mkdir/bind", "{{ mount 0 }}/upper", options))
}

fn writable(own: &Path, size: u64) -> Mount {
    let options = vec![
        "X-containerd.mkfs.fs=ext4".to_owned(),
        format!("X-containerd.mkfs.size={size}"),
        "rw".to_owned(),
        "loop".to_owned(),
    ];
    of("mkfs/ext4", &image(own).to_string_lossy(), options)
}

/// The layers below, the topmost first. One that has been merged with all below it, by a tool that
/// does that, ends them.
fn lower(parents: &[std::path::PathBuf]) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (at, parent) in parents.iter().enumerate() {
        if let Some(merged) = merged(&parents[at..]) {
            mounts.push(merged);
            break;
        }
        mounts.push(layer(parent)?);
    }
    Ok(mounts)
}

fn merged(parents: &[std::path::PathBuf]) -> Option<Mount> {
    let meta = parents.first()?.join("fsmeta.erofs");
    fs::metadata(&meta).ok().filter(|found| found.len() > 0)?;
    let devices = parents.iter().rev().map(|parent| format!("device={}", blob(parent).display()));
    let options = ["ro".to_owned(), "loop".to_owned()].into_iter().chain(devices).collect();
    Some(of("erofs", &meta.to_string_lossy(), options))
}

fn layer(directory: &Path) -> Result<Mount> {
    let blob = blob(directory);
    fs::metadata(&blob).context(|| "failed to find valid erofs layer blob")?;
    Ok(of("erofs", &blob.to_string_lossy(), vec!["ro".to_owned(), "loop".to_owned()]))
}

/// Names the mounts from `first` up to `end`.
fn lower_option(first: usize, end: usize) -> String {
    match end - first {
        1 => format!("lowerdir={{{{ mount {first} }}}}"),
        _ => format!("lowerdir={{{{ overlay {first} {} }}}}", end - 1),
    }
}

fn overlay(options: Vec<String>) -> Mount {
    of("format/mkdir/overlay", "overlay", options)
}

fn bind(directory: &Path, access: &str) -> Mount {
    Mount::bind(directory.to_string_lossy(), [access, "rbind"])
}

fn of(kind: &str, source: &str, options: Vec<String>) -> Mount {
    Mount { kind: kind.to_owned(), source: source.to_owned(), target: String::new(), options }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use types::Labels;

    use super::*;

    /// Plans for snapshot 9 over `parents`, in a directory that the outcome calls `/s`.
    fn plan_of(kind: Kind, parents: &[&str], size: Option<u64>, more: &[&str]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in parents.iter().chain(&["9"]) {
            fs::create_dir_all(path(name).join("fs")).unwrap();
            fs::write(path(name).join("layer.erofs"), "x").unwrap();
        }
        for name in more {
            fs::write(path(name), "x").unwrap();
        }
        let parents: Vec<PathBuf> = parents.iter().map(|name| path(name)).collect();
        let layers = Layers { kind, directory: path("9"), parents, labels: Labels::new() };
        let root = root.path().to_string_lossy().into_owned();
        let planned = plan(&layers, size, &[], &["xino=off".to_owned()]).unwrap();
        planned.iter().map(|mount| mount.to_string().replace(&root, "/s")).collect()
    }

    #[test]
    fn without_parents_there_is_one_directory() {
        assert_eq!(plan_of(Kind::Active, &[], None, &[]), ["bind /s/9/fs rw,rbind"]);
        assert_eq!(plan_of(Kind::View, &[], None, &[]), ["bind /s/9/fs ro,rbind"]);
    }

    #[test]
    fn a_view_of_one_layer_is_its_image() {
        assert_eq!(plan_of(Kind::View, &["1"], None, &[]), ["erofs /s/1/layer.erofs ro,loop"]);
    }

    #[test]
    fn images_are_mounted_before_what_is_laid_over_them() {
        let want = [
            "erofs /s/2/layer.erofs ro,loop",
            "erofs /s/1/layer.erofs ro,loop",
            "format/mkdir/overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir={{ overlay 0 1 }},xino=off",
        ];
        assert_eq!(plan_of(Kind::Active, &["2", "1"], None, &[]), want);
        let want = "format/mkdir/overlay overlay lowerdir={{ overlay 0 1 }},xino=off";
        assert_eq!(plan_of(Kind::View, &["2", "1"], None, &[])[2], want);
        let want = "format/mkdir/overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir={{ mount 0 }},xino=off";
        assert_eq!(plan_of(Kind::Active, &["1"], None, &[])[1], want);
    }

    #[test]
    fn a_limited_snapshot_is_written_to_an_image() {
        let image = "mkfs/ext4 /s/9/rwlayer.img X-containerd.mkfs.fs=ext4,X-containerd.mkfs.size=4096,rw,loop";
        let want = [
            image,
            "format/mkdir/bind {{ mount 0 }}/upper X-containerd.mkdir.path={{ mount 0 }}/upper:0755,rw,rbind",
        ];
        assert_eq!(plan_of(Kind::Active, &[], Some(4096), &[]), want);
        let want = [
            image,
            "erofs /s/1/layer.erofs ro,loop",
            "format/mkdir/overlay overlay X-containerd.mkdir.path={{ mount 0 }}/upper:0755,X-containerd.mkdir.path={{ mount 0 }}/work:0755,workdir={{ mount 0 }}/work,upperdir={{ mount 0 }}/upper,lowerdir={{ mount 1 }},xino=off",
        ];
        assert_eq!(plan_of(Kind::Active, &["1"], Some(4096), &[]), want);
    }

    #[test]
    fn a_merged_image_stands_for_all_layers_below_it() {
        let want = [
            "erofs /s/3/layer.erofs ro,loop",
            "erofs /s/2/fsmeta.erofs ro,loop,device=/s/1/layer.erofs,device=/s/2/layer.erofs",
            "format/mkdir/overlay overlay lowerdir={{ overlay 0 1 }},xino=off",
        ];
        assert_eq!(plan_of(Kind::View, &["3", "2", "1"], None, &["2/fsmeta.erofs"]), want);
        let want = "format/bind {{ mount 0 }} ro,rbind";
        assert_eq!(plan_of(Kind::View, &["2", "1"], None, &["2/fsmeta.erofs"])[1], want);
    }

    #[test]
    fn overlays_shift_owners() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in ["1", "2", "9"] {
            fs::create_dir_all(path(name).join("fs")).unwrap();
            fs::write(path(name).join("layer.erofs"), "x").unwrap();
        }
        let shift = ["uidmap=0:1:2", "gidmap=0:3:4"].map(str::to_owned);
        let parents = vec![path("2"), path("1")];
        for kind in [Kind::Active, Kind::View] {
            let (directory, parents) = (path("9"), parents.clone());
            let layers = Layers { kind, directory, parents, labels: Labels::new() };
            let overlay = plan(&layers, None, &shift, &[]).unwrap().pop().unwrap();
            let at = |option: &str| overlay.options.iter().position(|it| it.starts_with(option));
            assert!(at("uidmap=0:1:2") < at("lowerdir=") && at("gidmap=0:3:4").is_some());
        }
    }

    #[test]
    fn a_layer_without_an_image_is_told() {
        let layers = Layers {
            kind: Kind::View,
            directory: "/s/9".into(),
            parents: vec!["/s/1".into()],
            labels: Labels::new(),
        };
        let error = plan(&layers, None, &[], &[]).unwrap_err();
        assert!(error.to_string().starts_with("failed to find valid erofs layer blob"), "{error}");
    }
}
