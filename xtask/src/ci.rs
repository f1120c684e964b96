// SPDX-License-Identifier: Apache-2.0
//! Both commands of the README, and whatever else is installed that checks.

use std::process::Command;
use std::time::Duration;

use e2e::{Outcome, ensure, parts};

use crate::{demo, run, show, test};

/// Checkers that are used where they are, and the words each is called with.
const EXTRAS: [(&str, &[&str]); 3] =
    [("cargo-deny", &["deny", "check"]), ("cargo-machete", &["machete"]), ("typos", &[])];

pub(crate) fn run() -> Outcome {
    test::run(false)?;
    demo::run(false)?;
    for (program, words) in EXTRAS {
        show::chapter(program);
        if !on_path(program) {
            println!("not installed: NOT checked");
            continue;
        }
        let mut command = Command::new(program);
        command.args(words).current_dir(parts::workspace());
        let succeeded =
            run::watched(&mut command, Duration::from_mins(5), |line| println!("{line}"))?;
        ensure!(succeeded, "{program} found something");
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
