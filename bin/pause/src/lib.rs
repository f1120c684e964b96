// SPDX-License-Identifier: Apache-2.0
//! The first process of a sandbox, as a program that others carry with them.
//!
//! It is static and as small as a program can be, and it is never installed: the daemon has it
//! inside, and puts it where its sandboxes find it. So it is always the daemon's own, and no image
//! has to be pulled for it. What it does is in `program.rs`.

/// The program, as the kernel runs it.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{fs::PermissionsExt, process::ExitStatusExt},
        process::{Child, Command},
        time::{Duration, Instant},
    };

    use rustix::process::{Pid, Signal, kill_process};
    use tempfile::TempDir;

    use super::*;

    fn installed() -> (TempDir, Command) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("pause");
        fs_err::write(&path, PROGRAM).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        (directory, Command::new(path))
    }

    fn signal(child: &Child, signal: Signal) {
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Whether the process is the program, and sleeps in the one call that it waits in.
    fn waits(child: &Child) -> bool {
        let status = format!("/proc/{}/status", child.id());
        let text = fs_err::read_to_string(status).unwrap();
        text.contains("Name:\tpause\n") && text.contains("State:\tS")
    }

    /// A child that does not outlive a test that fails.
    struct Guarded(Child);

    impl Drop for Guarded {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn until(what: &str, mut is_done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_done() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn it_is_a_few_pages() {
        assert!(PROGRAM.len() < 16 << 10, "{} bytes", PROGRAM.len());
        assert_eq!(&PROGRAM[..4], b"\x7fELF");
    }

    #[test]
    fn it_waits_until_it_is_told_to_end() {
        let (_directory, mut command) = installed();
        for ending in [Signal::TERM, Signal::INT] {
            let mut child = Guarded(command.spawn().unwrap());
            until("it waits", || waits(&child.0));
            signal(&child.0, Signal::CHILD);
            until("it waits again", || waits(&child.0));
            assert!(child.0.try_wait().unwrap().is_none());
            signal(&child.0, ending);
            let ended = child.0.wait().unwrap();
            assert_eq!((ended.code(), ended.signal()), (Some(0), None));
        }
    }

    /// It becomes another program's shell, whose children it inherits: their ends are noted.
    #[test]
    fn it_leaves_no_zombies() {
        let (directory, _) = installed();
        let path = directory.path().join("pause");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("sleep 0.05 & sleep 0.1 & exec {}", path.display()));
        let mut child = Guarded(shell.spawn().unwrap());
        let children = format!("/proc/{0}/task/{0}/children", child.0.id());
        until("it waits", || waits(&child.0));
        until("no children", || fs_err::read_to_string(&children).unwrap().is_empty());
        signal(&child.0, Signal::TERM);
        assert!(child.0.wait().unwrap().success());
    }
}
