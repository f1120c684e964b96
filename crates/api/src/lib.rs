// SPDX-License-Identifier: Apache-2.0

//! The messages and services of containerd's API, version 1.12.
//!
//! Everything here is generated at build time from containerd's own definitions (`build.rs` says
//! how), but for [`pack`], [`unpack`] and the names in [`service`]. There is no logic: what a
//! message means is decided where it is sent or received, and each is converted to a domain type in
//! one place there.
//!
//! The modules are the packages of the definitions, so that the place of a type is its full name on
//! the wire, which is what [`prost::Name::full_name`] returns:
//!
//! ```text
//! containerd::
//!   services::<name>::v1        requests and replies; with feature `grpc`, <name>_client and <name>_server
//!     containers  content  diff  events  images  introspection  leases  mounts  namespaces
//!     sandbox (Store, Controller)  snapshots  store (ours)  streaming  tasks  transfer  version
//!   services::events::ttrpc::v1 what shims send to the daemon
//!   task::v3                    what the daemon sends to shims; also for version 2
//!   runtime::sandbox::v1        the same for pods
//!   runtime::bootstrap::v1      how a shim is started
//!   events                      what is published; but ImageCreate, ImageUpdate, ImageDelete are in
//!                               services::images::v1, as their type URLs say
//!   types                       Mount, Descriptor, Platform, Sandbox, Metric, Envelope, ...
//!   types::transfer             sources, destinations, credentials, progress
//!   v1::types                   Process, ProcessInfo, Status of tasks
//!   runc::v1                    Options, CheckpointOptions
//! runtimeoptions::v1            Options of runtimes with a config file
//! io::containerd::cgroups       v1::Metrics and v2::Metrics, as cgroups are
//! google::rpc                   Status, with the details of an error
//! grpc::health::v1              Check and Watch
//! ```
//!
//! Fields of bytes are [`bytes::Bytes`]: decoded from `Bytes` they share its memory. Maps are sorted,
//! so that equal messages are equal bytes. The well-known types are those of [`prost_types`].
//!
//! ```
//! use api::containerd::events::TaskStart;
//! use prost::Message;
//!
//! let event = TaskStart { container_id: "redis".into(), pid: 42 };
//! assert_eq!(event.encode_to_vec(), b"\x0a\x05redis\x10\x2a");
//!
//! let any = api::pack(&event);
//! assert_eq!(any.type_url, "containerd.events.TaskStart");
//! assert_eq!(api::unpack(&any), Some(Ok(event)));
//! ```

mod any;
pub mod service;

pub use any::{pack, unpack};
pub use generated::*;

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        rustdoc::all,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        reason = "generated from definitions that are not ours, with comments that are not ours"
    )]
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}
