// SPDX-License-Identifier: Apache-2.0
//! Standing in for a process: what comes to us goes to it, and we end as it does.
use std::{process::ExitCode, time::Duration};

use client::Process;
use runtime::Exit;
use tokio::sync::mpsc::UnboundedReceiver;
use types::{Context as _, Error, Kind, Result};

use crate::{output::BROKEN_PIPE, signals, stdio::Listeners, terminal::Terminal};

/// How often a daemon that went away is asked again, and how long is waited before: a minute in all.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(500);

/// Stands in for one process.
pub(crate) struct Follower {
    listeners: Listeners,
    terminal: Option<Terminal>,
    signals: UnboundedReceiver<u32>,
}

impl Follower {
    /// Catches signals from here on, and with `tty` hands over the terminal.
    pub(crate) fn new(tty: bool, listeners: Listeners) -> Result<Self> {
        let signals = signals::catch().context(|| "catch signals")?;
        let terminal = tty.then(Terminal::raw).transpose()?;
        Ok(Self { listeners, terminal, signals })
    }

    /// Tells the process's terminal how large ours is. Before it is started it may have none.
    pub(crate) async fn resize(&self, process: &Process) {
        if let Some(size) = self.terminal.as_ref().and_then(Terminal::size) {
            // A terminal of the wrong size is no reason to stop, and the process may have ended.
            drop(process.resize(size.width, size.height).await);
        }
    }

    /// Waits until the process ends, and passes on all signals meanwhile. None if before that
    /// whoever reads our output went away.
    pub(crate) async fn follow(&mut self, process: &Process) -> Result<Option<Exit>> {
        self.resize(process).await;
        let ended = ended(process);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                exit = &mut ended => return exit.map(Some),
                () = self.listeners.left() => return Ok(None),
                Some(signal) = self.signals.recv() => self.pass_on(process, signal).await?,
            }
        }
    }

    /// Stays with a process that was started for us until it has ended, and deletes it. Without
    /// anybody to listen it is killed, as a broken pipe would have done.
    pub(crate) async fn finish(mut self, process: Process) -> Result<ExitCode> {
        let exit = self.follow(&process).await?;
        if exit.is_none() {
            process.end().await?;
        }
        match process.delete().await {
            // Whoever deleted its task meanwhile has deleted it too.
            Err(error) if error.is_not_found() => {}
            deleted => drop(deleted?),
        }
        Ok(code(exit))
    }

    /// Fails only without a daemon: then the signal is for us, so that we can be ended.
    async fn pass_on(&self, process: &Process, signal: u32) -> Result<()> {
        if signal == signals::WINCH && self.terminal.is_some() {
            self.resize(process).await;
            return Ok(());
        }
        match process.kill(signal, false).await {
            // It has ended by itself meanwhile.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => {}
            Err(error) if is_cut(&error) => return Err(error),
            Err(error) => eprintln!("ctr: pass on signal {signal}: {error}"),
            Ok(()) => {}
        }
        Ok(())
    }
}

/// Waits for a process to end. What it writes comes from its shim and not from the daemon, so a
/// daemon that is being restarted is no reason to leave.
async fn ended(process: &Process) -> Result<Exit> {
    for _ in 0..TRIES {
        match process.wait().await {
            Err(error) if is_cut(&error) => tokio::time::sleep(PAUSE).await,
            ended => return ended,
        }
    }
    process.wait().await
}

/// Whether the daemon went away while it was asked. A connection that breaks has no code of its own.
fn is_cut(error: &Error) -> bool {
    error.kind() == Kind::Unavailable
        || error.kind() == Kind::Unknown && error.to_string() == "transport error"
}

/// The exit status of a process as ours; without one nobody listened to the end.
pub(crate) fn code(exit: Option<Exit>) -> ExitCode {
    ExitCode::from(exit.map_or(BROKEN_PIPE, |exit| exit.status as u8))
}
