// SPDX-License-Identifier: Apache-2.0
//! Whether a shim answers at all.
//!
//! One that let a question's deadline pass is silent: nobody waits for it again until it answers the
//! one question that is left with it. So a shim that hangs costs its deadline once, and no memory.
//!
//! ```text
//! answers --deadline passed, or the kernel has stopped it--> silent --answers the probe--> answers
//! ```
use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use fs_err as fs;
use tokio::sync::Notify;

/// After this long it is looked whether the shim can answer at all.
pub(crate) const GRACE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(crate) struct Silence {
    is_silent: AtomicBool,
    begun: Notify,
    /// The shim's own pid, 0 while it is not known.
    pid: AtomicU32,
}

impl Silence {
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Tells whoever waits for [`begun`](Self::begun), once.
    pub(crate) fn begin(&self) {
        if !self.is_silent.swap(true, Ordering::Relaxed) {
            self.begun.notify_one();
        }
    }

    pub(crate) async fn begun(&self) {
        self.begun.notified().await;
    }

    pub(crate) fn end(&self) {
        self.is_silent.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_of(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Whether the kernel has stopped the shim: then it is no use to wait for the deadline.
    pub(crate) fn is_stopped(&self) -> bool {
        let pid = self.pid.load(Ordering::Relaxed);
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        pid != 0 && stat().is_some_and(|stat| is_stopped(&stat))
    }
}

/// The state is what follows the name, which may hold parentheses itself (`proc_pid_stat(5)`).
fn is_stopped(stat: &str) -> bool {
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('T' | 't'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_process_is_told_by_its_state() {
        assert!(is_stopped("7 (a) T) T 1 7 7"));
        assert!(is_stopped("7 (shim) t 1"));
        for other in ["7 (T) S 1", "7 (a", "", "7 (a) R 1 T"] {
            assert!(!is_stopped(other), "{other}");
        }
    }

    #[tokio::test]
    async fn silence_is_told_once_and_ends() {
        let silence = Silence::default();
        silence.begin();
        silence.begin();
        silence.begun().await;
        assert!(silence.is_silent());
        assert!(tokio::time::timeout(GRACE, silence.begun()).await.is_err());
        silence.end();
        assert!(!silence.is_silent());
    }
}
