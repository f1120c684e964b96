// SPDX-License-Identifier: Apache-2.0
//! The images that are pulled while the power is cut, and what is in them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::image::{Packed, digest, noise};
use crate::{Image, Layer, Outcome, Registry, Tar};

/// How many images are pulled and deleted, beside the one that stays.
const PASSING: u64 = 4;

/// The images, the first of which stays throughout, and the registry that has them.
#[derive(Debug)]
pub(super) struct Goods {
    images: Vec<Good>,
    _registry: Registry,
}

/// An image whose every file is known.
#[derive(Debug)]
pub(super) struct Good {
    pub(super) reference: String,
    pub(super) packed: Packed,
    /// The names of its layers' snapshots, the lowest first (OCI image spec, config.md, "Layer `ChainID`").
    pub(super) chain: Vec<String>,
    /// What is below `goods` in each of those.
    pub(super) trees: Vec<Tree>,
}

/// Paths, and what is there.
pub(super) type Tree = BTreeMap<String, Entry>;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    File(String),
    Link(String),
    Directory,
}

impl Goods {
    /// Makes the images and stores them in a registry.
    pub(super) fn stock(registry: Registry) -> Outcome<Self> {
        let made: Outcome<Vec<Good>> = (0..=PASSING).map(|n| Good::new(n, &registry)).collect();
        Ok(Self { images: made?, _registry: registry })
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Good] {
        &self.images
    }

    /// The one that stays.
    pub(super) fn lasting(&self) -> &Good {
        &self.images[0]
    }
}

impl Good {
    fn new(number: u64, registry: &Registry) -> Outcome<Self> {
        // Some share their lower layer, so that one's garbage is the other's parent.
        let seeds = [number % 2 + 1, number + 10, number + 20];
        let mut image = if number == 0 { Image::busybox()? } else { Image::new(Vec::new()) };
        let mut trees = vec![Tree::new(); usize::from(number == 0)];
        for (depth, seed) in seeds.into_iter().enumerate() {
            let mut tree = trees.last().cloned().unwrap_or_default();
            let tar = layer(depth, seed, &mut tree);
            image = image.with(Layer::new(tar));
            trees.push(tree);
        }
        let chain = chain(&image, trees.len())?;
        let packed = image.pack()?;
        let reference = registry.push(&packed, &format!("power/cut{number}:1"))?;
        Ok(Self { reference, packed, chain, trees })
    }

    /// The name of the snapshot that has all of it.
    pub(super) fn top(&self) -> &str {
        self.chain.last().map(String::as_str).unwrap_or_default()
    }
}

/// A layer of many small files, a large one, links, and a file less than below.
fn layer(depth: usize, seed: u64, tree: &mut Tree) -> Tar {
    let dir = format!("goods/layer{depth}");
    let mut tar = Tar::new().dir("goods", 0o755).dir(&dir, 0o755);
    tree.insert("goods".into(), Entry::Directory);
    tree.insert(dir.clone(), Entry::Directory);
    for (number, size) in (0..40).map(|n| (n, n * 389)).chain([(40, 700_000)]) {
        let path = format!("{dir}/file{number}");
        let bytes = noise(size, seed * 1000 + number as u64);
        tree.insert(path.clone(), Entry::File(digest(&bytes)));
        tar = tar.file(&path, 0o644, &bytes);
    }
    let (first, twin, link) =
        (format!("{dir}/file7"), format!("{dir}/twin"), format!("{dir}/link"));
    tree.insert(twin.clone(), tree[&first].clone());
    tree.insert(link.clone(), Entry::Link("file7".into()));
    tar = tar.hardlink(&twin, &first, 0o644).symlink(&link, "file7");
    if let Some(below) = depth.checked_sub(1) {
        let gone = format!("goods/layer{below}/file3");
        tree.remove(&gone);
        tar = tar.dir(&format!("goods/layer{below}"), 0o755).whiteout(&gone);
    }
    tar
}

fn chain(image: &Image, layers: usize) -> Outcome<Vec<String>> {
    let mut chain: Vec<String> = Vec::new();
    for layer in 0..layers {
        let own = digest(image.archive(layer)?);
        chain.push(match chain.last() {
            None => own,
            Some(below) => digest(format!("{below} {own}").as_bytes()),
        });
    }
    Ok(chain)
}

/// What is below `goods` in a directory.
pub(super) fn tree(root: &Path) -> Outcome<Tree> {
    let mut tree = Tree::new();
    if root.join("goods").exists() {
        walk(root, "goods", &mut tree)?;
    }
    Ok(tree)
}

fn walk(root: &Path, path: &str, tree: &mut Tree) -> Outcome {
    let full = root.join(path);
    let kind = fs_err::symlink_metadata(&full)?.file_type();
    let entry = if kind.is_dir() {
        for child in fs_err::read_dir(&full)? {
            let name = child?.file_name();
            walk(root, &format!("{path}/{}", name.to_string_lossy()), tree)?;
        }
        Entry::Directory
    } else if kind.is_symlink() {
        Entry::Link(fs_err::read_link(&full)?.to_string_lossy().into_owned())
    } else {
        Entry::File(digest_of(&full)?)
    };
    tree.insert(path.to_owned(), entry);
    Ok(())
}

/// The digest of a file's bytes.
pub(super) fn digest_of(path: &Path) -> Outcome<String> {
    Ok(digest(&fs_err::read(path)?))
}

/// Where two trees differ, in words; at most a few.
pub(super) fn differences(want: &Tree, have: &Tree) -> Vec<String> {
    let missing = want.iter().filter(|(path, entry)| have.get(*path) != Some(entry));
    let missing = missing.map(|(path, _)| match have.get(path) {
        None => format!("{path} is missing"),
        Some(_) => format!("{path} has other bytes"),
    });
    let extra = have.keys().filter(|path| !want.contains_key(*path));
    let extra = extra.map(|path| format!("{path} should not be there"));
    missing.chain(extra).collect()
}
