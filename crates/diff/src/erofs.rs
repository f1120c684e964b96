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
//! `internal/erofsutils`).
use std::{
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use content::{Expected, Store};
use fs_err as fs;
use mount::Mount;
use sys::Command;
use tokio::task::spawn_blocking;
use types::{
    Algorithm, Context, Descriptor, Digest, Error, Hasher, Kind, Result, labels, media_types,
};

use crate::{Apply, Compare, Differ, inflate::Inflate, media, walking::unique_reference};

/// The media type of native layers; `+zstd` behind it says that the blob is compressed besides.
pub const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";

/// What the snapshotter expects to find when a snapshot is committed.
const IMAGE: &str = "layer.erofs";

/// What it is called until it is whole.
const UNFINISHED: &str = "layer.erofs.part";

/// What the snapshotter marks its snapshots with.
const MARK: &str = ".erofslayer";

/// Where the superblock is, and what it begins with (Linux `fs/erofs/erofs_fs.h`).
const SUPERBLOCK: u64 = 1024;
const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];

/// The program that makes images, and how long it may take.
const MKFS: &str = "mkfs.erofs";
const PATIENCE: Duration = Duration::from_mins(10);

/// How much is moved at a time.
const BUFFER: usize = 256 * 1024;

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
            None => Err(Error::unimplemented(format!("{MKFS} without --tar for {media_type}"))),
        }
    }
}

/// Whether `mkfs.erofs` is there and reads archives, as it does from version 1.7 on.
fn takes_tar() -> bool {
    static TAKES: OnceLock<bool> = OnceLock::new();
    *TAKES.get_or_init(|| {
        let asked = Command::new(MKFS).arg("--help").stdin(Stdio::null()).combined_output();
        asked.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("--tar="))
    })
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
        Way::Tar { is_compressed } => convert(reader, is_compressed, &unfinished, options, uuid),
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

/// Has `mkfs.erofs` read an archive.
fn convert(
    reader: impl Read + Send,
    is_compressed: bool,
    path: &Path,
    options: &[String],
    uuid: &str,
) -> Result<(Digest, u64)> {
    let (input, mut feed) = io::pipe()?;
    let own = ["--tar=f", "--aufs", "--quiet", "-Enoinline_data"].map(String::from);
    let args = own.into_iter().chain(options.iter().cloned()).chain(["-U".into(), uuid.into()]);
    thread::scope(|scope| {
        let pouring =
            thread::Builder::new().name("diff-feed".into()).spawn_scoped(scope, move || {
                // A program that has read enough closes its end; what is left is hashed all the same.
                let mut is_read = true;
                pour(&mut inflated(reader, is_compressed)?, &mut |data| {
                    is_read = is_read && feed.write_all(data).is_ok();
                    Ok(())
                })
            })?;
        let made = run(Command::new(MKFS).args(args).arg(path).stdin(input));
        let poured = pouring.join().map_err(|_panic| Error::internal("hashing a layer"))?;
        // A broken archive is why the program failed, if it did.
        let poured = poured?;
        made.map(|()| poured)
    })
}

/// Makes an image of a directory in a file that has no name.
fn image_of(directory: &Path, options: &[String], epoch: Option<SystemTime>) -> Result<fs::File> {
    let folder =
        directory.parent().ok_or_else(|| Error::invalid("snapshot without a directory"))?;
    let path = folder.join("diff.erofs.part");
    let mut args = vec!["--quiet".to_owned(), "-Enoinline_data".into()];
    args.extend_from_slice(options);
    if let Some(epoch) = epoch {
        let seconds = epoch.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Without it the image would bear a random number of its own.
        args.extend([format!("-T{seconds}"), "-U".into(), uuid(&Digest::of("erofs"))]);
    }
    let made = run(Command::new(MKFS).args(args).arg(&path).arg(directory).stdin(Stdio::null()));
    let opened = made.and_then(|()| Ok(fs::File::open(&path)?));
    drop(fs::remove_file(&path));
    opened
}

/// Runs `mkfs.erofs`; what it said is the error.
fn run(command: Command) -> Result<()> {
    let mut said = fs::File::from_parts(
        rustix::fs::memfd_create("mkfs", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(io::Error::from)?
            .into(),
        "mkfs",
    );
    let (out, err) = (said.file().try_clone()?, said.file().try_clone()?);
    let child = command.stdout(out).stderr(err).spawn();
    let mut child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::unimplemented(format!("{MKFS} is not installed")),
        _ => Error::from(error),
    })?;
    let Some(exit) = child.wait_timeout(PATIENCE)? else {
        child.kill(9)?;
        child.wait()?;
        return Err(Error::deadline(format!("{MKFS} did not end within {PATIENCE:?}")));
    };
    if exit.success() {
        return Ok(());
    }
    let mut text = String::new();
    said.rewind()?;
    drop(said.read_to_string(&mut text));
    Err(Error::said(Kind::Unknown, format!("erofs apply failed: {}: {exit}", text.trim())))
}

/// A number of the image's own that follows from the layer's digest (RFC 9562, version 8).
fn uuid(digest: &Digest) -> String {
    let text = digest.as_str().rsplit(':').next().unwrap_or_default();
    let hex: String = text.chars().chain(std::iter::repeat('0')).take(32).collect();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
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
    fn a_number_follows_from_the_digest() {
        let of = uuid(&Digest::of(""));
        assert_eq!(of, "e3b0c442-98fc-8c14-8afb-f4c8996fb924");
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
