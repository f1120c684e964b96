// SPDX-License-Identifier: Apache-2.0
//! What refers to an image, on request: it is fetched like an artifact, and kept beside the image.
use images::Referrer;
use types::{Descriptor, Digest, Error, Result};

use super::{Pull, Session};
use crate::Client;

impl Client {
    /// Fetches `referrers`, as the registry of `pull` lists them for `subject`, and keeps them for as
    /// long as that is kept. Answers with them.
    ///
    /// Errors: `FailedPrecondition` for one that is about something else; `NotFound` when `subject` is
    /// not here.
    pub async fn pull_referrers(
        &self,
        pull: &Pull,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<Vec<Referrer>> {
        let held = self.hold().await?;
        let outcome = held.client().bring_referrers(pull, subject, referrers).await;
        held.release().await;
        outcome
    }

    async fn bring_referrers(
        &self,
        pull: &Pull,
        subject: &Digest,
        referrers: &[Descriptor],
    ) -> Result<Vec<Referrer>> {
        self.content.info(subject).await?;
        let mut found = Vec::new();
        for descriptor in referrers {
            let artifact = Pull {
                target: descriptor.clone(),
                unpack: Vec::new(),
                platforms: Vec::new(),
                ..pull.clone()
            };
            let session = Session::new(self, &artifact);
            // Who it is about is known before the rest of it comes.
            session.document(descriptor, &pull.name).await?;
            let Some(referrer) = Referrer::read(&*self.content, &descriptor.digest).await? else {
                continue;
            };
            if referrer.subject.as_ref().is_some_and(|about| about != subject) {
                let what = format!("{} does not refer to {subject}", descriptor.digest);
                return Err(Error::failed_precondition(what));
            }
            session.visit(descriptor, pull.name.clone(), true, 0).await?;
            images::refer(&*self.content, subject, &descriptor.digest).await?;
            found.push(referrer);
        }
        Ok(found)
    }
}
