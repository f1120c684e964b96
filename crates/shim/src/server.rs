// SPDX-License-Identifier: Apache-2.0
//! The long-lived part of a shim: one thread that serves, reaps and tells.
use std::{
    env,
    os::{fd::RawFd, unix::net::UnixListener as StdListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use sys::{Signals, inherited, memory, reaper::Reaper};
use tokio::{
    net::UnixListener,
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};
use types::{Context as _, Error, Result};

use crate::{
    Exits, Flags, Publisher, Ready, Shim, Task,
    bootstrap::TTRPC_ADDRESS,
    log,
    publisher::Daemon,
    sandbox::Sandbox,
    socket,
    task::{Activity, Wire},
};

/// The number under which the server inherits the socket it listens on.
pub(crate) const LISTENER: RawFd = 3;

/// How long a shim without tasks waits for somebody to call.
const IDLE: Duration = Duration::from_mins(1);
/// How long after a call memory is given back.
const TIDY: Duration = Duration::from_secs(1);
/// How long calls may go on, once the shim ends.
const LAST_CALLS: Duration = Duration::from_secs(2);
/// How long the daemon may take to hear the last events.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// What a service is given to work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The namespace of all its tasks.
    pub namespace: String,
    /// The task that the shim was started for, which names the group.
    pub id: String,
    /// The bundle of that task.
    pub bundle: PathBuf,
    /// How processes end.
    pub exits: Exits,
    /// Where to tell what happens.
    pub publisher: Publisher,
    /// Ends the shim.
    pub stop: Stop,
}

/// Ends a shim: it takes no more calls, answers those that run, and goes. Clones end the same.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Ends it.
    pub fn now(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is to end.
    pub async fn asked(&self) {
        // The sender is ours: it cannot be gone.
        drop(self.0.subscribe().wait_for(|stop| *stop).await);
    }
}

/// Serves until there is nothing left to look after.
pub(crate) fn serve(shim: &impl Shim, flags: &Flags) -> Result<()> {
    // Before anything else, while this is the only thread.
    memory::share_one_arena();
    let reaper = Reaper::adopt()?;
    let signals = Signals::block(&[Signal::TERM, Signal::INT])?;
    // Without a log there is nobody to tell that there is no log.
    drop(log::begin(Path::new("log"), flags.debug));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_millis(100))
        .build()?;
    let served = runtime.block_on(live(shim, flags, reaper, signals));
    runtime.shutdown_background();
    served
}

async fn live(shim: &impl Shim, flags: &Flags, reaper: Reaper, signals: Signals) -> Result<()> {
    let listener = listener(flags)?;
    let address = fs_err::read_to_string("address").unwrap_or_default();
    let (exits, stop) = (Exits::default(), Stop::new());
    let publisher = Publisher::start(&flags.namespace, daemon(flags));
    let task = shim.serve(Context {
        namespace: flags.namespace.clone(),
        id: flags.id.clone(),
        bundle: env::current_dir()?,
        exits: exits.clone(),
        publisher: publisher.clone(),
        stop: stop.clone(),
    })?;
    let activity = Activity::new();
    tokio::spawn(exits.follow(reaper));
    tokio::spawn(end_on_signal(signals, stop.clone()));
    let idle = Arc::clone(&task);
    let idle = move || idle.is_idle();
    tokio::spawn(end_when_idle(idle, Arc::clone(&activity), stop.clone(), IDLE));
    tokio::spawn(tidy_up(Arc::clone(&activity)));
    debug!(id = flags.id, namespace = flags.namespace, "shim serves");

    serve_calls(listener, task, activity, &stop, &address).await?;
    publisher.flush(LAST_EVENTS).await;
    Ok(())
}

/// Serves until told to stop. The socket's name is gone first, so that whoever starts a shim of the
/// same group from then on gets a new one.
async fn serve_calls(
    listener: UnixListener,
    task: Arc<dyn Task>,
    activity: Arc<Activity>,
    stop: &Stop,
    address: &str,
) -> Result<()> {
    let sandbox = Arc::new(Sandbox::new(Arc::clone(&activity), stop.clone()));
    let wire: Arc<Wire> = Arc::new(Wire::new(task, activity));
    let server = ttrpc::Server::new()
        .require_same_user()
        .service(api::service::SANDBOX, sandbox)
        .service(api::service::TASK_V2, Arc::clone(&wire) as _)
        .service(api::service::TASK_V3, wire);
    let asked = async {
        stop.asked().await;
        if !address.is_empty()
            && let Err(error) = socket::remove(address)
        {
            warn!(%error, "remove the shim's socket");
        }
    };
    let last = async {
        stop.asked().await;
        sleep(LAST_CALLS).await;
    };
    tokio::select! {
        served = server.serve(listener, asked) => served.context(|| "ttrpc server failure"),
        () = last => Ok(()),
    }
}

fn daemon(flags: &Flags) -> Daemon {
    Daemon {
        ttrpc_address: env::var(TTRPC_ADDRESS).unwrap_or_default(),
        address: flags.address.clone(),
        publish_binary: flags.publish_binary.clone(),
    }
}

fn listener(flags: &Flags) -> Result<UnixListener> {
    let listener = if flags.socket.is_empty() {
        let inherited = inherited::take(LISTENER);
        StdListener::from(inherited.context(|| "the shim was not started by its start command")?)
    } else {
        StdListener::bind(&flags.socket)
            .map_err(|error| Error::from(error).context(format!("listen on {}", flags.socket)))?
    };
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// Compat: Go's shims end on SIGTERM and SIGINT, and their daemon cleans up after them (containerd
/// `pkg/shim/shim_unix.go`, `handleExitSignals`).
async fn end_on_signal(signals: Signals, stop: Stop) {
    let Ok(signals) = Ready::to_read(signals) else { return };
    while signals.readable().await.is_ok() {
        if let Ok(Some(received)) = signals.file().next() {
            info!(signal = ?received.signal, "caught exit signal");
            return stop.now();
        }
    }
}

/// Gives memory back a little after it was used: most of the time a shim only waits.
async fn tidy_up(activity: Arc<Activity>) {
    loop {
        activity.call_ended().await;
        sleep(TIDY).await;
        memory::give_back();
        // It is as good as before if that did not work.
        drop(memory::let_go_of_code());
    }
}

/// A shim whose last task is gone is told to shut down. If its daemon never says so, because it is
/// gone as well, the shim ends by itself.
async fn end_when_idle(
    is_idle: impl Fn() -> bool,
    activity: Arc<Activity>,
    stop: Stop,
    limit: Duration,
) {
    loop {
        let quiet = if is_idle() { activity.quiet_for() } else { Duration::ZERO };
        if quiet >= limit {
            info!("nothing left to look after");
            return stop.now();
        }
        if timeout(limit.saturating_sub(quiet), stop.asked()).await.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_shim_without_tasks_ends_when_nobody_has_called_for_a_while() {
        let (stop, is_idle) = (Stop::new(), Arc::new(AtomicBool::new(false)));
        let asked = Arc::clone(&is_idle);
        let limit = Duration::from_millis(20);
        let idle = move || asked.load(Ordering::Relaxed);
        tokio::spawn(end_when_idle(idle, Activity::new(), stop.clone(), limit));
        let ended = timeout(limit * 10, stop.asked()).await;
        assert!(ended.is_err(), "it ended though it has tasks");
        is_idle.store(true, Ordering::Relaxed);
        timeout(Duration::from_secs(10), stop.asked()).await.expect("it ends");
    }
}
