// SPDX-License-Identifier: Apache-2.0
//! Standing in for a process: what comes to us goes to it, and we end as it does.
use std::process::ExitCode;

use client::Process;
use runtime::Exit;
use tokio::sync::mpsc::UnboundedReceiver;
use types::{Context as _, Kind, Result};

use crate::{signals, terminal::Terminal};

/// Somebody to stand in for.
pub(crate) struct Follower {
    terminal: Option<Terminal>,
    signals: UnboundedReceiver<u32>,
}

impl Follower {
    /// Catches signals from here on, and with `tty` hands over the terminal.
    pub(crate) fn new(tty: bool) -> Result<Self> {
        let signals = signals::catch().context(|| "catch signals")?;
        let terminal = tty.then(Terminal::raw).transpose()?;
        Ok(Self { terminal, signals })
    }

    /// Tells the process's terminal how large ours is. Before it is started it may have none.
    pub(crate) async fn resize(&self, process: &Process) {
        if let Some(size) = self.terminal.as_ref().and_then(Terminal::size) {
            // A terminal of the wrong size is no reason to stop, and the process may have ended.
            drop(process.resize(size.width, size.height).await);
        }
    }

    /// Waits until the process ends, and passes on all signals meanwhile.
    pub(crate) async fn follow(mut self, process: &Process) -> Result<Exit> {
        self.resize(process).await;
        let wait = process.wait();
        tokio::pin!(wait);
        loop {
            tokio::select! {
                exit = &mut wait => return exit,
                Some(signal) = self.signals.recv() => self.pass_on(process, signal).await?,
            }
        }
    }

    async fn pass_on(&self, process: &Process, signal: u32) -> Result<()> {
        if signal == signals::WINCH && self.terminal.is_some() {
            self.resize(process).await;
            return Ok(());
        }
        match process.kill(signal, false).await {
            // It has ended by itself meanwhile.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => {
                Ok(())
            }
            passed => passed.context(|| format!("pass on signal {signal}")),
        }
    }
}

/// The exit status of a process as ours.
pub(crate) fn code(exit: &Exit) -> ExitCode {
    ExitCode::from(exit.status as u8)
}
