// SPDX-License-Identifier: Apache-2.0
//! The standard output. Whoever reads it may go away at any time, as `head` does, and that is no
//! failure of ours.
use std::{
    fmt,
    io::{self, Write},
    process,
};

/// What a shell tells of a program that a broken pipe ended: 128 and the number of `SIGPIPE`.
pub(crate) const BROKEN_PIPE: u8 = 141;

/// Prints a line, at once: a pipe sees it as soon as it is said.
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// Prints a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut output = io::stdout().lock();
    finish(writeln!(output, "{text}"));
}

/// Prints each item on a line.
pub(crate) fn lines(items: impl IntoIterator<Item = impl fmt::Display>) {
    for item in items {
        line(format_args!("{item}"));
    }
}

/// Prints text as it is.
pub(crate) fn text(text: &str) {
    bytes(text.as_bytes());
}

/// Writes bytes as they are, and waits until they are taken: there is nothing else to do.
pub(crate) fn bytes(data: &[u8]) {
    let mut output = io::stdout().lock();
    finish(output.write_all(data).and_then(|()| output.flush()));
}

/// Ends the program when nobody listens any more. Anything else that can go wrong with a standard
/// output, such as a full disk, is told where it can be.
fn finish(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            process::exit(BROKEN_PIPE.into())
        }
        Err(error) => {
            eprintln!("ctr: standard output: {error}");
            process::exit(1);
        }
    }
}
