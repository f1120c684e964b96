// SPDX-License-Identifier: Apache-2.0
//! Commands that are shown, run and checked.

use std::thread;
use std::time::Duration;

use e2e::process::{Output, run, shown};
use e2e::{Ctr, Outcome, PATIENCE, Pty, Running, ensure};

use crate::{show, stop};

/// Where the commands of the demo are played.
pub(super) struct Stage<'a> {
    ctr: &'a Ctr,
}

impl<'a> Stage<'a> {
    pub(super) fn new(ctr: &'a Ctr) -> Self {
        Self { ctr }
    }

    /// Shows and runs a command that must succeed and say all of `words`.
    pub(super) fn ctr(&self, args: &[&str], words: &[&str]) -> Outcome<String> {
        let said = self.ctr_ending(args, &[0])?.stdout;
        for word in words {
            ensure!(said.contains(word), "it should have said {word:?}");
        }
        Ok(said)
    }

    /// Shows and runs a command that must end with one of `codes`.
    pub(super) fn ctr_ending(&self, args: &[&str], codes: &[i32]) -> Outcome<Output> {
        show::command(&line(args));
        let output = run(&mut self.ctr.bare(args), PATIENCE)?;
        show::said(&output.stdout);
        show::said(&output.stderr);
        let expected = output.code().is_some_and(|code| codes.contains(&code));
        ensure!(expected, "it ended with {}", output.status);
        Ok(output)
    }

    /// Shows and runs a command that must succeed, with its progress as it happens if somebody is
    /// looking.
    pub(super) fn watch(&self, args: &[&str]) -> Outcome<String> {
        if !show::on_terminal() {
            return self.ctr(args, &[]);
        }
        show::command(&line(args));
        let mut pty = Pty::start(&mut self.ctr.bare(args), 24, 100)?;
        let mut passed_on = 0;
        loop {
            let ended = pty.ended()?;
            // What was written before the end arrives a moment after it.
            thread::sleep(Duration::from_millis(30));
            let text = pty.shown();
            print!("{}", text.get(passed_on..).unwrap_or_default());
            show::flush();
            passed_on = text.len();
            if let Some(status) = ended {
                ensure!(status.success(), "it ended with {status}");
                return Ok(text);
            }
            ensure!(!stop::asked(), "interrupted");
        }
    }

    /// Shows and starts a listener of events, in the background.
    pub(super) fn listen(&self) -> Outcome<Running> {
        show::command("ctr events &");
        self.ctr.events()
    }

    /// Shows what a listener heard, once it has heard all of `topics`.
    pub(super) fn heard(&self, mut listener: Running, topics: &[&str]) -> Outcome {
        let complete = |text: &str| topics.iter().all(|topic| text.contains(topic));
        let text = listener.wait_for("the last event", PATIENCE, complete)?;
        let own = format!(" {} ", self.ctr.namespace());
        let lines =
            text.lines().filter(|line| line.contains(&own) && !line.contains(" /namespaces/"));
        for line in lines {
            println!("{}", brief(line));
        }
        Ok(())
    }
}

fn line(args: &[&str]) -> String {
    let mut command = std::process::Command::new("ctr");
    shown(command.args(args))
}

/// An event on one line of a terminal.
fn brief(line: &str) -> String {
    let mut text: String = line.chars().take(160).collect();
    if text.len() < line.len() {
        text.push_str(" ...");
    }
    text
}
