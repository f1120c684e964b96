// SPDX-License-Identifier: Apache-2.0
//! What an image is made of, and how it becomes snapshots.
//!
//! An image is a tree of documents that name their children by digest. What a document is was said by
//! whoever pointed at it, and a document that says otherwise is refused, so that nobody sees one thing
//! where another was checked. All reads are bounded: documents come from strangers.
//!
//! ```text
//! index --> manifest --> config --diff IDs--> chain IDs
//!   |          `-------> layers --[`unpack`]--> snapshots, each named by its chain ID
//!   `-----> index ...
//! ```
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use types::{Descriptor, Digest, media_types, platform::Matcher};
//!
//! let store = content::Memory::default();
//! let config = Descriptor::new(media_types::CONFIG, Digest::of("{}"), 2);
//! let json = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
//! let manifest = Descriptor::new(media_types::MANIFEST, Digest::of(&json), json.len() as u64);
//! content::blob::write(&store, "m", (&manifest).into(), json, images::labels::of_children(&[config.clone()])).await?;
//!
//! assert_eq!(images::choose(&store, &manifest, &Matcher::all()).await?.manifest.config, config);
//! assert_eq!(images::check(&store, &manifest, &Matcher::all()).await?.missing, [config]);
//! # Ok::<(), types::Error>(()) }).unwrap();
//! ```
//!
//! It knows no registry and no transport: blobs come into the store by other ways.

pub mod archive;
mod chain;
mod check;
mod choose;
mod convert;
mod document;
mod flights;
pub mod labels;
mod media;
mod referrers;
mod tree;
mod unpack;
mod usage;

pub use chain::{chain_id, chain_ids};
pub use check::{Check, check, is_unpacked};
pub use choose::{Chosen, Selection, choose, config, platforms, select};
pub use convert::{Convert, Native, cache, convert, repack};
pub use document::{Config, Document, Index, MAX_SIZE, Manifest, RootFs, Run, read_config};
pub use flights::{Flight, Flights};
pub use media::{is_known_config, ref_key};
pub use referrers::{Referrer, refer, referrers, subject_by_name};
pub use tree::{children, read, walk};
pub use unpack::{Layer, Layers, Present, Rootfs, Unpacker};
pub use usage::{Snapshotters, size, usage};
