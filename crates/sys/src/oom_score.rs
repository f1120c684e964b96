// SPDX-License-Identifier: Apache-2.0
//! `oom_score_adj`: whom the kernel ends first when memory runs out.
use std::{fmt::Write, io};

use fs_err as fs;

/// The least score: never chosen.
pub const MIN: i32 = -1000;
/// The greatest score: chosen first.
pub const MAX: i32 = 1000;

/// The score of a process.
pub fn get(pid: u32) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Sets the score of a process. To lower it below where it ever was takes `CAP_SYS_RESOURCE`:
/// without, it is [`io::ErrorKind::PermissionDenied`], which most callers log and pass over.
pub fn set(pid: u32, score: i32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
}

/// A score as text on the stack, for a child between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Text {
    bytes: [u8; 8],
    len: usize,
}

impl Text {
    pub(crate) fn new(score: i32) -> Self {
        let mut text = Self { bytes: [0; 8], len: 0 };
        write!(text, "{}", score.clamp(MIN, MAX)).expect("five characters fit");
        text
    }

    /// Sets our own score if the kernel lets us. Neither allocates nor panics.
    pub(crate) fn apply_to_self(&self) {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty());
        if let Ok(file) = file {
            _ = rustix::io::write(file, &self.bytes[..self.len]);
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_kept_in_its_bounds() {
        let text = Text::new(-5000);
        assert_eq!(&text.bytes[..text.len], b"-1000");
    }

    #[test]
    fn our_own_score_can_be_read_and_set_to_what_it_is() {
        let pid = std::process::id();
        set(pid, get(pid).unwrap()).unwrap();
    }
}
