// SPDX-License-Identifier: Apache-2.0
//! Running the tools of the trade: cargo and its like, in sight of whoever waits.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Context, Failure, Outcome, parts, process};

use crate::stop;

/// A cargo command in the workspace.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(parts::workspace());
    // What `cargo run` told this program is about this program.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end in a process group of its own, passing each line of its standard
/// output to `heard`. Its errors go where ours go. Tells whether it succeeded.
pub(crate) fn watched(
    command: &mut Command,
    limit: Duration,
    mut heard: impl FnMut(&str),
) -> Outcome<bool> {
    let line = process::shown(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context(format!("start {line}"))?;
    let lines = lines(&mut child)?;
    let started = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => heard(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if stop::asked() || started.elapsed() > limit {
            end(&mut child)?;
            let why = if stop::asked() { "was interrupted" } else { "took too long" };
            return Err(Failure::new(format!("{line} {why}")));
        }
    }
    Ok(child.wait()?.success())
}

fn lines(child: &mut Child) -> Outcome<Receiver<String>> {
    let stdout = child.stdout.take().context("standard output was piped")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Ends a command and all that it started, politely at first.
fn end(child: &mut Child) -> Outcome {
    let group = format!("-{}", child.id());
    for signal in ["-TERM", "-KILL"] {
        drop(Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status());
        for _ in 0..50 {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    Err(Failure::new(format!("process {} does not end", child.id())))
}
