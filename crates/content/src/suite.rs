// SPDX-License-Identifier: Apache-2.0
//! What every store is held to, as claims that can be run over any of them.
//!
//! The ideas are those of containerd's `core/content/testsuite`. A store that forwards to another
//! (over the wire, over a database) is run through the same claims as the one it forwards to.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn example() {
//! use content::{Memory, Store, suite};
//!
//! suite::run(async || Arc::new(Memory::default()) as Arc<dyn Store>).await;
//! # }
//! ```
mod committing;
mod listing;
mod reading;
mod writing;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::TryStreamExt};
use types::{Digest, Error, Filters, Kind, Labels, Result};

use crate::{Expected, Info, Ingest, Store, blob};

/// One thing that has to hold of a store. It panics where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The claim, as a sentence.
    pub name: &'static str,
    /// Checks it on an empty store.
    pub check: for<'a> fn(&'a dyn Store) -> BoxFuture<'a, ()>,
}

/// Turns `async fn`s into claims that bear their names.
macro_rules! list {
    ($($name:ident),* $(,)?) => {
        &[$($crate::suite::Claim { name: stringify!($name), check: |store| Box::pin($name(store)) }),*]
    };
}
use list;

/// All claims.
pub fn claims() -> impl Iterator<Item = &'static Claim> {
    [writing::CLAIMS, committing::CLAIMS, reading::CLAIMS, listing::CLAIMS].into_iter().flatten()
}

/// Checks every claim, each on a new and empty store. The name of the claim at hand is printed, so
/// that a failed test shows it.
pub async fn run(make: impl AsyncFn() -> Arc<dyn Store>) {
    for claim in claims() {
        println!("{}", claim.name);
        let store = make().await;
        (claim.check)(store.as_ref()).await;
    }
}

/// Some content that no other call has given, of `len` bytes (at least 8), and its digest.
fn content(len: usize) -> (Bytes, Digest) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut state = SEED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        data.extend_from_slice(&state.to_le_bytes());
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    data.truncate(len);
    let digest = Digest::of(&data);
    (data.into(), digest)
}

/// Opens a writer. A writer just dropped may take a moment to let go, over a wire at least.
async fn open(store: &dyn Store, reference: &str, expected: Expected) -> Result<Box<dyn Ingest>> {
    blob::open(store, reference, expected, Duration::from_secs(10)).await
}

async fn open_new(store: &dyn Store, reference: &str) -> Box<dyn Ingest> {
    open(store, reference, Expected::default()).await.expect("the writer opens")
}

/// Stores a blob with labels.
async fn store_blob(store: &dyn Store, data: &Bytes, labels: Labels) -> Digest {
    let digest = Digest::of(data);
    let reference = format!("store-{digest}");
    let expected = expecting(data);
    blob::write(store, &reference, expected, data.clone(), labels)
        .await
        .expect("the blob is stored")
}

fn expecting(data: &Bytes) -> Expected {
    Expected { size: Some(data.len() as u64), digest: Some(Digest::of(data)) }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

async fn walk(store: &dyn Store, filters: &[&str]) -> Vec<Info> {
    let filters = Filters::parse(filters).expect("the filters parse");
    store.walk(filters).try_collect().await.expect("the walk ends")
}

#[track_caller]
fn refused<T>(outcome: Result<T>, kind: Kind) -> Error {
    match outcome {
        Ok(_) => unreachable_success(kind),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}");
            error
        }
    }
}

#[track_caller]
#[allow(clippy::panic, reason = "a suite says what does not hold by panicking")]
fn unreachable_success(kind: Kind) -> ! {
    panic!("this succeeded, and had to be refused: {}", kind.text())
}
