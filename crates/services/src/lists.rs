// SPDX-License-Identifier: Apache-2.0
//! Lists that are too long for one message: batches on the wire, one by one on both sides of it.
use std::{future::Future, sync::Arc};

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream, TryChunksError},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use types::Result;

use crate::call::{error, status};
use crate::convert::FromWire;

/// How many things go into one message (containerd `plugins/services/content/contentserver` and
/// `plugins/services/snapshots/service.go`).
const BATCH: usize = 100;

/// Sends what `walk` finds in `store`, in messages of a hundred.
pub(crate) fn sent<S, T, M>(
    store: Arc<S>,
    walk: impl for<'a> FnOnce(&'a S) -> BoxStream<'a, Result<T>> + Send + 'static,
    message: fn(Vec<T>) -> M,
) -> BoxStream<'static, Result<M, Status>>
where
    S: ?Sized + Send + Sync + 'static,
    T: Send + 'static,
    M: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut batches = walk(&store).try_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            let batch = batch.map(message).map_err(|TryChunksError(_, error)| status(error));
            if sender.send(batch).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Receives what `call` answers, one by one.
pub(crate) fn received<M, W, T>(
    call: impl Future<Output = Result<Response<Streaming<M>>, Status>> + Send + 'static,
    batch: fn(M) -> Vec<W>,
) -> BoxStream<'static, Result<T>>
where
    M: Send + 'static,
    W: Send + 'static,
    T: FromWire<W> + Send + 'static,
{
    stream::once(call)
        .map_ok(Response::into_inner)
        .try_flatten()
        .map_err(error)
        .map_ok(move |message| stream::iter(batch(message).into_iter().map(T::from_wire)))
        .try_flatten()
        .boxed()
}
