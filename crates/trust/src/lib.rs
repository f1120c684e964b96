// SPDX-License-Identifier: Apache-2.0
//! Whose image it is: signatures as cosign writes them, made with keys, and a policy over them.
//!
//! A signature is over the digest of a manifest or index, and says nothing of names: so whatever an
//! image is called, who signed it is found out from what it is. A policy then says for which names,
//! in which namespaces, whose signatures are wanted.
//!
//! ```text
//! PrivateKey --sign--> Evidence: a manifest, its payload --keep--> beside the image, in the store
//!                          |                                 `---> in the registry: sha256-<hex>.sig
//!                          v
//! PublicKey --verify--> who signed --Policy--> accept, or refuse with the rule's name
//! ```
//!
//! Keyless signatures, which need a certificate authority and a log to be asked, are not looked at.
//!
//! ```
//! use trust::{Evidence, PrivateKey};
//! use types::Digest;
//!
//! let key = PrivateKey::generate()?;
//! let image = Digest::of("{}");
//! let evidence = Evidence::sign(&key, "registry.example/app", &image)?;
//! assert!(evidence.is_by(&key.public(), &image));
//! assert!(!evidence.is_by(&key.public(), &Digest::of("another")));
//! # Ok::<(), types::Error>(())
//! ```

mod bundle;
mod evidence;
mod key;
mod pem;
mod policy;
mod program;
mod store;
mod verdict;

pub use evidence::{Evidence, gather, tag};
pub use key::{PrivateKey, PublicKey};
pub use policy::{Action, Policy, PolicyFile, Requirement, Rule};
pub use program::{Judgement, Programs};
pub use store::{keep, kept};
pub use verdict::signers;
