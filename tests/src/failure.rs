// SPDX-License-Identifier: Apache-2.0
//! What went wrong, as a sentence for whoever reads the report.

use std::fmt::{self, Debug, Display};
use std::io::Write;

/// What a step of the harness gives: nothing in particular, or why it failed.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A failed step, told in words.
///
/// `Debug` prints the words as they are, because that is what the test runner shows.
pub struct Failure(String);

impl Failure {
    /// Creates a failure from its words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// Appends a section, for instance a log, under a heading.
    #[must_use]
    pub fn with_section(mut self, heading: &str, body: &str) -> Self {
        self.0 = format!("{}\n---- {heading} ----\n{}\n", self.0, body.trim_end());
        self
    }

    /// Tells it beside the name of the test, and not only when all tests have ended: of a long run
    /// often only a part of the output is kept.
    #[must_use]
    pub fn told_at_once(self) -> Self {
        // Written as it is, since what is printed in a test is held back until the end.
        drop(std::io::stderr().write_all(format!("{self}\n").as_bytes()));
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            words = format!("{words}: {inner}");
            source = inner.source();
        }
        Self(words)
    }
}

/// Names the thing that failed.
pub trait Context<T> {
    /// Puts `what` in front of the words of a failure.
    fn context(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{what}: {}", error.into().0)))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl Display) -> Outcome<T> {
        self.ok_or_else(|| Failure(what.to_string()))
    }
}

/// Fails the step with a sentence unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($words)+)));
        }
    };
}
