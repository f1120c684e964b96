// SPDX-License-Identifier: Apache-2.0
mod convert;
mod plan;

use std::{
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use mount::Mount;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use sys::failpoint;
use types::{
    Context, Digest, Error, Labels, Result,
    labels::{SNAPSHOT_DIFF_ID, SNAPSHOT_REF},
};

use crate::{
    Capability, Driver, Kind, Layered, Layers, Usage,
    id_map::{self, inherit},
    overlay::Probe,
    quota, tree,
};

/// Keeps each committed layer as one image that cannot change, and lays a directory over them.
///
/// ```text
/// <root>/snapshots/<id>/fs            what an active snapshot changes; empty once committed
/// <root>/snapshots/<id>/work          overlayfs' own, of active snapshots
/// <root>/snapshots/<id>/rwlayer.img   in place of both, where the size is limited: an ext4 image
/// <root>/snapshots/<id>/layer.erofs   the layer, once committed
/// <root>/snapshots/<id>/.erofslayer   tells the differ that it may write layer.erofs itself
/// ```
///
/// The layout is containerd's (`docs/snapshotters/erofs.md`), and so are the mounts: images first, then
/// an overlay whose options name them by templates, for a mount manager to carry out. A layer that no
/// differ has made into an image is made into one when it is committed, by `mkfs.erofs`.
pub type Erofs = Layered<ErofsDriver>;

/// How an [`Erofs`] is to behave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErofsOptions {
    /// Further options for every overlay mount.
    pub overlay_options: Vec<String>,
    /// The size in bytes of the image that an active snapshot is written to; 0 for a directory, unless
    /// the label [`MAX_SIZE_LABEL`](crate::MAX_SIZE_LABEL) says otherwise.
    pub default_size: u64,
    /// Mark layers such that not even root changes them.
    pub set_immutable: bool,
    /// A folder of layers that are images already, by their diff IDs. It is only read: what is there is
    /// mounted from there, and need not be fetched or unpacked.
    pub layer_content_cache: Option<PathBuf>,
    /// Seal layers with fs-verity, which finds out what a disk has changed.
    pub enable_fsverity: bool,
}

/// What is particular to [`Erofs`].
#[derive(Debug)]
pub struct ErofsDriver {
    options: ErofsOptions,
    capabilities: Vec<Capability>,
    /// Where images are mounted while they are converted.
    scratch: PathBuf,
}

impl Erofs {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    ///
    /// `FailedPrecondition` when the kernel has no erofs, `mkfs.erofs` is not installed, overlayfs does
    /// not work in `root`, or fs-verity is asked for and not to be had.
    pub fn open(root: impl AsRef<Path>, options: ErofsOptions) -> Result<Self> {
        let root = std::path::absolute(root)?;
        check_kernel()?;
        convert::check_program()?;
        fs::create_dir_all(&root)?;
        let probe = Probe::new(&root)?;
        if options.default_size == 0 {
            // What it finds is not used: these are containerd's options, and no others.
            probe.options(options.overlay_options.clone())?;
        }
        // Overlays and erofs learned to shift owners in the same release of Linux, 5.19.
        let capabilities = capabilities(probe.shifts_ids(&options.overlay_options));
        drop(probe);
        if options.enable_fsverity {
            check_verity(&root)?;
        }
        let scratch = root.join("scratch");
        tree::make_directory(&scratch, 0o700)?;
        mount::unmount_recursive(&scratch, mount::UnmountFlags::DETACH)?;
        Self::with_driver(&root, ErofsDriver { options, capabilities, scratch }, false)
    }
}

/// Files that cannot change cannot be given away: owners are shifted by mounts, or not at all.
fn capabilities(shifts_ids: bool) -> Vec<Capability> {
    let remap = shifts_ids.then_some(Capability::RemapIds);
    [Capability::OnlyRemapIds].into_iter().chain(remap).chain([Capability::Rebase]).collect()
}

fn check_kernel() -> Result<()> {
    let known = fs::read_to_string("/proc/filesystems")?;
    if known.lines().any(|line| line.trim() == "erofs") {
        return Ok(());
    }
    Err(Error::failed_precondition("EROFS unsupported, please `modprobe erofs`"))
}

fn check_verity(root: &Path) -> Result<()> {
    let probe = root.join("verity");
    fs::write(&probe, "probe")?;
    let enabled = sys::verity::enable(fs::File::open(&probe)?.file());
    fs::remove_file(&probe)?;
    enabled.map_err(|error| {
        let text = format!("fsverity is not supported on the filesystem of {:?}", root.display());
        Error::caused(types::Kind::FailedPrecondition, text, error)
    })
}

impl Driver for ErofsDriver {
    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    fn create(&self, layers: &Layers) -> Result<()> {
        tree::make_directory(&layers.directory, 0o700)?;
        failpoint::reach("erofs.create.directory")?;
        let own = upper(&layers.directory);
        if fs::symlink_metadata(&own).is_err() {
            tree::make_directory(&own, 0o755)?;
            let parent = layers.parents.first().map(|parent| upper(parent));
            inherit(&own, parent.as_deref(), &layers.labels)?;
        }
        if layers.kind == Kind::Active {
            if let Some(cached) = self.cached(&layers.labels) {
                fs::os::unix::fs::symlink(cached, blob(&layers.directory))?;
            }
            tree::make_directory(&work(&layers.directory), 0o711)?;
            fs::File::create(layers.directory.join(".erofslayer"))?;
        }
        Ok(())
    }

    fn plan(&self, layers: &Layers) -> Result<Vec<Mount>> {
        let shifts = self.capabilities.contains(&Capability::RemapIds);
        let shift = if shifts { id_map::options(&layers.labels) } else { Vec::new() };
        plan::plan(layers, self.size(layers), &shift, &self.options.overlay_options)
    }

    fn content(&self, layers: &Layers) -> PathBuf {
        let image = image(&layers.directory);
        match layers.kind {
            Kind::Committed => blob(&layers.directory),
            Kind::Active if image.exists() => image,
            Kind::Active | Kind::View => upper(&layers.directory),
        }
    }

    /// What is written so far; of an image, the blocks that were used. What a differ has made into an
    /// image already counts too.
    fn measure(&self, layers: &Layers) -> Result<Usage> {
        let blob = blob(&layers.directory);
        let written = tree::usage(&upper(&layers.directory))?;
        [image(&layers.directory), blob].iter().try_fold(written, |usage, file| {
            match tree::file_usage(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(usage),
                Err(error) => Err(error.into()),
                Ok(more) => {
                    Ok(Usage { size: usage.size + more.size, inodes: usage.inodes + more.inodes })
                }
            }
        })
    }

    /// Makes an image of what was written, unless a differ has. An image beside something written is
    /// one of ours, of a commit that did not come to pass, and is made again.
    fn seal(&self, layers: &Layers) -> Result<Usage> {
        let (directory, blob) = (&layers.directory, blob(&layers.directory));
        if is_cached(directory) {
            // It is whole, and somebody else's.
            fs::metadata(&blob).context(|| "failed to find valid erofs layer blob")?;
            tree::sync_directory(directory)?;
            return Ok(Usage::default());
        }
        if is_made_by_differ(directory)? {
            fs::File::open(&blob)?.sync_all()?;
        } else {
            let made = directory.join("layer.erofs.new");
            convert::convert(directory, &made, &self.scratch)?;
            failpoint::reach("erofs.seal.converted")?;
            fs::rename(&made, &blob)?;
        }
        if self.options.enable_fsverity {
            sys::verity::enable(fs::File::open(&blob)?.file())
                .context(|| "failed to enable fsverity")?;
        }
        tree::sync_directory(directory)?;
        Ok(tree::file_usage(&blob)?)
    }

    /// The layer is in its image: what it was made from goes. The directory stays, for whoever has to
    /// know the owner and mode of the layer's root.
    fn settle(&self, layers: &Layers) -> Result<()> {
        let directory = &layers.directory;
        fs::metadata(blob(directory)).context(|| "failed to find valid erofs layer blob")?;
        tree::remove(&image(directory))?;
        failpoint::reach("erofs.settle.image")?;
        tree::remove(&work(directory))?;
        tree::empty(&upper(directory))?;
        if self.options.set_immutable && !is_cached(directory) {
            set_immutable(&blob(directory), true);
        }
        Ok(())
    }

    fn remove(&self, directory: &Path) -> Result<()> {
        let blob = blob(directory);
        if blob.exists() && !is_cached(directory) {
            set_immutable(&blob, false);
        }
        failpoint::reach("erofs.remove.mutable")?;
        Ok(tree::remove(directory)?)
    }
}

impl ErofsDriver {
    /// The image of the layer that a snapshot is prepared for, where there is one already (containerd
    /// `plugins/snapshots/erofs/erofs.go`, `lookupCache`). One that cannot be read is none.
    fn cached(&self, labels: &Labels) -> Option<PathBuf> {
        let cache = self.options.layer_content_cache.as_ref()?;
        labels.get(SNAPSHOT_REF)?;
        let diff_id: Digest = labels.get(SNAPSHOT_DIFF_ID)?.parse().ok()?;
        let (folder, hex) = (cache.join(diff_id.algorithm().name()), diff_id.hex());
        let name = format!("{hex}.erofs");
        // Containerd 2.4 has them all in one folder.
        let found = [folder.join(&hex[..2]).join(&name), folder.join(&name)];
        found.into_iter().find(|path| path.is_file())
    }

    /// The size of the image that an active snapshot is written to, if it is one.
    fn size(&self, layers: &Layers) -> Option<u64> {
        if layers.kind != Kind::Active {
            return None;
        }
        let default = (self.options.default_size > 0).then_some(self.options.default_size);
        quota::max_size(&layers.labels).or(default)
    }
}

/// Whether nothing was written but the image, which is a differ's work then.
fn is_made_by_differ(directory: &Path) -> Result<bool> {
    Ok(blob(directory).try_exists()?
        && !image(directory).try_exists()?
        && tree::is_empty(&upper(directory))?)
}

/// Whether a snapshot's layer is in the cache.
fn is_cached(directory: &Path) -> bool {
    fs::symlink_metadata(blob(directory)).is_ok_and(|found| found.is_symlink())
}

/// A flag that a filesystem does not have, or that cannot be set here, is done without, as in
/// containerd.
fn set_immutable(blob: &Path, immutable: bool) {
    let set = || -> io::Result<()> {
        let file = fs::File::open(blob)?;
        let flags = ioctl_getflags(&file)?;
        let wanted = if immutable { flags | IFlags::IMMUTABLE } else { flags - IFlags::IMMUTABLE };
        if wanted != flags {
            ioctl_setflags(&file, wanted)?;
        }
        Ok(())
    };
    if let Err(error) = set() {
        tracing::warn!(%error, immutable, path = %blob.display(), "failed to set IMMUTABLE_FL");
    }
}

fn upper(directory: &Path) -> PathBuf {
    directory.join("fs")
}

fn work(directory: &Path) -> PathBuf {
    directory.join("work")
}

fn image(directory: &Path) -> PathBuf {
    directory.join("rwlayer.img")
}

fn blob(directory: &Path) -> PathBuf {
    directory.join("layer.erofs")
}
