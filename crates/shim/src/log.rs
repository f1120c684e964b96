// SPDX-License-Identifier: Apache-2.0
//! A shim's log: lines into the fifo of its bundle, which the daemon passes on.
//!
//! Nothing here waits. A fifo that nobody reads fills up and then loses lines, because a shim must
//! outlive its daemon.
use std::{
    fmt::{self, Write},
    fs::File,
    io::{self, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Sends what is traced from now on to the fifo, and says more if asked to.
pub(crate) fn begin(fifo: &Path, debug: bool) -> io::Result<()> {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let log = Log { file: sys::fifo::both(fifo)?, level };
    tracing::subscriber::set_global_default(log).map_err(io::Error::other)
}

/// A subscriber without spans: a shim does one thing.
struct Log {
    file: File,
    level: Level,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::begin(SystemTime::now(), *event.metadata().level());
        event.record(&mut line);
        line.text.push('\n');
        // A full fifo takes no more: the line is lost, and the shim goes on.
        drop((&self.file).write(line.text.as_bytes()));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A line as logrus writes it: `time="..." level=info msg="..." id=a`.
struct Line {
    text: String,
}

impl Line {
    fn begin(now: SystemTime, level: Level) -> Self {
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        Self { text: format!("time=\"{}\" level={level}", Timestamp(now)) }
    }

    fn push(&mut self, name: &str, value: &str) {
        let name = if name == "message" { "msg" } else { name };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
        if !value.is_empty() && value.bytes().all(plain) {
            _ = write!(self.text, " {name}={value}");
        } else {
            _ = write!(self.text, " {name}={value:?}");
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field.name(), &format!("{value:?}"));
    }
}

/// A time in RFC 3339, in UTC, with nanoseconds.
struct Timestamp(SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

/// The date of a day, counted from 1970. The year is taken to begin in March, so that a leap day is
/// its last, in a cycle of 400 years that has 146,097 days.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> String {
        Timestamp(SystemTime::UNIX_EPOCH + Duration::new(seconds, 5)).to_string()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_785_542_400), "2026-08-01T00:00:00.000000005Z");
    }

    #[test]
    fn a_line_reads_as_logrus_writes_it() {
        let mut line = Line::begin(SystemTime::UNIX_EPOCH, Level::WARN);
        line.push("message", "no such \"task\"");
        line.push("id", "a-b");
        let want =
            r#"time="1970-01-01T00:00:00.000000000Z" level=warning msg="no such \"task\"" id=a-b"#;
        assert_eq!(line.text, want);
    }
}
