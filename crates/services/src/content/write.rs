// SPDX-License-Identifier: Apache-2.0
//! The write session: stat, write and commit over one stream.
//!
//! ```text
//! first message: ref (required), total, expected --> Store::writer
//! each message:  STAT | WRITE data @ offset | COMMIT labels  --> one answer
//! ```
//!
//! The checks, their order and their codes are those of containerd
//! `plugins/services/content/contentserver/contentserver.go`.
use std::sync::Arc;

use ::content::{Expected, Ingest, Store};
use api::containerd::services::content::v1 as pb;
use futures_util::Stream;
use pb::WriteAction;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use types::{Digest, Error, Kind, Result};

use crate::call::{error, status};
use crate::convert::{ToWire, digest};

type Answer = Result<pb::WriteContentResponse, tonic::Status>;

/// Answers each of `requests`. The session runs on a task of its own, so that a commit under way
/// outlives a client that hangs up.
pub(super) fn session(
    store: Arc<dyn Store>,
    requests: Streaming<pb::WriteContentRequest>,
) -> impl Stream<Item = Answer> {
    let (answers, stream) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(failed) = run(store, requests, &answers).await {
            // The client is gone if nobody takes the answer.
            drop(answers.send(Err(status(failed))).await);
        }
    });
    ReceiverStream::new(stream)
}

async fn run(
    store: Arc<dyn Store>,
    mut requests: Streaming<pb::WriteContentRequest>,
    answers: &mpsc::Sender<Answer>,
) -> Result<()> {
    let Some(mut request) = requests.message().await.map_err(error)? else {
        return Ok(());
    };
    let mut session = Session::open(store, &request).await?;
    loop {
        let answer = session.answer(request).await?;
        if answers.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
        match requests.message().await.map_err(error)? {
            Some(next) => request = next,
            None => return Ok(()),
        }
    }
}

struct Session {
    store: Arc<dyn Store>,
    /// Taken when the ingest is given up.
    ingest: Option<Box<dyn Ingest>>,
    reference: String,
    total: u64,
    expected: Option<Digest>,
}

impl Session {
    async fn open(store: Arc<dyn Store>, first: &pb::WriteContentRequest) -> Result<Self> {
        if first.r#ref.is_empty() {
            return Err(Error::said(Kind::InvalidArgument, "first message must have a reference"));
        }
        let total = u64::try_from(first.total).unwrap_or(0);
        let expected = digest(&first.expected)?;
        let wanted = Expected { size: Some(total).filter(|&t| t > 0), digest: expected.clone() };
        let ingest = store.writer(&first.r#ref, wanted).await?;
        Ok(Self { store, ingest: Some(ingest), reference: first.r#ref.clone(), total, expected })
    }

    async fn answer(
        &mut self,
        request: pb::WriteContentRequest,
    ) -> Result<pb::WriteContentResponse> {
        self.expect(&request).await?;
        let action = WriteAction::try_from(request.action).unwrap_or(WriteAction::Stat);
        let mut digest = None;
        if action != WriteAction::Stat {
            let labels = request.labels.clone();
            self.append(request).await?;
            if action == WriteAction::Commit {
                digest = Some(self.commit(labels).await?);
            }
        }
        // Who does not say what will come takes the digest from our answer, and commits that.
        let is_asked = self.expected.is_none() && digest.is_none();
        let ingest = self.ingest()?;
        let settled = if is_asked { ingest.settled().await? } else { ingest.digest() };
        let now = ingest.status();
        let digest = digest.or(settled).map(|digest| digest.to_string());
        Ok(pb::WriteContentResponse {
            action: action.into(),
            started_at: now.started_at.to_wire(),
            updated_at: now.updated_at.to_wire(),
            offset: now.offset as i64,
            total: self.total as i64,
            digest: digest.unwrap_or_default(),
        })
    }

    /// Takes in what the message newly expects. A blob that is already there ends the session.
    async fn expect(&mut self, request: &pb::WriteContentRequest) -> Result<()> {
        if let Some(wanted) = digest(&request.expected)? {
            if self.store.info(&wanted).await.is_ok() {
                // The ingest is let go of before it is thrown away.
                drop(self.ingest.take());
                if let Err(error) = self.store.abort(&self.reference).await {
                    tracing::debug!(%error, reference = self.reference, "failed to abort write");
                }
                let message = format!("blob with expected digest {wanted} exists");
                return Err(Error::said(Kind::AlreadyExists, message));
            }
            self.expected = Some(wanted);
        }
        if let Ok(total @ 1..) = u64::try_from(request.total) {
            self.total = total;
        }
        Ok(())
    }

    async fn append(&mut self, request: pb::WriteContentRequest) -> Result<()> {
        let ingest = self.ingest()?;
        let (offset, at) = (request.offset, ingest.status().offset);
        if offset > 0 && offset as u64 != at {
            let message = format!("write @{offset} must occur at current offset {at}");
            return Err(Error::said(Kind::OutOfRange, message));
        }
        if offset == 0 && at > 0 {
            ingest.truncate(0).await.map_err(|e| e.context("truncate failed"))?;
        }
        if !request.data.is_empty() {
            ingest.write(request.data).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, labels: types::Labels) -> Result<Digest> {
        let size = Some(self.total).filter(|&total| total > 0);
        let expected = Expected { size, digest: self.expected.clone() };
        self.ingest()?.commit(expected, labels).await
    }

    fn ingest(&mut self) -> Result<&mut Box<dyn Ingest>> {
        self.ingest.as_mut().ok_or_else(|| Error::failed_precondition("the write has ended"))
    }
}
