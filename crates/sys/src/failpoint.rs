// SPDX-License-Identifier: Apache-2.0
//! Named points at which a test can make the process die as if it were killed.
//!
//! The environment variable `CONTAINERD_FAILPOINT` names one of them: `snapshots.commit.sealed` ends
//! the process when it gets there, `snapshots.commit.sealed:3` when it gets there for the third time.
//! Only builds with debug assertions know of this.

/// Ends the process without any cleaning up, if a test asked for it here.
///
/// It costs nothing in a release build, and a look at a value read once in any other.
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    armed::reached(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    struct Armed {
        name: String,
        left: AtomicU32,
    }

    pub(super) fn reached(name: &str) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| {
            std::env::var("CONTAINERD_FAILPOINT").ok().map(|text| {
                let (name, count) = parse(&text);
                Armed { name: name.to_owned(), left: AtomicU32::new(count) }
            })
        });
        let Some(armed) = armed else { return };
        if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            die();
        }
    }

    /// A name, and at which time of getting there: the first unless it says otherwise.
    pub(super) fn parse(text: &str) -> (&str, u32) {
        match text.rsplit_once(':').map(|(name, count)| (name, count.parse())) {
            Some((name, Ok(count))) if count > 0 => (name, count),
            _ => (text, 1),
        }
    }

    /// As a kill -9 does it: no handler runs, no destructor, no core is written.
    fn die() -> ! {
        let pid = rustix::process::getpid();
        _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        std::process::abort()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_is_named_with_or_without_a_count() {
            assert_eq!(parse("a.b"), ("a.b", 1));
            assert_eq!(parse("a.b:3"), ("a.b", 3));
            assert_eq!(parse("a.b:0"), ("a.b:0", 1));
            assert_eq!(parse("a:b"), ("a:b", 1));
        }
    }
}
