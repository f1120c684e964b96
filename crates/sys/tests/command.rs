// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use sys::{Command, Exit, reaper};

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn stdout_of(command: Command) -> String {
    let output = command.output().expect("the program runs");
    assert!(output.exit.success(), "{}: {}", output.exit, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("its output is text").trim().to_owned()
}

#[test]
fn both_streams_and_the_code_come_back() {
    let output = sh("echo out; echo err >&2; exit 7").output().unwrap();
    assert_eq!(output.exit, Exit::Code(7));
    assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
}

#[test]
fn streams_larger_than_a_pipe_do_not_block_each_other() {
    let script = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero";
    let output = sh(script).output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 300_000));
}

#[test]
fn a_program_that_takes_too_long_is_killed() {
    let quick = sh("echo 1; echo 2 >&2; echo 3; exit 4").output_within(Duration::from_secs(10));
    let quick = quick.unwrap();
    assert_eq!((quick.exit, quick.stdout.as_slice()), (Exit::Code(4), b"1\n2\n3\n".as_slice()));
    let slow = sh("exec sleep 100").output_within(Duration::from_millis(20)).unwrap_err();
    assert_eq!(slow.kind(), io::ErrorKind::TimedOut, "{slow}");
}

#[test]
fn combined_output_is_in_order() {
    let output = sh("echo 1; echo 2 >&2; echo 3").combined_output().unwrap();
    assert_eq!(output.stdout, b"1\n2\n3\n");
}

#[test]
fn a_program_that_does_not_exist_fails_to_spawn() {
    let error = Command::new("/no/such/program").umask(0o22).spawn().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_session_of_its_own_has_the_child_as_leader() {
    // Fields 1, 5 and 6 of proc(5)'s stat: pid, process group, session.
    let fields = stdout_of(sh("cut -d ' ' -f 1,5,6 /proc/$$/stat").session());
    let fields: Vec<_> = fields.split(' ').collect();
    assert!(fields.iter().all(|field| *field == fields[0]), "{fields:?}");
}

#[test]
fn umask_and_oom_score_are_the_childs_own() {
    assert_eq!(stdout_of(sh("umask").umask(0o27)), "0027");
    let before = sys::oom_score::get(std::process::id()).unwrap();
    assert_eq!(
        stdout_of(sh("cat /proc/self/oom_score_adj").oom_score_adj(before + 1)),
        format!("{}", before + 1)
    );
    // Lowering may be forbidden; that is no reason not to run.
    stdout_of(sh("true").oom_score_adj(-1000));
}

#[test]
fn passed_files_arrive_under_their_numbers_even_when_these_are_swapped() {
    let (mut first, for_child) = io::pipe().unwrap();
    let (mut second, for_child_too) = io::pipe().unwrap();
    let mut child = sh("echo three >&3; echo four >&4")
        .pass_fd(OwnedFd::from(for_child_too), 4)
        .pass_fd(OwnedFd::from(for_child), 3)
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let (mut three, mut four) = (String::new(), String::new());
    first.read_to_string(&mut three).unwrap();
    second.read_to_string(&mut four).unwrap();
    assert_eq!((three.as_str(), four.as_str()), ("three\n", "four\n"));
}

#[test]
fn an_exec_that_fails_is_told_even_when_files_are_passed() {
    let (_reader, writer) = io::pipe().unwrap();
    let command = Command::new("/no/such/program");
    let numbers = 3..40;
    let command = numbers.fold(command, |command, number| {
        command.pass_fd(OwnedFd::from(writer.try_clone().unwrap()), number)
    });
    assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_file_of_ours_that_is_not_passed_does_not_reach_the_child() {
    let (ours, writer) = io::pipe().unwrap();
    let listing = stdout_of(sh("ls /proc/$$/fd").pass_fd(OwnedFd::from(writer), 3));
    let numbers: Vec<_> = listing.split_whitespace().collect();
    assert!(numbers.contains(&"3"), "{numbers:?}");
    let ours = ours.as_raw_fd().to_string();
    assert!(ours == "3" || !numbers.contains(&ours.as_str()), "{numbers:?}");
}

#[test]
fn a_child_ends_with_the_thread_that_spawned_it() {
    let mut child = std::thread::spawn(|| {
        Command::new("sleep").arg("60").parent_death_signal(Signal::KILL).spawn().unwrap()
    })
    .join()
    .unwrap();
    assert_eq!(
        child.wait_timeout(Duration::from_secs(10)).unwrap(),
        Some(Exit::Signal(libc::SIGKILL))
    );
}

#[test]
fn waiting_has_an_end() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Signal(libc::SIGTERM));
    assert_eq!(child.wait().unwrap(), Exit::Signal(libc::SIGTERM), "a second time");
}

#[test]
fn the_reaper_does_not_steal_an_exit() {
    let mut child = sh("read line; exit 5").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut fds =
        [rustix::event::PollFd::from_borrowed_fd(child.pidfd(), rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    let reaped = reaper::reap().unwrap();
    // Another test's reaper may have been faster; the child keeps its exit in any case.
    for reaped in reaped.iter().filter(|reaped| reaped.pid == child.pid()) {
        assert_eq!(reaped.exit, Exit::Code(5));
    }
    assert_eq!(child.wait().unwrap(), Exit::Code(5));
}

#[test]
fn a_wait_that_began_before_the_reaper_came_is_answered() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = child.pid();
    let waiter = std::thread::spawn(move || child.wait().unwrap());
    sys::kill::process(pid, libc::SIGKILL).unwrap();
    while !waiter.is_finished() {
        reaper::reap().unwrap();
        std::thread::yield_now();
    }
    assert_eq!(waiter.join().unwrap(), Exit::Signal(libc::SIGKILL));
}
