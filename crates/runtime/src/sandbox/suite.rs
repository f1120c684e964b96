// SPDX-License-Identifier: Apache-2.0
//! What every controller of sandboxes is held to, as claims that can be run over any of them.
//!
//! A controller that forwards to another (over the wire) is run through the same claims as the one it
//! forwards to. Controllers differ in what is left of a sandbox that has ended: of some nothing, of
//! some its last state, until it is shut down. The claims hold of both.
//!
//! ```no_run
//! # use runtime::sandbox::suite::{self, Bench};
//! async fn example(open: impl AsyncFn() -> Bench) {
//!     suite::run(open).await;
//! }
//! ```
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::{BoxFuture, join_all};
use records::{Runtime, Sandbox};
use tokio::time::timeout;
use types::{FieldMask, Kind, Platform, Result};

use super::{Controller, Create, READY};

/// Longer than starting or ending a sandbox takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A controller to be tested. What a claim leaves there is gone with it.
pub struct Bench {
    /// The controller.
    pub controller: Arc<dyn Controller>,
    /// The runtime of its sandboxes.
    pub runtime: String,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// One thing that has to hold of a controller. It panics where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The claim, as a sentence.
    pub name: &'static str,
    /// Checks it.
    pub check: for<'a> fn(&'a Bench) -> BoxFuture<'a, ()>,
}

macro_rules! list {
    ($($name:ident),* $(,)?) => {
        &[$(Claim { name: stringify!($name), check: |bench| Box::pin($name(bench)) }),*]
    };
}

/// All claims.
pub const CLAIMS: &[Claim] = list![
    a_sandbox_that_was_started_is_ready,
    whoever_waits_learns_of_the_end,
    a_sandbox_is_made_once_and_its_name_is_free_afterwards,
    one_sandbox_s_end_is_not_another_s,
    what_was_stopped_is_not_ready,
    what_was_never_made_is_missing,
    what_does_not_run_may_be_stopped,
    statistics_are_of_the_sandbox_that_was_named,
];

/// Checks all claims, each on a controller that `open` makes.
pub async fn run(open: impl AsyncFn() -> Bench) {
    for claim in CLAIMS {
        println!("suite: {}", claim.name);
        let bench = open().await;
        (claim.check)(&bench).await;
    }
}

impl Bench {
    fn sandbox(&self, id: &str) -> Sandbox {
        let now = SystemTime::now();
        Sandbox {
            id: id.to_owned(),
            runtime: Runtime { name: self.runtime.clone(), options: None },
            spec: None,
            labels: [].into(),
            created_at: now,
            updated_at: now,
            extensions: [].into(),
            sandboxer: String::new(),
        }
    }

    async fn create(&self, id: &str) -> Result<()> {
        self.controller.create(Create::new(self.sandbox(id))).await
    }

    async fn begin(&self, id: &str) {
        self.create(id).await.expect("it is new");
        self.controller.start(id).await.expect("it was made");
    }

    /// Ends a sandbox, whatever is left of it.
    async fn clear(&self, id: &str) {
        self.controller.stop(id, Some(Duration::from_secs(5))).await.expect("it may be stopped");
        no_more("shut down", self.controller.shutdown(id).await);
    }

    /// Waits for the end of a sandbox.
    async fn end(&self, id: &str) -> Result<crate::Exit> {
        timeout(PATIENCE, self.controller.wait(id)).await.expect("it ends")
    }

    async fn is_ready(&self, id: &str) -> bool {
        let status = self.controller.status(id, false).await.expect("there is always a status");
        assert_eq!(status.id, id);
        status.state == READY
    }
}

#[track_caller]
fn missing<T>(outcome: Result<T>) {
    let error = outcome.err().expect("it is not there");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

/// Of what is not there, controllers may say so or have nothing to do.
#[track_caller]
fn no_more(what: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        assert!(error.is_not_found(), "{what}: {error}");
    }
}

async fn a_sandbox_that_was_started_is_ready(bench: &Bench) {
    bench.create("pod").await.expect("it is new");
    let before = SystemTime::now() - PATIENCE;
    let started = bench.controller.start("pod").await.expect("it was made");
    assert_eq!(started.id, "pod");
    assert!(started.endpoint.address.starts_with("ttrpc+unix://"), "{started:?}");
    assert!([2, 3].contains(&started.endpoint.version), "{started:?}");
    assert!(started.created_at.is_some_and(|at| at > before), "{started:?}");

    let status = bench.controller.status("pod", false).await.expect("it runs");
    assert_eq!((status.id.as_str(), status.state.as_str()), ("pod", READY));
    assert_eq!((status.pid, &status.endpoint), (started.pid, &started.endpoint));
    assert!(status.exited_at.is_none() && status.info.is_empty(), "{status:?}");
    let platform = bench.controller.platform("pod").await.expect("it runs on something");
    let host = Platform::host();
    assert_eq!((platform.os, platform.architecture), (host.os, host.architecture));
    let named = FieldMask::new(["labels".to_owned()]);
    bench.controller.update(bench.sandbox("pod"), &named).await.expect("it takes note");
    bench.clear("pod").await;
}

async fn whoever_waits_learns_of_the_end(bench: &Bench) {
    bench.begin("pod").await;
    let early = timeout(Duration::from_millis(100), bench.controller.wait("pod")).await;
    assert!(early.is_err(), "it has not ended: {early:?}");
    let before = SystemTime::now() - Duration::from_secs(1);
    let waiters = join_all([bench.end("pod"), bench.end("pod"), bench.end("pod")]);
    let stop = async {
        // A wait is under way when it was asked for.
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.controller.stop("pod", Some(Duration::from_secs(5))).await
    };
    let (ends, stopped) = tokio::join!(waiters, stop);
    stopped.expect("it runs");
    for end in ends {
        let end = end.expect("it was there");
        assert!(end.at >= before && end.at <= SystemTime::now(), "{end:?}");
    }
    bench.clear("pod").await;
}

async fn a_sandbox_is_made_once_and_its_name_is_free_afterwards(bench: &Bench) {
    for _ in 0..2 {
        bench.begin("pod").await;
        let error = bench.create("pod").await.expect_err("it is there");
        assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
        assert!(bench.is_ready("pod").await, "nothing happened to the first");
        bench.clear("pod").await;
    }
}

async fn one_sandbox_s_end_is_not_another_s(bench: &Bench) {
    bench.begin("one").await;
    bench.begin("two").await;
    bench.clear("one").await;
    assert!(bench.is_ready("two").await);
    missing(bench.controller.start("one").await);
    bench.clear("two").await;
}

async fn what_was_stopped_is_not_ready(bench: &Bench) {
    bench.begin("pod").await;
    bench.controller.stop("pod", Some(Duration::from_secs(5))).await.expect("it runs");
    match bench.end("pod").await {
        Err(error) if !error.is_not_found() => unreachable!("wait: {error}"),
        _ => {}
    }
    // The shim may take a moment to be gone.
    let gone = async {
        while bench.is_ready("pod").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it is not ready any more");
    let status = bench.controller.status("pod", true).await.expect("it was made");
    assert!(status.exited_at.is_some(), "{status:?}");
    bench.clear("pod").await;
}

async fn what_was_never_made_is_missing(bench: &Bench) {
    missing(bench.controller.start("pod").await);
    missing(bench.end("pod").await);
    no_more("shut down", bench.controller.shutdown("pod").await);
    no_more("stop", bench.controller.stop("pod", None).await);
    let status = bench.controller.status("pod", false).await;
    if let Ok(status) = &status {
        assert_eq!((status.id.as_str(), status.pid), ("pod", 0));
        assert!(status.state != READY && status.exited_at.is_some(), "{status:?}");
    } else {
        missing(status);
    }
}

async fn what_does_not_run_may_be_stopped(bench: &Bench) {
    bench.create("pod").await.expect("it is new");
    for _ in 0..2 {
        bench.controller.stop("pod", None).await.expect("there is nothing to stop");
    }
    bench.clear("pod").await;
    no_more("stop", bench.controller.stop("pod", None).await);
}

async fn statistics_are_of_the_sandbox_that_was_named(bench: &Bench) {
    missing(bench.controller.metrics("pod").await);
    bench.begin("pod").await;
    if let Some(metric) = bench.controller.metrics("pod").await.expect("it runs") {
        assert_eq!(metric.id, "pod");
        assert!(!metric.data.value.is_empty());
    }
    bench.clear("pod").await;
}
