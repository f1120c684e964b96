// SPDX-License-Identifier: Apache-2.0
//! Layers that are images of the erofs filesystem, mounted as they are.
//!
//! ```text
//! native blob, +zstd --inflate, hash--> <snapshot>/layer.erofs
//! tar, any compression --inflate, hash--> mkfs.erofs --tar=f --> <snapshot>/layer.erofs
//! <snapshot>/fs --mkfs.erofs--> native blob
//! ```
//!
//! Only snapshots of the erofs snapshotter are its business, which it tells by `.erofslayer` beside
//! them; everything else is another differ's (containerd `plugins/diff/erofs`,
//! `internal/erofsutils`). An [`Imager`] makes native layers of archives, without any snapshotter.
mod imager;
mod mkfs;

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use self::mkfs::{PROGRAM, image_of, takes_tar, uuid};
use async_trait::async_trait;
use bytes::Bytes;
use content::{Expected, Store};
use fs_err as fs;
use mount::Mount;
use tokio::task::spawn_blocking;
use types::{
    Algorithm, Context, Descriptor, Digest, Error, Hasher, Kind, Result, labels, media_types,
};

use crate::{Apply, Compare, Differ, inflate::Inflate, media, walking::unique_reference};

/// What the snapshotter expects to find when a snapshot is committed.
const IMAGE: &str = "layer.erofs";

/// What it is called until it is whole.
const UNFINISHED: &str = "layer.erofs.part";

/// What the snapshotter marks its snapshots with.
const MARK: &str = ".erofslayer";

/// Where the superblock is, and what it begins with (Linux `fs/erofs/erofs_fs.h`).
const SUPERBLOCK: u64 = 1024;
const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];

/// How much is moved at a time.
const BUFFER: usize = 256 * 1024;

pub use self::imager::{Imager, Imaging};
pub use types::media_types::EROFS_LAYER;

/// Applies native layers and, where `mkfs.erofs` can, tar layers to snapshots of the erofs
/// snapshotter; makes native layers of them.
pub struct Erofs {
    store: Arc<dyn Store>,
    mkfs_options: Vec<String>,
}

impl Erofs {
    /// Reads and writes layers in `store`; `mkfs_options` go to `mkfs.erofs`, such as `-zlz4hc`.
    pub fn new(store: Arc<dyn Store>, mkfs_options: Vec<String>) -> Self {
        Self { store, mkfs_options }
    }
}

#[async_trait]
impl Differ for Erofs {
    async fn apply(
        &self,
        descriptor: &Descriptor,
        mounts: &[Mount],
        _options: Apply,
    ) -> Result<Descriptor> {
        let way = Way::of(&descriptor.media_type)?;
        let directory = layer_of(mounts)?;
        if mounts.last().is_some_and(Mount::is_read_only) {
            return Err(Error::failed_precondition(
                "cannot apply to a read-only snapshot, its content is already populated",
            ));
        }
        let reader = self.store.reader(&descriptor.digest).await;
        let reader = reader.context(|| "failed to get reader from content store")?.into_sync();
        let (options, uuid) = (self.mkfs_options.clone(), uuid(&descriptor.digest));
        let applying = spawn_blocking(move || apply(reader, way, &directory, &options, &uuid));
        let applied = applying.await.map_err(|e| Error::caused(Kind::Internal, "apply", e))?;
        let (digest, size) = applied?;
        let media_type = match way {
            Way::Tar { .. } => media_types::LAYER,
            Way::Native { .. } => EROFS_LAYER,
        };
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Layers of other types are made by whoever walks through the files.
    async fn compare(
        &self,
        _lower: &[Mount],
        upper: &[Mount],
        options: Compare,
    ) -> Result<Descriptor> {
        if options.media_type != EROFS_LAYER {
            let text = format!("unsupported diff media type: {}", options.media_type);
            return Err(Error::unimplemented(text));
        }
        let directory = layer_of(upper)?.join("fs");
        let (mkfs_options, epoch) = (self.mkfs_options.clone(), options.source_date_epoch);
        let making = spawn_blocking(move || image_of(&directory, &mkfs_options, epoch));
        let made = making.await.map_err(|e| Error::caused(Kind::Internal, "diff", e))?;
        self.keep(made?, options).await
    }
}

impl Erofs {
    /// Writes an image into the store.
    async fn keep(&self, image: fs::File, options: Compare) -> Result<Descriptor> {
        let Compare { reference, mut labels, .. } = options;
        let reference = if reference.is_empty() { unique_reference()? } else { reference };
        let ingest = self.store.writer(&reference, Expected::default()).await;
        let mut ingest = ingest.context(|| "failed to open writer")?;
        ingest.truncate(0).await?;
        let (mut image, mut hasher, mut size) = (image, Hasher::new(Algorithm::Sha256), 0);
        loop {
            let (back, piece) = spawn_blocking(move || piece(image))
                .await
                .map_err(|e| Error::caused(Kind::Internal, "diff", e))??;
            image = back;
            if piece.is_empty() {
                break;
            }
            hasher.update(&piece);
            size += piece.len() as u64;
            ingest.write(piece).await?;
        }
        let digest = hasher.finish();
        labels.insert(labels::UNCOMPRESSED.into(), digest.to_string());
        let expected = Expected { size: Some(size), digest: Some(digest.clone()) };
        match ingest.commit(expected, labels).await {
            Err(error) if !error.is_already_exists() => {
                return Err(error.context("failed to commit"));
            }
            _ => {}
        }
        Ok(Descriptor::new(EROFS_LAYER, digest, size))
    }
}

fn piece(mut image: fs::File) -> Result<(fs::File, Bytes)> {
    let mut buffer = vec![0; BUFFER];
    let length = crate::inflate::read_full(&mut image, &mut buffer)?;
    buffer.truncate(length);
    Ok((image, buffer.into()))
}

/// How a layer becomes an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Native { is_compressed: bool },
    Tar { is_compressed: bool },
}

impl Way {
    fn of(media_type: &str) -> Result<Self> {
        match media_type.strip_prefix(EROFS_LAYER) {
            Some("") => Ok(Self::Native { is_compressed: false }),
            Some("+zstd") => Ok(Self::Native { is_compressed: true }),
            Some(suffix) => {
                Err(Error::unimplemented(format!("unsupported erofs layer suffix: {suffix}")))
            }
            None if takes_tar() => {
                Ok(Self::Tar { is_compressed: media::is_compressed(media_type)? })
            }
            None => Err(Error::unimplemented(format!("{PROGRAM} without --tar for {media_type}"))),
        }
    }
}

/// The directory of the snapshot that `mounts` are of.
///
/// Errors: `Unimplemented` where that is no snapshot of the erofs snapshotter.
fn layer_of(mounts: &[Mount]) -> Result<PathBuf> {
    let foreign = || Error::unimplemented("mount layer type must be erofs-layer");
    let (Some(first), Some(last)) = (mounts.first(), mounts.last()) else {
        return Err(foreign());
    };
    let kind = last.kind.rsplit('/').next().unwrap_or_default();
    let inside = match kind {
        _ if first.kind.starts_with("mkfs/") => Some(first.source.as_str()),
        "bind" | "erofs" => Some(last.source.as_str()),
        "overlay" => last.option("upperdir"),
        _ => None,
    };
    let directory = inside.and_then(|path| Path::new(path).parent()).ok_or_else(foreign)?;
    directory.join(MARK).exists().then(|| directory.to_owned()).ok_or_else(foreign)
}

/// Makes the image of a snapshot, and tells the digest and the size of what it was made of.
fn apply(
    reader: impl Read + Send,
    way: Way,
    directory: &Path,
    options: &[String],
    uuid: &str,
) -> Result<(Digest, u64)> {
    let unfinished = directory.join(UNFINISHED);
    let made = match way {
        Way::Native { is_compressed } => native(reader, is_compressed, &unfinished),
        Way::Tar { is_compressed } => {
            mkfs::convert(reader, is_compressed, &unfinished, options, uuid, None)
        }
    };
    let finished = made.and_then(|made| {
        let image = fs::File::open(&unfinished)?;
        check(&image)?;
        image.sync_all()?;
        fs::rename(&unfinished, directory.join(IMAGE))?;
        fs::File::open(directory)?.sync_all()?;
        Ok(made)
    });
    if finished.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    finished
}

/// Refuses what is no image: it could not be mounted, and nobody would know why.
fn check(image: &fs::File) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    let is_image = image.file().read_exact_at(&mut magic, SUPERBLOCK).is_ok() && magic == MAGIC;
    is_image.then_some(()).ok_or_else(|| Error::invalid("erofs layer: no superblock"))
}

fn native(reader: impl Read, is_compressed: bool, path: &Path) -> Result<(Digest, u64)> {
    let mut file = fs::File::create(path)?;
    pour(&mut inflated(reader, is_compressed)?, &mut |data| file.write_all(data))
}

fn inflated<R: Read>(reader: R, is_compressed: bool) -> Result<Inflate<R>> {
    let inflated = if is_compressed {
        Inflate::detect(reader).map_err(from_io)?
    } else {
        Inflate::plain(reader)
    };
    Ok(inflated)
}

/// Hands on everything, and hashes it.
fn pour(
    source: &mut impl Read,
    put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(Digest, u64)> {
    let (mut hasher, mut size, mut buffer) = (Hasher::new(Algorithm::Sha256), 0, vec![0; BUFFER]);
    loop {
        let length = crate::inflate::read_full(source, &mut buffer).map_err(from_io)?;
        if length == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..length]);
        size += length as u64;
        put(&buffer[..length])?;
    }
}

/// An error of a decoder travels inside an I/O error.
fn from_io(error: io::Error) -> Error {
    error.downcast().unwrap_or_else(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Mount { kind: kind.into(), source: source.into(), target: String::new(), options }
    }

    #[test]
    fn only_marked_snapshots_are_its_business() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let upper = format!("upperdir={}", path("fs"));
        let cases = [
            vec![mount("bind", &path("fs"), &["rw"])],
            vec![
                mount("erofs", "/x/layer.erofs", &[]),
                mount("format/mkdir/overlay", "overlay", &[&upper]),
            ],
            vec![
                mount("mkfs/ext4", &path("rwlayer.img"), &[]),
                mount("format/mkdir/bind", "{{ mount 0 }}/upper", &[]),
            ],
        ];
        for mounts in &cases {
            assert_eq!(layer_of(mounts).unwrap_err().kind(), Kind::Unimplemented);
        }
        fs::write(folder.path().join(MARK), "").unwrap();
        for mounts in &cases {
            assert_eq!(layer_of(mounts).unwrap(), folder.path());
        }
        for other in [vec![], vec![mount("ext4", &path("x"), &[])]] {
            assert_eq!(layer_of(&other).unwrap_err().kind(), Kind::Unimplemented);
        }
    }

    #[test]
    fn media_types_say_the_way() {
        assert_eq!(Way::of(EROFS_LAYER).unwrap(), Way::Native { is_compressed: false });
        let zstd = format!("{EROFS_LAYER}+zstd");
        assert_eq!(Way::of(&zstd).unwrap(), Way::Native { is_compressed: true });
        let gzip = format!("{EROFS_LAYER}+gzip");
        assert_eq!(Way::of(&gzip).unwrap_err().kind(), Kind::Unimplemented);
        assert_eq!(Way::of("text/plain").unwrap_err().kind(), Kind::Unimplemented);
    }
}
