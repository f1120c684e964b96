// SPDX-License-Identifier: Apache-2.0
//! Registries of two sorts: one that does what a test says, and Debian's docker-registry.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
mod access;
mod chunks;
mod docker;
mod fake;
mod faults;
mod mirrors;
mod parts;
mod proxies;
mod pushing;
mod referring;
mod resolving;
mod streams;
mod tokens;

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt as _;
use registry::{Credential, Options, Reference, Registry, Retry, Timeouts};
use types::{Descriptor, Digest, Result, media_types};

/// Options that lose no time.
fn options() -> Options {
    Options {
        retry: Retry { base: Duration::from_millis(1), ..Retry::default() },
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            reply: Duration::from_secs(2),
            idle: Duration::from_millis(300),
            commit: Duration::from_secs(2),
            ..Timeouts::default()
        },
        ..Options::default()
    }
}

fn client() -> Registry {
    Registry::new(options())
}

fn client_as(username: &str, secret: &str) -> Registry {
    let credential = Credential::new(username, secret);
    let credentials = Arc::new(move |_: &str| Some(credential.clone()));
    Registry::new(Options { credentials, ..options() })
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Bytes that differ from place to place.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn layer(data: &[u8]) -> Descriptor {
    Descriptor::new(media_types::LAYER, Digest::of(data), data.len() as u64)
}

async fn fetch(registry: &Registry, name: &str, what: &Descriptor, from: u64) -> Result<Vec<u8>> {
    let stream = registry.fetcher(&reference(name))?.fetch(what, from).await?;
    stream.map_ok(|piece| piece.to_vec()).try_concat().await
}
