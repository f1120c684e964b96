// SPDX-License-Identifier: Apache-2.0

//! The names of services and their methods, above all of those that are spoken over ttrpc.
//!
//! Nothing is generated for ttrpc: whoever serves or calls these dispatches by hand, on the name of
//! the service and the name of the method.

/// The task service of a shim, as it was up to containerd 1.7 and is still served.
///
/// Its messages are those of version 3, in [`containerd::task::v3`](crate::containerd::task::v3):
/// not a field differs between containerd's `api/runtime/task/v2/shim.proto` and its `v3`.
pub const TASK_V2: &str = "containerd.task.v2.Task";

/// The task service of a shim.
pub const TASK_V3: &str = "containerd.task.v3.Task";

/// The sandbox service of a shim that runs pods.
pub const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// Where the daemon takes the events of its shims.
pub const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";

/// A method of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The full name of its service.
    pub service: &'static str,
    /// Its own name.
    pub name: &'static str,
    /// Whether it is asked in a stream of messages.
    pub takes_many: bool,
    /// Whether it answers in a stream of messages.
    pub gives_many: bool,
}

/// All methods of all services, whether they are spoken over gRPC or ttrpc.
pub const METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

#[cfg(all(test, feature = "grpc"))]
mod tests {
    use super::*;
    use crate::containerd::{runtime, services, task};

    #[test]
    fn the_names_are_those_of_the_definitions() {
        assert_eq!(TASK_V3, task::v3::task_server::SERVICE_NAME);
        assert_eq!(SANDBOX, runtime::sandbox::v1::sandbox_server::SERVICE_NAME);
        assert_eq!(EVENTS, services::events::ttrpc::v1::events_server::SERVICE_NAME);
    }

    #[test]
    fn methods_are_listed_with_their_streams() {
        for (service, name, takes_many, gives_many) in [
            (services::tasks::v1::tasks_server::SERVICE_NAME, "Wait", false, false),
            (services::content::v1::content_server::SERVICE_NAME, "Write", true, true),
            (services::events::v1::events_server::SERVICE_NAME, "Subscribe", false, true),
        ] {
            assert!(METHODS.contains(&Method { service, name, takes_many, gives_many }), "{name}");
        }
    }
}
