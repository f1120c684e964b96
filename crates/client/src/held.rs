// SPDX-License-Identifier: Apache-2.0
//! Work under a lease.
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, SystemTime},
};

use types::{Context, Labels, Result, labels::GC_EXPIRE};

use crate::Client;

/// How long a lease holds what a flow made, if the flow cannot end it (containerd `client/lease.go`).
const EXPIRY: Duration = Duration::from_hours(24);

/// A client under a lease.
#[derive(Clone)]
pub struct Held {
    client: Client,
    /// The lease, if it is ours to end.
    lease: Option<String>,
}

impl Client {
    /// Comes under a lease, so that what is made from now on is not collected before something refers
    /// to it. A client that is under one already stays under that.
    ///
    /// The lease ends with [`Held::release`], and at the latest after 24 hours.
    pub async fn hold(&self) -> Result<Held> {
        let Some(under) = &self.under else {
            return Ok(Held { client: self.clone(), lease: None });
        };
        let now = SystemTime::now();
        let expiry = jiff::Timestamp::try_from(now + EXPIRY).unwrap_or(jiff::Timestamp::MAX);
        let labels = Labels::from([(GC_EXPIRE.to_owned(), format!("{expiry:.0}"))]);
        let id = lease_id(now);
        let client = Client { under: None, ..under(&id)? };
        self.leases
            .create(records::Lease { id: id.clone(), created_at: now, labels })
            .await
            .context(|| "failed to create lease")?;
        Ok(Held { client, lease: Some(id) })
    }
}

impl Held {
    /// The client whose works are held.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Lets go: what nothing refers to by now may be collected. That this fails is no reason to fail
    /// for whoever has done the work: the lease expires.
    pub async fn release(self) {
        let Some(id) = self.lease else { return };
        if let Err(error) = self.client.leases.delete(&id, records::Delete::default()).await {
            tracing::warn!(lease = id, %error, "failed to delete lease");
        }
    }
}

/// A name that nobody else gives: the time, and something random.
fn lease_id(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let random = RandomState::new().build_hasher().finish() as u32;
    format!("{}-{random:08x}", since.as_nanos())
}
