// SPDX-License-Identifier: Apache-2.0
//! The part of a daemon that shims tell what happened.
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::containerd::{
    events::{
        TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskStart,
    },
    services::events::ttrpc::v1::ForwardRequest,
};
use tokio::{net::UnixListener, task::JoinHandle};
use ttrpc::Server;

/// Events as lines, in the order in which they came: `exit a 0`.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until there are events that satisfy.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        enough: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        eventually(what, || Some(self.all()).filter(|all| enough(all))).await
    }

    /// Waits for one event.
    pub(crate) async fn wait_for_line(&self, line: &str) {
        self.wait_for(line, |all| all.iter().any(|one| one == line)).await;
    }
}

/// A socket that takes events.
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    pub(crate) events: Events,
    server: Option<JoinHandle<()>>,
}

impl Daemon {
    /// A daemon that is not there yet.
    pub(crate) fn away(socket: PathBuf) -> Self {
        Self { socket, events: Events::default(), server: None }
    }

    /// It comes.
    pub(crate) fn arrive(&mut self) {
        let events = self.events.clone();
        let forward = move |_, request: ForwardRequest| {
            let event = request.envelope.and_then(|envelope| envelope.event).unwrap();
            events.0.lock().unwrap().push(line(&event));
            async { Ok(()) }
        };
        let server = Server::new().method(api::service::EVENTS, "Forward", forward);
        let listener = UnixListener::bind(&self.socket).unwrap();
        self.server = Some(tokio::spawn(async move {
            server.serve(listener, std::future::pending()).await.unwrap();
        }));
    }

    /// It goes.
    pub(crate) async fn leave(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            drop(server.await);
            fs_err::remove_file(&self.socket).unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

fn line(any: &prost_types::Any) -> String {
    macro_rules! lines {
        ($($kind:ty, |$event:ident| $($text:expr),+;)*) => {
            $(if let Some(Ok($event)) = api::unpack::<$kind>(any) {
                return format!($($text),+);
            })*
        };
    }
    lines! {
        TaskCreate, |e| "create {}", e.container_id;
        TaskStart, |e| "start {}", e.container_id;
        TaskExecAdded, |e| "exec-added {}", e.exec_id;
        TaskExecStarted, |e| "exec-started {}", e.exec_id;
        TaskExit, |e| "exit {} {}", e.id, e.exit_status;
        TaskOom, |e| "oom {}", e.container_id;
        TaskDelete, |e| "delete {} {}", e.container_id, e.exit_status;
    }
    any.type_url.rsplit('.').next().unwrap().to_owned()
}

/// Tries until something is there, for not too long.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(value) = attempt() {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("this did not happen: {what}");
}
