// SPDX-License-Identifier: Apache-2.0
//! The database over real backends: the suites of every contract, and what only namespaces, leases,
//! crashes and the collector can show. Needs root, since snapshots are mounted.

// In a folder, so that none becomes a binary of its own; `cfg(test)` tells clippy that helpers are
// tests too.
#[cfg(test)]
mod cases {
    mod audit;
    mod backup;
    mod collecting;
    mod content;
    mod crash;
    mod events;
    mod leases;
    mod migrating;
    mod mounts;
    mod pace;
    mod rebuilding;
    mod records;
    mod repairing;
    mod rescue;
    mod sharing;
    mod snapshots;
    mod stuck;
    mod suites;
    mod torture;
    mod world;
}
