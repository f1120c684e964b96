// SPDX-License-Identifier: Apache-2.0
//! What happened, told to whoever asked.
//!
//! A publisher never waits for a subscriber: each has a bounded queue, and one that falls behind is
//! told so and cut off, instead of growing the daemon.
//!
//! ```text
//! publish(namespace, topic, event) --.
//!                                     >-- Exchange --filters--> Subscription
//! forward(envelope) -----------------'
//! ```
use std::time::SystemTime;

use types::Any;

/// An event, and where and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: SystemTime,
    /// In which namespace.
    pub namespace: String,
    /// What about: `/tasks/start`.
    pub topic: String,
    /// The event itself, a message of `containerd.events`.
    pub event: Any,
}
