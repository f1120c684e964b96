// SPDX-License-Identifier: Apache-2.0
//! The rules that no compiler knows. Each is a function from the tree to what is wrong with it.

mod edges;
mod sources;

use e2e::{Failure, Outcome, parts};

/// Checks every rule and fails with all that is wrong.
pub(crate) fn run() -> Outcome {
    let root = parts::workspace();
    let mut wrong = edges::check(&root)?;
    wrong.extend(sources::check(&root)?);
    if wrong.is_empty() {
        println!("tidy");
        return Ok(());
    }
    Err(Failure::new(format!("not tidy:\n  {}", wrong.join("\n  "))))
}
