// SPDX-License-Identifier: Apache-2.0
//! Programs that are run, watched and never waited for without an end.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::{settled, until};
use crate::{Context, Failure, Outcome, ensure};

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, as a person would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The exit status as a shell gives it; a killed program has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Both streams, for a report.
    pub fn told(&self) -> String {
        format!("$ {}\n{}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }

    /// Fails unless the program ended with zero; gives its standard output.
    pub fn ok(self) -> Outcome<String> {
        ensure!(self.status.success(), "expected success\n{}", self.told());
        Ok(self.stdout)
    }

    /// Fails unless the program failed and said all of `words` on its standard error.
    pub fn refused(&self, words: &[&str]) -> Outcome {
        ensure!(!self.status.success(), "expected a refusal\n{}", self.told());
        for word in words {
            ensure!(self.stderr.contains(word), "expected {word:?} in\n{}", self.told());
        }
        Ok(())
    }
}

/// Runs a program to its end, at most for `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Outcome<Output> {
    Running::start(command)?.wait(limit)
}

/// Runs a program to its end as [`run`] does, and passes its standard error on while it arrives.
pub fn run_aloud(command: &mut Command, limit: Duration) -> Outcome<Output> {
    let mut running = Running::start(command)?;
    let mut passed_on = 0;
    until("its end", limit, || {
        let ended = running.child.try_wait()?;
        let text = running.stderr();
        eprint!("{}", text.get(passed_on..).unwrap_or_default());
        passed_on = text.len();
        Ok(ended)
    })
    .context(shown(command))?;
    running.wait(limit)
}

/// A program that runs in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    stdout: Tap,
    stderr: Tap,
}

impl Running {
    /// Starts a program in a process group of its own, so that a terminal's interrupt reaches only
    /// whoever asked for it. Its standard input is empty unless the command says otherwise.
    pub fn start(command: &mut Command) -> Outcome<Self> {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// Starts a program whose standard input is held open for [`feed`](Self::feed).
    pub fn start_fed(command: &mut Command) -> Outcome<Self> {
        Self::spawn(command.stdin(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Outcome<Self> {
        let line = shown(command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context(format!("start {line}"))?;
        let stdout = Tap::open(child.stdout.take().context("stdout was piped")?);
        let stderr = Tap::open(child.stderr.take().context("stderr was piped")?);
        Ok(Self { command: line, child, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Writes to its standard input.
    pub fn feed(&mut self, bytes: &[u8]) -> Outcome {
        let stdin = self.child.stdin.as_mut().context("standard input is not held open")?;
        stdin.write_all(bytes).context(format!("write to {}", self.command))
    }

    /// Closes its standard input.
    pub fn hang_up(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Outcome {
        send(self.pid(), signal).context(format!("signal {}", self.command))
    }

    /// Waits until its standard output satisfies `enough`.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        enough: impl Fn(&str) -> bool,
    ) -> Outcome<String> {
        until(what, limit, || {
            let text = self.stdout.text();
            if enough(&text) {
                return Ok(Some(text));
            }
            let ended = self.child.try_wait()?;
            let late = self.stdout.closed() && !enough(&self.stdout.text());
            ensure!(ended.is_none() || !late, "{} ended before {what}", self.command);
            Ok(None)
        })
        .map_err(|failure| failure.with_section("it said", &self.told()))
    }

    /// Waits for its end, at most for `limit`, and gives what it said.
    pub fn wait(mut self, limit: Duration) -> Outcome<Output> {
        let waited = until("its end", limit, || Ok(self.child.try_wait()?));
        let status = waited
            .context(format!("$ {}", self.command))
            .map_err(|failure| failure.with_section("it said", &self.told()))?;
        // A grandchild may hold the pipes open for ever: what was said by now is what counts.
        settled(Duration::from_secs(2), || self.stdout.closed() && self.stderr.closed());
        Ok(Output {
            command: self.command.clone(),
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        })
    }

    fn told(&self) -> String {
        format!("$ {}\n{}{}", self.command, self.stdout.text(), self.stderr.text())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end_group(&mut self.child);
    }
}

/// Kills a child and collects it. One that has ended is only collected.
pub(crate) fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        drop(child.kill());
        drop(child.wait());
    }
}

/// Kills a child that leads a process group with all of that group, and collects it.
pub(crate) fn end_group(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        if let Some(group) = Pid::from_raw(child.id() as i32) {
            kill_process_group(group, Signal::KILL).ok();
        }
        end(child);
    }
}

/// Sends a signal to a process by its id.
pub fn send(pid: i32, signal: Signal) -> Outcome {
    let pid = Pid::from_raw(pid).context(format!("{pid} is not a process id"))?;
    kill_process(pid, signal).map_err(Failure::from)
}

/// A command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// One stream of a program, collected as it arrives.
#[derive(Debug)]
struct Tap {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tap {
    fn open(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                locked(&sink).extend_from_slice(&chunk[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&locked(&self.bytes)).into_owned()
    }

    fn closed(&self) -> bool {
        self.reader.is_finished()
    }
}

/// Locks what only this harness shares: a panic elsewhere leaves the bytes as good as before.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_and_the_status_are_kept() -> Outcome {
        let output = run(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10))?;
        assert_eq!((output.code(), output.stdout.as_str()), (Some(3), "out\n"));
        output.refused(&["err"])
    }

    #[test]
    fn a_program_that_hangs_is_a_failure_that_names_it() {
        let failure = run(&mut shell("echo started; sleep 60"), Duration::from_millis(200));
        let words = failure.expect_err("the limit is shorter").to_string();
        assert!(words.contains("sleep 60") && words.contains("started"), "{words}");
    }

    #[test]
    fn input_reaches_the_program_until_it_is_hung_up() -> Outcome {
        let mut cat = Running::start_fed(&mut Command::new("cat"))?;
        cat.feed(b"over the pipe")?;
        cat.hang_up();
        assert_eq!(cat.wait(Duration::from_secs(10))?.ok()?, "over the pipe");
        Ok(())
    }
}
