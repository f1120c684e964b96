// SPDX-License-Identifier: Apache-2.0
//! A scenario is written once and becomes a test for each cast that it makes a claim about.
//!
//! The tests of a scenario are in a module of its name, so that both `run::a_container_prints` and
//! `::reference` choose what their words say.

use crate::daemon::tail;
use crate::{Outcome, Parts, World};

/// Plays a scenario with these parts, and checks that it left nothing behind.
pub fn play(parts: Parts, scenario: fn(&mut World) -> Outcome) -> Outcome {
    let mut world = World::new(parts)?;
    let played = scenario(&mut world).and_then(|()| world.daemon.estate().assert_clean());
    played.map_err(|failure| {
        failure.told_at_once().with_section("log of containerd", &tail(&world.daemon.log(), 60))
    })
}

/// Makes a module of tests out of a scenario, one for each cast.
#[doc(hidden)]
#[macro_export]
macro_rules! plays {
    ($name:ident: $($test:ident $parts:ident),*) => {
        #[cfg(test)]
        mod $name {
            use $crate::{Outcome, Parts, play};

            $(
                #[test]
                fn $test() -> Outcome {
                    play(Parts::$parts, super::$name)
                }
            )*
        }
    };
}

/// Declares scenarios in which a shim takes part: on the distribution's containerd, with their
/// client and our daemon, with all ours, and mixed both ways: their shim under our daemon and our
/// shim under theirs.
#[macro_export]
macro_rules! for_each_shim {
    ($($name:ident),* $(,)?) => {
        $($crate::plays!($name: reference REFERENCE, go_ctr GO_CTR, ours OURS, go_shim GO_SHIM,
            our_shim OUR_SHIM);)*
    };
}

/// Declares scenarios that a daemon and a client play together, whatever shim there is.
#[macro_export]
macro_rules! for_each_daemon {
    ($($name:ident),* $(,)?) => {
        $($crate::plays!($name: reference REFERENCE, go_ctr GO_CTR, ours OURS);)*
    };
}

/// Declares scenarios that speak to a daemon without any client.
#[macro_export]
macro_rules! over_the_wire {
    ($($name:ident),* $(,)?) => {
        $($crate::plays!($name: reference REFERENCE, ours OURS);)*
    };
}

/// Declares scenarios for which our client has no words yet: only theirs plays, with either daemon.
#[macro_export]
macro_rules! for_their_ctr {
    ($($name:ident),* $(,)?) => {
        $($crate::plays!($name: reference REFERENCE, go_ctr GO_CTR);)*
    };
}

/// Declares scenarios about what only our shim has or promises, under either daemon.
#[macro_export]
macro_rules! for_our_shim {
    ($($name:ident),* $(,)?) => {
        $($crate::plays!($name: ours OURS, our_shim OUR_SHIM);)*
    };
}

/// Declares scenarios about what only ours has or promises.
#[macro_export]
macro_rules! only_ours {
    ($($name:ident),* $(,)?) => {
        $($crate::plays!($name: ours OURS);)*
    };
}
