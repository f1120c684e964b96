// SPDX-License-Identifier: Apache-2.0
//! A process that reaps, alone: `SIGCHLD` goes to any thread that does not block it, so this test
//! has no harness and no other thread.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use sys::{Command, Exit, reaper::Reaper};

fn main() -> io::Result<()> {
    let reaper = Reaper::adopt()?;
    orphans_come_to_us(&reaper)?;
    exits_that_became_one_signal_are_all_found(&reaper)?;
    println!("reaper: ok");
    Ok(())
}

fn orphans_come_to_us(reaper: &Reaper) -> io::Result<()> {
    let output = Command::new("sh").args(["-c", "(sleep 0.1; exit 3) & echo $!"]).output()?;
    let orphan: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a pid");
    let exit = loop {
        poll(&mut [PollFd::new(reaper, PollFlags::IN)], None)?;
        if let Some(reaped) = reaper.reap()?.iter().find(|reaped| reaped.pid == orphan) {
            break reaped.exit;
        }
    };
    assert_eq!(exit, Exit::Code(3));
    Ok(())
}

fn exits_that_became_one_signal_are_all_found(reaper: &Reaper) -> io::Result<()> {
    let mut pids = Vec::new();
    for _ in 0..20 {
        pids.push(Command::new("true").spawn()?.pid());
    }
    while !pids.is_empty() {
        poll(&mut [PollFd::new(reaper, PollFlags::IN)], None)?;
        let reaped = reaper.reap()?;
        pids.retain(|pid| reaped.iter().all(|reaped| reaped.pid != *pid));
    }
    Ok(())
}
