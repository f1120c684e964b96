// SPDX-License-Identifier: Apache-2.0
//! Layers: tar archives that say how one filesystem differs from another.
//!
//! [`Differ::apply`] turns an archive into files, [`Differ::compare`] turns files into an archive.
//! Both are inverse to each other: `compare(apply(x)) == x`, up to the order of entries.
//! No path in an archive leaves the root it is applied to.
//!
//! ```text
//! content --inflate--> tar --apply--> mounts
//! content <--deflate-- tar <--compare-- lower mounts, upper mounts
//! ```
//!
//! [`Walking`] is the differ for any filesystem. Beneath it is a synchronous library that needs no
//! store: [`apply_to_mounts`] for bytes that are just arriving, [`compare`], and [`tar`] itself.
//!
//! ```no_run
//! # fn main() -> types::Result<()> {
//! let layer = fs_err::File::open("layer.tar.gz")?;
//! let mounts = [mount::Mount::bind("/srv/rootfs", ["rw", "rbind"])];
//! let options = diff::Options::default();
//! let media_type = types::media_types::LAYER_GZIP;
//! let applied = diff::apply_to_mounts(layer, media_type, &mounts, &options)?;
//! println!("diff ID {}, {} bytes", applied.digest, applied.size);
//! # Ok(())
//! # }
//! ```
mod activated;
mod apply;
mod arriving;
mod compare;
mod deflate;
mod erofs;
mod inflate;
mod media;
mod names;
mod ordered;
mod processor;
mod repack;
mod root;
mod stream;
#[cfg(feature = "suite")]
pub mod suite;
pub mod tar;
mod walking;
mod xattrs;

use std::time::SystemTime;

use async_trait::async_trait;
use mount::Mount;
use types::{Any, Descriptor, Labels, Result};

pub use apply::{Applied, Options, Target, Whiteouts, apply, apply_to_mounts};
pub use arriving::Arriving;
pub use compare::compare;
pub use erofs::{EROFS_LAYER, Erofs, Imager, Imaging};
pub use inflate::packing;
pub use ordered::Ordered;
pub use processor::Processor;
pub use repack::{Packing, Repacked, inflate, repack};
pub use walking::Walking;

/// The payload by which a differ is told that the mounts are of a snapshot which gets its parent only
/// when it is committed. Where whiteouts have to be kept for that, it keeps them.
pub const BEFORE_PARENT: &str = "containerd.io/diff/before-parent";

/// The annotation by which a differ tells whether a layer relied on files of its parents: `true` or
/// `false`. One that was not asked by [`BEFORE_PARENT`], or knows nothing of it, does not say.
pub const NEEDS_PARENT: &str = "containerd.io/diff/needs-parent";

/// How to apply a layer.
#[derive(Clone, Debug, Default)]
pub struct Apply {
    /// What stream processors need, by media type or processor id; and [`BEFORE_PARENT`], here so
    /// that it gets over the wire.
    pub payloads: std::collections::BTreeMap<String, Any>,
    /// Compat: asks for what we do anyway, that the files are on disk before the answer.
    pub sync_fs: bool,
}

/// How to make a layer.
#[derive(Clone, Debug, Default)]
pub struct Compare {
    /// The media type of the layer, which also says how it is compressed. Empty is OCI tar in gzip.
    pub media_type: String,
    /// The name of the ingest that the layer is written through. Empty is a name of our own.
    pub reference: String,
    /// Labels of the layer's blob.
    pub labels: Labels,
    /// Times later than this are written as this, so that the same files give the same layer.
    pub source_date_epoch: Option<SystemTime>,
}

/// Makes layers of filesystems, and filesystems of layers.
#[async_trait]
pub trait Differ: Send + Sync + 'static {
    /// Applies the layer that `descriptor` points at onto `mounts`, makes it durable, and describes
    /// what was applied: the uncompressed tar, by media type, digest (the diff ID) and size.
    ///
    /// Errors: `Unimplemented` for a media type it does not know; `NotFound` for missing content;
    /// `InvalidArgument` for an archive that is malformed or would leave the root.
    async fn apply(
        &self,
        descriptor: &Descriptor,
        mounts: &[Mount],
        options: Apply,
    ) -> Result<Descriptor>;

    /// Whether [`Differ::apply_arriving`] can be asked for.
    fn takes_arriving(&self) -> bool {
        false
    }

    /// Applies a layer while its bytes arrive, so that it need not be read from the store again. Whether
    /// the blob is what it is called is for whoever stores it: what was applied is worth nothing before
    /// that is known.
    ///
    /// Errors: as [`Differ::apply`]; `Unimplemented` where it cannot; `Cancelled` when the bytes stop
    /// coming before their end.
    async fn apply_arriving(
        &self,
        media_type: &str,
        _source: Arriving,
        _mounts: &[Mount],
        _options: Apply,
    ) -> Result<Descriptor> {
        Err(types::Error::unimplemented(format!("applying {media_type} while it arrives")))
    }

    /// Writes how `upper` differs from `lower` into a blob and describes it. The blob's label
    /// `containerd.io/uncompressed` names the uncompressed tar.
    async fn compare(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        options: Compare,
    ) -> Result<Descriptor>;
}
