// SPDX-License-Identifier: Apache-2.0
//! What was asked of the daemon over gRPC, how it ended and how long it took, under the names that
//! gRPC servers in Go have for it (`go-grpc-middleware`, `providers/prometheus`).
//!
//! ```text
//! begin --received, sent--> end(code)
//!              `-- dropped: Canceled
//! ```
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::service::{EVENTS, METHODS, Method};
use tonic::Code;

use super::{Page, labels};

/// The codes in the order of their numbers, by Go's names.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The most seconds that a call of each column took; whatever took longer is in the last one.
const BOUNDS: [(&str, f64); 11] = [
    ("0.005", 0.005),
    ("0.01", 0.01),
    ("0.025", 0.025),
    ("0.05", 0.05),
    ("0.1", 0.1),
    ("0.25", 0.25),
    ("0.5", 0.5),
    ("1", 1.0),
    ("2.5", 2.5),
    ("5", 5.0),
    ("10", 10.0),
];

/// What was asked of each method that the daemon serves. Those that nobody has asked are told of too,
/// so that a first failure is seen to be one more than none.
#[derive(Debug)]
pub struct Calls {
    tallies: BTreeMap<String, Arc<Tally>>,
    has_histogram: bool,
}

#[derive(Debug)]
struct Tally {
    method: Method,
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    received: AtomicU64,
    sent: AtomicU64,
    columns: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Calls {
    /// Nothing was asked yet. How long calls took is told if `has_histogram` says so.
    pub fn new(has_histogram: bool) -> Self {
        let is_served = |service: &str| {
            service != EVENTS
                && (service.starts_with("containerd.services.") || service.starts_with("grpc."))
        };
        let served = METHODS.iter().filter(|method| is_served(method.service));
        let tallies = served.map(|method| {
            let path = format!("/{}/{}", method.service, method.name);
            (path, Arc::new(Tally::new(*method)))
        });
        Self { tallies: tallies.collect(), has_histogram }
    }

    /// Begins a call of the method at `path`, if there is one.
    pub fn begin(&self, path: &str) -> Option<Call> {
        let tally = self.tallies.get(path)?.clone();
        tally.started.fetch_add(1, Ordering::Relaxed);
        Some(Call { tally, began: Instant::now(), is_over: AtomicBool::new(false) })
    }

    /// Puts all that is known on a page.
    pub fn tell(&self, page: &mut Page) {
        for tally in self.tallies.values() {
            tally.tell(page);
            if self.has_histogram {
                tally.tell_times(page);
            }
        }
    }
}

impl Tally {
    fn new(method: Method) -> Self {
        Self {
            method,
            started: AtomicU64::default(),
            handled: Default::default(),
            received: AtomicU64::default(),
            sent: AtomicU64::default(),
            columns: Default::default(),
            nanoseconds: AtomicU64::default(),
        }
    }

    fn labels(&self, more: &[(&str, &str)]) -> String {
        let Method { service, name, takes_many, gives_many } = self.method;
        let kind = match (takes_many, gives_many) {
            (false, false) => "unary",
            (true, false) => "client_stream",
            (false, true) => "server_stream",
            (true, true) => "bidi_stream",
        };
        let own = [("grpc_method", name), ("grpc_service", service), ("grpc_type", kind)];
        labels(&[&own, more].concat())
    }

    fn tell(&self, page: &mut Page) {
        let mut add = |name: &str, help: &'static str, labels: String, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed) as f64;
            page.add(format!("grpc_server_{name}_total"), help, "counter", labels, value);
        };
        let labels = || self.labels(&[]);
        add("started", "Total number of RPCs started on the server.", labels(), &self.started);
        for (code, count) in CODES.iter().zip(&self.handled) {
            let help =
                "Total number of RPCs completed on the server, regardless of success or failure.";
            add("handled", help, self.labels(&[("grpc_code", code)]), count);
        }
        let help = "Total number of RPC stream messages received on the server.";
        add("msg_received", help, labels(), &self.received);
        let help = "Total number of gRPC stream messages sent by the server.";
        add("msg_sent", help, labels(), &self.sent);
    }

    /// A histogram is one family of three kinds of samples.
    fn tell_times(&self, page: &mut Page) {
        let mut add = |sample: &str, labels: String, value: f64| {
            let help = "Histogram of response latency (seconds) of gRPC that had been \
                        application-level handled by the server.";
            let name = "grpc_server_handling_seconds";
            page.add(name, help, "histogram", format!("_{sample}{labels}"), value);
        };
        let mut below = 0;
        let bounds = BOUNDS.iter().map(|(text, _)| *text).chain(["+Inf"]);
        for (bound, column) in bounds.zip(&self.columns) {
            below += column.load(Ordering::Relaxed);
            add("bucket", self.labels(&[("le", bound)]), below as f64);
        }
        let seconds = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        add("sum", self.labels(&[]), seconds);
        add("count", self.labels(&[]), below as f64);
    }
}

/// A call that is under way. One that is dropped was given up by whoever made it.
#[derive(Debug)]
pub struct Call {
    tally: Arc<Tally>,
    began: Instant,
    is_over: AtomicBool,
}

impl Call {
    /// So many messages came.
    pub fn received(&self, messages: u64) {
        self.tally.received.fetch_add(messages, Ordering::Relaxed);
    }

    /// So many messages went.
    pub fn sent(&self, messages: u64) {
        self.tally.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// It has ended so. Only the first end counts.
    pub fn end(&self, code: Code) {
        if self.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let Tally { handled, columns, nanoseconds, .. } = &*self.tally;
        if let Some(count) = handled.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let took = self.began.elapsed();
        let column = BOUNDS.iter().position(|(_, bound)| took.as_secs_f64() <= *bound);
        columns[column.unwrap_or(BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        nanoseconds.fetch_add(took, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Counts the messages of a body: each is a byte of flags, four of its length, and so many more (gRPC
/// `doc/PROTOCOL-HTTP2.md`). They are cut into chunks anywhere.
#[derive(Debug, Default)]
pub struct Messages {
    prefix: [u8; 5],
    /// How much of the prefix is there.
    filled: usize,
    /// How much of the message is to come.
    left: usize,
}

impl Messages {
    /// How many messages end in this chunk.
    pub fn end_in(&mut self, mut chunk: &[u8]) -> u64 {
        let mut ended = 0;
        while !chunk.is_empty() {
            if self.filled < self.prefix.len() {
                let size = chunk.len().min(self.prefix.len() - self.filled);
                self.prefix[self.filled..self.filled + size].copy_from_slice(&chunk[..size]);
                self.filled += size;
                chunk = &chunk[size..];
                if self.filled < self.prefix.len() {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
            }
            let size = chunk.len().min(self.left);
            self.left -= size;
            chunk = &chunk[size..];
            if self.left == 0 {
                self.filled = 0;
                ended += 1;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "/containerd.services.version.v1.Version/Version";
    const LABELS: &str = "grpc_method=\"Version\",grpc_service=\"containerd.services.version.v1.Version\",grpc_type=\"unary\"";

    fn told(calls: &Calls) -> String {
        let mut page = Page::default();
        calls.tell(&mut page);
        page.text()
    }

    #[track_caller]
    fn check(text: &str, line: &str) {
        assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
    }

    #[test]
    fn a_call_is_counted_by_its_end() {
        let calls = Calls::new(false);
        let call = calls.begin(VERSION).unwrap();
        call.received(1);
        call.sent(1);
        call.end(Code::NotFound);
        call.end(Code::Ok);
        drop(call);
        drop(calls.begin(VERSION));
        let text = told(&calls);
        check(&text, &format!("grpc_server_started_total{{{LABELS}}} 2"));
        check(&text, &format!("grpc_server_msg_received_total{{{LABELS}}} 1"));
        for (code, count) in [("NotFound", 1), ("Canceled", 1), ("OK", 0)] {
            check(
                &text,
                &format!("grpc_server_handled_total{{grpc_code=\"{code}\",{LABELS}}} {count}"),
            );
        }
        assert!(!text.contains("handling_seconds"), "{text}");
        assert!(calls.begin("/containerd.task.v3.Task/State").is_none());
        assert!(calls.begin("/containerd.services.version.v1.Version/No").is_none());
    }

    #[test]
    fn a_histogram_is_told_where_it_is_wanted() {
        let calls = Calls::new(true);
        calls.begin(VERSION).unwrap().end(Code::Ok);
        let text = told(&calls);
        check(&text, "# TYPE grpc_server_handling_seconds histogram");
        check(&text, &format!("grpc_server_handling_seconds_bucket{{{LABELS},le=\"+Inf\"}} 1"));
        check(&text, &format!("grpc_server_handling_seconds_bucket{{{LABELS},le=\"10\"}} 1"));
        check(&text, &format!("grpc_server_handling_seconds_count{{{LABELS}}} 1"));
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body =
            [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 0, 1], b"d"].concat();
        for size in 1..=body.len() {
            let mut messages = Messages::default();
            let ended: u64 = body.chunks(size).map(|chunk| messages.end_in(chunk)).sum();
            assert_eq!(ended, 3, "in chunks of {size}");
            assert_eq!(messages.end_in(&[0, 0, 0, 0, 1]), 0);
        }
    }
}
