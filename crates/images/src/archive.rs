// SPDX-License-Identifier: Apache-2.0
//! Images in one file: OCI layouts, what `docker save` writes, and both in one.
//!
//! ```text
//! oci-layout      {"imageLayoutVersion":"1.0.0"}     says that this is an OCI layout
//! index.json      an index; annotations name its images
//! blobs/sha256/*  everything that the index refers to
//! manifest.json   what Docker reads: configs, layers and names
//! ```
//!
//! [`import`] takes the blobs of an archive into a store and answers with its index; [`export`] is
//! the inverse. Names in an archive are keys and never paths: nothing is written but blobs.
mod docker;
mod export;
mod import;
mod names;
mod pieces;

pub use export::{Export, export};
pub use import::{Import, import};
pub use names::{NameRule, names};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use types::Result;

/// The bytes of an archive on their way.
pub type Bytestream = BoxStream<'static, Result<Bytes>>;

/// The full name of an image (containerd `core/images/annotations.go`).
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The tag of an image, or whatever else tells it from others in the index (OCI image spec,
/// annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The file that says that this is an OCI layout, and of which version (OCI image spec,
/// image-layout.md).
const LAYOUT: &str = "oci-layout";
const LAYOUT_VERSION: &str = "1.0.0";
const INDEX: &str = "index.json";
const DOCKER: &str = "manifest.json";
const BLOBS: &str = "blobs/";
