// SPDX-License-Identifier: Apache-2.0
//! Places at which a test can have a program die, hang or fail.
//!
//! A place has a name, and says when it is reached. A test arms it by a file of that name in the
//! directory that [`DIRECTORY`] names; what the file says happens once, because whoever reaches the
//! place takes the file away first:
//!
//! | in the file | what happens |
//! |---|---|
//! | `kill` | the process is killed, as by a power cut or the kernel's memory killer |
//! | `hang` | the thread goes no further |
//! | anything else | the step fails with that text |
//!
//! Programs that are built for release know nothing of it: there, a place is no code at all.
use std::io;

/// The environment variable that names the directory. Programs pass it on to those they start.
pub const DIRECTORY: &str = "CONTAINERD_FAILPOINTS";

/// Does what a test has asked for at this place, which is nothing as a rule.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_: &str) -> io::Result<()> {
    Ok(())
}

/// Does what a test has asked for at this place, which is nothing as a rule.
#[cfg(debug_assertions)]
pub fn reach(name: &str) -> io::Result<()> {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return Ok(()) };
    let file = std::path::Path::new(&directory).join(name);
    let Ok(action) = fs_err::read_to_string(&file) else { return Ok(()) };
    // Several may come here at once: the one who takes the file away is meant.
    if fs_err::remove_file(&file).is_err() {
        return Ok(());
    }
    match action.trim() {
        "kill" => loop {
            crate::kill::process(std::process::id(), libc::SIGKILL)?;
        },
        "hang" => loop {
            std::thread::park();
        },
        text => Err(io::Error::other(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the part of a program, in a process of its own, that reaches `test.place` twice.
    #[test]
    fn reaches_twice() {
        if std::env::var_os("FAILPOINT_TEST").is_some() {
            let said = reach("test.place").map_err(|error| error.to_string());
            println!("first {said:?}, then {:?}", reach("test.place").is_ok());
        }
    }

    fn play(action: &str) -> crate::Output {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("test.place"), action).unwrap();
        fs_err::write(dir.path().join("test.other"), "kill").unwrap();
        let played = crate::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "failpoint::tests::reaches_twice", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .env("FAILPOINT_TEST", "1")
            .output()
            .unwrap();
        assert!(!dir.path().join("test.place").exists() && dir.path().join("test.other").exists());
        played
    }

    #[test]
    fn a_step_fails_once_with_what_the_file_says() {
        let played = play("no luck\n");
        let text = String::from_utf8_lossy(&played.stdout);
        assert!(text.contains("first Err(\"no luck\"), then true"), "{text}");
    }

    #[test]
    fn a_process_is_killed_where_it_is() {
        assert_eq!(play("kill").exit, crate::Exit::Signal(9));
    }
}
