// SPDX-License-Identifier: Apache-2.0
//! The database itself: one writer, many readers, and what it tells.
mod backup;
mod checkpoint;
mod column;
mod fault;
mod file;
mod readers;
mod schema;
mod signals;
mod touched;
mod tx;
mod writer;

pub(crate) use backup::back_up;
pub(crate) use column::{Digest, Json, Time, json};
pub(crate) use fault::{Fault, Outcome, sql};
pub(crate) use file::{File, close};
pub(crate) use readers::Readers;
pub(crate) use signals::{Pressure, Signals};
pub(crate) use touched::Touched;
pub(crate) use tx::{Backend, Tx};
pub(crate) use writer::Writer;
