// SPDX-License-Identifier: Apache-2.0
//! The nouns that every other crate speaks in.
//!
//! Nothing here does I/O, and nothing is used by fewer than three crates. A value of these types is
//! valid: a [`Digest`] has the right length, a [`Filter`] has been parsed, so whoever receives one
//! has nothing left to check.
//!
//! ```
//! use types::{Digest, Error, Kind};
//!
//! let error = Error::not_found("snapshot b").context("commit a");
//! assert_eq!(error.to_string(), "commit a: snapshot b: not found");
//! assert_eq!(error.kind(), Kind::NotFound);
//! assert!("sha256:beef".parse::<Digest>().is_err());
//! ```

mod any;
mod descriptor;
mod digest;
mod error;
mod field_mask;
pub mod filter;
pub mod identifiers;
pub mod labels;
pub mod platform;
mod scope;

pub use any::Any;
pub use descriptor::{Descriptor, media_types};
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Context, Error, Kind, Result};
pub use field_mask::FieldMask;
pub use filter::{Fields, Filter, Filters};
pub use labels::Labels;
pub use platform::Platform;
pub use scope::Scope;
