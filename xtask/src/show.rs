// SPDX-License-Identifier: Apache-2.0
//! What the tasks print.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Whether somebody is looking.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

fn painted(code: &str, text: &str) -> String {
    if on_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// What a person types.
pub(crate) fn bold(text: &str) -> String {
    painted("1", text)
}

/// What is said between the lines.
pub(crate) fn dim(text: &str) -> String {
    painted("2", text)
}

/// What went well.
pub(crate) fn green(text: &str) -> String {
    painted("32", text)
}

/// What did not.
pub(crate) fn red(text: &str) -> String {
    painted("31", text)
}

/// Begins a chapter.
pub(crate) fn chapter(title: &str) {
    println!("\n{}", bold(&format!("== {title}")));
    flush();
}

/// Prints the command line that is about to be run.
pub(crate) fn command(line: &str) {
    println!("{} {}", dim("$"), bold(line));
    flush();
}

/// Prints what a program said, as it said it, and ends its last line.
pub(crate) fn said(text: &str) {
    print!("{text}");
    if !text.is_empty() && !text.ends_with('\n') {
        println!();
    }
    flush();
}

/// Passes on bytes while they arrive.
pub(crate) fn flush() {
    // Nobody listening any more is no reason to leave things behind.
    drop(std::io::stdout().flush());
}

/// A duration for a person.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        all => format!("{} min {:02} s", all / 60, all % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(12)), "12 ms");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
