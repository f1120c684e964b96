// SPDX-License-Identifier: Apache-2.0
//! The stage of a scenario: a daemon, a client, and registries when they are asked for.

use std::sync::OnceLock;

use crate::daemon::tail;
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

/// Plays a scenario with these parts, and checks that it left nothing behind.
pub fn play(parts: Parts, scenario: fn(&mut World) -> Outcome) -> Outcome {
    let mut world = World::new(parts)?;
    let played = scenario(&mut world).and_then(|()| world.daemon.estate().assert_clean());
    played.map_err(|failure| {
        failure.with_section("log of containerd", &tail(&world.daemon.log(), 60))
    })
}

/// Declares scenarios that a daemon and a client play together.
///
/// Each becomes a test on the distribution's containerd, one with their client and our daemon, and
/// one with all ours.
#[macro_export]
macro_rules! for_each_daemon {
    ($($name:ident),* $(,)?) => {
        $(
            #[cfg(test)]
            mod $name {
                use $crate::{Outcome, Parts, play};

                #[test]
                fn reference() -> Outcome {
                    play(Parts::REFERENCE, super::$name)
                }

                #[test]
                fn go_ctr() -> Outcome {
                    play(Parts::GO_CTR, super::$name)
                }

                #[test]
                fn ours() -> Outcome {
                    play(Parts::OURS, super::$name)
                }
            }
        )*
    };
}

/// Declares scenarios in which the shim takes part as well: as [`for_each_daemon!`], and mixed
/// both ways, their shim under our daemon and our shim under theirs.
#[macro_export]
macro_rules! for_each_shim {
    ($($name:ident),* $(,)?) => {
        $(
            #[cfg(test)]
            mod $name {
                use $crate::{Outcome, Parts, play};

                #[test]
                fn reference() -> Outcome {
                    play(Parts::REFERENCE, super::$name)
                }

                #[test]
                fn go_ctr() -> Outcome {
                    play(Parts::GO_CTR, super::$name)
                }

                #[test]
                fn ours() -> Outcome {
                    play(Parts::OURS, super::$name)
                }

                #[test]
                fn go_shim() -> Outcome {
                    play(Parts::GO_SHIM, super::$name)
                }

                #[test]
                fn our_shim() -> Outcome {
                    play(Parts::OUR_SHIM, super::$name)
                }
            }
        )*
    };
}

/// Declares scenarios about what only ours has or promises.
#[macro_export]
macro_rules! only_ours {
    ($($name:ident),* $(,)?) => {
        $(
            #[cfg(test)]
            mod $name {
                use $crate::{Outcome, Parts, play};

                #[test]
                fn ours() -> Outcome {
                    play(Parts::OURS, super::$name)
                }
            }
        )*
    };
}

/// Declares scenarios that speak to the daemon without a client: on the distribution's, and on ours.
#[macro_export]
macro_rules! over_the_wire {
    ($($name:ident),* $(,)?) => {
        $(
            #[cfg(test)]
            mod $name {
                use $crate::{Outcome, Parts, play};

                #[test]
                fn reference() -> Outcome {
                    play(Parts::REFERENCE, super::$name)
                }

                #[test]
                fn ours() -> Outcome {
                    play(Parts::OURS, super::$name)
                }
            }
        )*
    };
}
