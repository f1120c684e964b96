// SPDX-License-Identifier: Apache-2.0
use std::path::PathBuf;

use types::{Error, Kind, Result};

use super::Stdio;

/// Where the streams of a process go, read from their names (containerd
/// `cmd/containerd-shim-runc-v2/process/io.go`, `createIO`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where input comes from.
    pub stdin: Option<PathBuf>,
    /// Where output goes.
    pub stdout: Sink,
    /// Where errors go.
    pub stderr: Sink,
}

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    Null,
    /// To a fifo, or to the end of a file that exists.
    Path(PathBuf),
    /// To the end of a file, which is made if it is missing.
    File(PathBuf),
    /// To a program, which takes output and errors both.
    Logger(Logger),
}

/// A program that logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logger {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside what it is told of the process.
    pub env: Vec<(String, String)>,
    /// Whether it must say that it is ready; else it may also just close the file.
    pub must_be_ready: bool,
}

impl Plan {
    /// Reads the names. The scheme of output decides for errors too.
    ///
    /// Errors: `Unknown`, as in Go, for a scheme that is not known.
    pub fn of(stdio: &Stdio) -> Result<Self> {
        let stdin = (!stdio.stdin.is_empty()).then(|| stdio.stdin.clone().into());
        let (stdout, stderr) = match stdio.stdout.split_once("://") {
            None => (path(&stdio.stdout), path(&stdio.stderr)),
            Some(("fifo", rest)) => (path(rest), path(without_scheme(&stdio.stderr))),
            Some(("file", rest)) => {
                let file = Sink::File(decode(rest.split('?').next().unwrap_or_default()).into());
                (file.clone(), file)
            }
            Some((scheme @ ("binary" | "binary-v2"), rest)) => {
                let logger = Sink::Logger(Logger::read(rest, scheme == "binary-v2"));
                (logger.clone(), logger)
            }
            Some((scheme, _)) => {
                let message = format!("unknown STDIO scheme {scheme}");
                return Err(Error::said(Kind::Unknown, message));
            }
        };
        Ok(Self { stdin, stdout, stderr })
    }
}

impl Logger {
    /// Reads `/path?key=value&env.NAME=value`: each key and value is an argument, but for those that
    /// set the environment (`process/io_util.go`, `NewBinaryCmd`).
    fn read(rest: &str, must_be_ready: bool) -> Self {
        let (program, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut logger =
            Self { program: decode(program).into(), must_be_ready, ..Default::default() };
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode_plus(key), decode_plus(value));
            // Compat: of several values of a key, Go takes the first.
            if seen.contains(&key) {
                continue;
            }
            match key.strip_prefix("env.") {
                Some(name) => logger.env.push((name.to_owned(), value)),
                None => logger.args.extend([key.clone(), value]),
            }
            seen.push(key);
        }
        logger
    }
}

fn path(name: &str) -> Sink {
    if name.is_empty() { Sink::Null } else { Sink::Path(name.into()) }
}

fn without_scheme(name: &str) -> &str {
    name.strip_prefix("fifo://").unwrap_or(name)
}

/// In a query, a plus is a space.
fn decode_plus(text: &str) -> String {
    decode(&text.replace('+', " "))
}

/// Undoes percent-encoding. What is not properly encoded stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let (b'%', Some(byte)) = (first, byte) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(stdin: &str, stdout: &str, stderr: &str) -> Result<Plan> {
        let [stdin, stdout, stderr] = [stdin, stdout, stderr].map(str::to_owned);
        Plan::of(&Stdio { stdin, stdout, stderr, terminal: false })
    }

    fn fifo(path: &str) -> Sink {
        Sink::Path(path.into())
    }

    #[test]
    fn paths_are_fifos_and_nothing_is_nothing() {
        let plan = plan("/in", "/out", "").unwrap();
        assert_eq!(plan.stdin, Some("/in".into()));
        assert_eq!((plan.stdout, plan.stderr), (fifo("/out"), Sink::Null));
    }

    #[test]
    fn fifos_may_be_named_by_scheme() {
        let plan = plan("", "fifo:///out", "fifo:///err").unwrap();
        assert_eq!((plan.stdout, plan.stderr), (fifo("/out"), fifo("/err")));
    }

    #[test]
    fn a_file_takes_both_streams() {
        let plan = plan("", "file:///var/log/a%20b.log", "").unwrap();
        assert_eq!(plan.stdout, Sink::File("/var/log/a b.log".into()));
        assert_eq!(plan.stdout, plan.stderr);
    }

    #[test]
    fn a_program_is_told_keys_and_values_and_environment() {
        let uri = "binary:///bin/log?id=a+b&id=c&env.X=1%2B1&flag";
        let Sink::Logger(logger) = plan("", uri, "").unwrap().stdout else { panic!("a logger") };
        assert_eq!(logger.program, PathBuf::from("/bin/log"));
        assert_eq!(logger.args, ["id", "a b", "flag", ""]);
        assert_eq!(logger.env, [("X".to_owned(), "1+1".to_owned())]);
        assert!(!logger.must_be_ready);
    }

    #[test]
    fn an_unknown_scheme_is_refused() {
        let error = plan("", "npipe://x", "").unwrap_err();
        assert_eq!(error.to_string(), "unknown STDIO scheme npipe");
    }
}
