// SPDX-License-Identifier: Apache-2.0
//! The one thread that writes.
//!
//! Requests that wait while others are being synced are committed together, with one sync for all
//! of them. Each has a savepoint of its own, so that one that fails leaves no trace.
//!
//! ```text
//! write(f) --.                 .-- SAVEPOINT f RELEASE --.
//! write(g) ---> queue -> BEGIN +-- SAVEPOINT g RELEASE --+ COMMIT -> events, answers
//! write(h) --'                 '-- SAVEPOINT h ROLLBACK -'   |
//!                                                         one fsync
//! ```
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use events::Publisher;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use types::{Error, Result};

use super::{
    Signals,
    checkpoint::Checkpoints,
    fault::{Outcome, sql},
    file,
    tx::{Notes, Tx},
};

/// How many requests may wait before callers do.
const QUEUE: usize = 1024;

/// How many requests share a transaction at most.
const BATCH: usize = 256;

/// The way to the thread. Dropping it lets the thread end, and waits for that.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Request>>>,
    thread: Option<JoinHandle<()>>,
}

/// Something to be done in a transaction, for someone who waits.
trait Request: Send {
    /// Whether a power cut may undo it, as long as later requests are not there without it.
    fn is_lazy(&self) -> bool;

    /// Does it. Without notes it is to be rolled back.
    fn run(&mut self, connection: &Connection) -> Option<Notes>;

    /// Tells the outcome, or that it could not be committed.
    fn answer(self: Box<Self>, failure: Option<Error>);
}

struct Call<F, T> {
    is_lazy: bool,
    work: Option<F>,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Request for Call<F, T>
where
    F: FnOnce(&Tx<'_>) -> Outcome<T> + Send,
    T: Send,
{
    fn is_lazy(&self) -> bool {
        self.is_lazy
    }

    fn run(&mut self, connection: &Connection) -> Option<Notes> {
        let work = self.work.take()?;
        let tx = Tx::new(connection);
        let outcome = work(&tx).map_err(Error::from);
        let done = outcome.is_ok();
        self.outcome = Some(outcome);
        done.then(|| tx.into_notes())
    }

    fn answer(mut self: Box<Self>, failure: Option<Error>) {
        let outcome = match (self.outcome.take(), failure) {
            (Some(Ok(value)), None) => Ok(value),
            (Some(Err(error)), _) | (_, Some(error)) => Err(error),
            (None, None) => Err(Error::internal("request was not run")),
        };
        // Whoever asked may be gone; what was asked for was done all the same.
        drop(self.reply.send(outcome));
    }
}

impl Writer {
    /// Starts the thread on a connection, and another for the log. It tells events to `publisher`, and all else to `signals`.
    pub(crate) fn start(
        (connection, log): (Connection, Connection),
        signals: Arc<Signals>,
        publisher: Option<Arc<dyn Publisher>>,
    ) -> Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let herald = publisher.map(Herald::start);
        let thread = thread::Builder::new()
            .name("metadata".into())
            .spawn(move || serve(connection, log, requests, &signals, herald.as_ref()))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Lets `work` write, and answers when it is on disk and its events are published.
    ///
    /// # Cancel safety
    ///
    /// What has been queued is carried out, also when nobody waits for it any more.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.send(false, work).await
    }

    /// Lets `work` write, and answers when readers see it. It is on disk with the next [`write`],
    /// and never later than that.
    ///
    /// [`write`]: Self::write
    pub(crate) async fn write_lazily<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.send(true, work).await
    }

    async fn send<T: Send + 'static>(
        &self,
        is_lazy: bool,
        work: impl FnOnce(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::unavailable("metadata database is closed");
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { is_lazy, work: Some(work), outcome: None, reply });
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send(call).await.map_err(|_closed| gone())?;
        answer.await.map_err(|_closed| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let Some(writing) = self.thread.take() else { return };
        // A request may hold the last handle of the database, and is dropped by the thread itself.
        if writing.thread().id() != thread::current().id() && writing.join().is_err() {
            tracing::error!("the metadata writer panicked");
        }
    }
}

fn serve(
    mut connection: Connection,
    log: Connection,
    mut requests: mpsc::Receiver<Box<dyn Request>>,
    signals: &Signals,
    herald: Option<&Herald>,
) {
    if let Err(error) = signals.touched.attach(&mut connection) {
        tracing::error!(%error, "metadata database cannot be watched, so nothing is written");
        return;
    }
    let checkpoints = match Checkpoints::start(&mut connection, log) {
        Ok(checkpoints) => Some(checkpoints),
        Err(error) => {
            tracing::warn!(%error, "the metadata log is moved by the writer itself");
            None
        }
    };
    while let Some(first) = requests.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = requests.try_recv()
        {
            batch.push(next);
        }
        commit(&connection, batch, signals, herald);
    }
    if let Some(checkpoints) = checkpoints {
        checkpoints.stop(&mut connection);
    }
    file::close(&connection);
}

fn commit(
    connection: &Connection,
    mut batch: Vec<Box<dyn Request>>,
    signals: &Signals,
    herald: Option<&Herald>,
) {
    let outcome = transact(connection, &mut batch);
    signals.moved();
    match outcome {
        Ok(notes) => {
            for (request, notes) in batch.into_iter().zip(notes) {
                signals.committed(notes.as_ref());
                let events = notes.map(|notes| notes.events).unwrap_or_default();
                match herald.filter(|_| !events.is_empty()) {
                    Some(herald) => herald.tell(events, request),
                    None => request.answer(None),
                }
            }
        }
        Err(error) => {
            let error = sql(error).context("commit");
            tracing::error!(%error, requests = batch.len(), "metadata could not be written");
            for request in batch {
                request.answer(Some(Error::said(error.kind(), error.to_string())));
            }
        }
    }
}

/// Runs the batch in one transaction. An error means that nothing of it happened.
fn transact(
    connection: &Connection,
    batch: &mut [Box<dyn Request>],
) -> rusqlite::Result<Vec<Option<Notes>>> {
    let is_lazy = batch.iter().all(|request| request.is_lazy());
    if is_lazy {
        connection.execute_batch("PRAGMA synchronous=NORMAL")?;
    }
    let outcome = transact_as_set(connection, batch);
    if is_lazy {
        connection.execute_batch("PRAGMA synchronous=FULL")?;
    }
    outcome
}

fn transact_as_set(
    connection: &Connection,
    batch: &mut [Box<dyn Request>],
) -> rusqlite::Result<Vec<Option<Notes>>> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut run = || {
        let notes = batch
            .iter_mut()
            .map(|request| step(connection, request.as_mut()))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(notes)
    };
    let outcome = run();
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

fn step(connection: &Connection, request: &mut dyn Request) -> rusqlite::Result<Option<Notes>> {
    let run = |statement| connection.prepare_cached(statement)?.execute([]);
    run("SAVEPOINT request")?;
    let notes = request.run(connection);
    if notes.is_none() {
        run("ROLLBACK TO request")?;
    }
    run("RELEASE request")?;
    Ok(notes)
}

/// Publishes in the order of commits, and answers after that.
///
/// A publisher may be slow: it delays the answers to those whose events it has, but no commit.
#[derive(Debug)]
struct Herald {
    told: mpsc::UnboundedSender<Told>,
}

struct Told {
    events: Vec<(String, events::Event)>,
    request: Box<dyn Request>,
}

impl Herald {
    /// The task ends when the writer's thread does.
    fn start(publisher: Arc<dyn Publisher>) -> Self {
        let (told, mut queue) = mpsc::unbounded_channel::<Told>();
        tokio::spawn(async move {
            while let Some(Told { events, request }) = queue.recv().await {
                for (namespace, event) in events {
                    publish(&*publisher, &namespace, event).await;
                }
                request.answer(None);
            }
        });
        Self { told }
    }

    fn tell(&self, events: Vec<(String, events::Event)>, request: Box<dyn Request>) {
        if let Err(mpsc::error::SendError(told)) = self.told.send(Told { events, request }) {
            // The runtime is shutting down: what was asked for was done, though nobody heard of it.
            told.request.answer(None);
        }
    }
}

async fn publish(publisher: &dyn Publisher, namespace: &str, event: events::Event) {
    if let Err(error) = publisher.publish(namespace, event.topic, event.body).await {
        tracing::warn!(%error, namespace, topic = event.topic, "event could not be published");
    }
}
