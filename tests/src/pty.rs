// SPDX-License-Identifier: Apache-2.0
//! A person's terminal, for `run -t`.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process::{end_group, locked, send};
use crate::wait::until;
use crate::{Context, Outcome};

/// A program on a terminal. Dropping it kills it.
#[derive(Debug)]
pub struct Pty {
    master: fs_err::File,
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts a program whose three streams are a new terminal of this size.
    pub fn start(command: &mut Command, rows: u16, columns: u16) -> Outcome<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).context("open a terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        tcsetwinsize(&slave, size(rows, columns))?;
        let streams = [slave.try_clone()?, slave.try_clone()?, slave];
        let [stdin, stdout, stderr] = streams.map(Stdio::from);
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn()?;
        // The command holds the terminal's other end until it is told to let go.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let screen = collect(master.try_clone()?);
        let master = fs_err::File::from_parts(std::fs::File::from(master), "terminal");
        Ok(Self { master, child, screen })
    }

    /// Everything that was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&locked(&self.screen)).into_owned()
    }

    /// Types something.
    pub fn type_in(&mut self, text: &str) -> Outcome {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Waits until `text` was shown.
    pub fn expect(&self, text: &str, limit: Duration) -> Outcome {
        until(&format!("{text:?} on the terminal"), limit, || {
            Ok(self.shown().contains(text).then_some(()))
        })
        .map_err(|failure| failure.with_section("the terminal shows", &self.shown()))
    }

    /// Changes the size, and tells the program as a kernel tells those whose controlling terminal
    /// it is.
    pub fn resize(&self, rows: u16, columns: u16) -> Outcome {
        tcsetwinsize(&self.master, size(rows, columns))?;
        send(self.child.id() as i32, Signal::WINCH)
    }

    /// How the program ended, if it has.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the program's end.
    pub fn wait(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        until("the end of the program on the terminal", limit, || Ok(self.child.try_wait()?))
            .map_err(|failure| failure.with_section("the terminal shows", &self.shown()))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        end_group(&mut self.child);
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn collect(master: OwnedFd) -> Arc<Mutex<Vec<u8>>> {
    let screen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&screen);
    thread::spawn(move || {
        let mut master = std::fs::File::from(master);
        let mut chunk = [0; 4096];
        // The read fails with EIO once nobody has the other end open any more.
        while let Ok(count @ 1..) = master.read(&mut chunk) {
            locked(&sink).extend_from_slice(&chunk[..count]);
        }
    });
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_a_terminal_of_the_size_asked_for() -> Outcome {
        let limit = Duration::from_secs(10);
        let mut pty = Pty::start(
            Command::new("sh").args(["-c", "stty size; read word; echo got $word"]),
            40,
            90,
        )?;
        pty.expect("40 90", limit)?;
        pty.type_in("typed\n")?;
        pty.expect("got typed", limit)?;
        assert!(pty.wait(limit)?.success());
        Ok(())
    }
}
