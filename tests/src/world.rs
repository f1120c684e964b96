// SPDX-License-Identifier: Apache-2.0
//! The stage of a scenario: a daemon, a client, and registries when they are asked for.

use std::sync::OnceLock;

use crate::image::{Image, Packed};
use crate::parts::{Parts, Profile, require_root, tool};
use crate::process::Running;
use crate::{Context, Ctr, Daemon, Outcome, Registry};

/// What a scenario is given.
#[derive(Debug)]
pub struct World {
    /// The daemon.
    pub daemon: Daemon,
    /// A client of it.
    pub ctr: Ctr,
    registry: OnceLock<Registry>,
}

impl World {
    /// Sets the stage for these parts.
    pub fn new(parts: Parts) -> Outcome<Self> {
        require_root()?;
        tool("runc")?;
        let daemon = Daemon::start(parts, Profile::Dev)?;
        let ctr = daemon.ctr();
        Ok(Self { daemon, ctr, registry: OnceLock::new() })
    }

    /// A name for a container that nobody else on the machine uses.
    pub fn id(&self, name: &str) -> String {
        self.daemon.estate().id(name)
    }

    /// The real registry, started at the first use.
    pub fn registry(&self) -> Outcome<&Registry> {
        if self.registry.get().is_none() {
            let started = Registry::start()?;
            drop(self.registry.set(started));
        }
        self.registry.get().context("the registry was just started")
    }

    /// Stores an image in the registry and pulls it; gives its reference.
    pub fn pull(&self, image: &Image, name_and_tag: &str) -> Outcome<String> {
        self.pull_packed(&image.pack()?, name_and_tag)
    }

    /// Stores a packed image in the registry and pulls it; gives its reference.
    pub fn pull_packed(&self, image: &Packed, name_and_tag: &str) -> Outcome<String> {
        let reference = self.registry()?.push(image, name_and_tag)?;
        self.ctr.ok(["images", "pull", "--plain-http", &reference])?;
        Ok(reference)
    }

    /// An image with the usual commands, pulled; gives its reference.
    pub fn busybox(&self) -> Outcome<String> {
        self.pull(&Image::busybox()?, "tools/busybox:1")
    }

    /// Starts listening to events: see [`Ctr::events`].
    pub fn events(&self) -> Outcome<Running> {
        self.ctr.events()
    }
}
