// SPDX-License-Identifier: Apache-2.0
//! Not a test but a measurement, to be asked for:
//! `cargo test --release -p containerd-diff timing -- --ignored --nocapture`.
use std::{fs::File, path::Path, process::Command, time::Instant};

use diff::{Options, Target, Whiteouts};
use fs_err as fs;
use types::media_types;

use super::tree::{make_dir, temp};

#[test]
#[ignore = "a measurement"]
fn timing_of_200_megabytes() {
    let top = temp();
    let source = make_dir(top.path(), "source");
    fill(&source);
    let archive = top.path().join("layer.tar.gz");
    let made = measured("compare + gzip", || {
        let tar = diff::compare(None, &source, None, None, Vec::new()).unwrap();
        fs::write(top.path().join("layer.tar"), tar).unwrap();
    });
    shell(&format!("gzip -1 -k {}", top.path().join("layer.tar").display()));
    drop(made);
    for round in 0..3 {
        for (name, sync, file) in [
            ("gzip", false, "layer.tar.gz"),
            ("gzip, synced", true, "layer.tar.gz"),
            ("plain, synced", true, "layer.tar"),
        ] {
            let directory = make_dir(top.path(), &format!("{name}{round}"));
            let parents = Vec::new();
            let target = Target { directory, whiteouts: Whiteouts::Remove, parents };
            let options = Options { sync, ..Options::default() };
            let file = File::open(top.path().join(file)).unwrap();
            measured(&format!("unpack {name}"), || {
                diff::apply(file, media_types::DOCKER_LAYER, &target, &options).unwrap()
            });
        }
        let theirs = make_dir(top.path(), &format!("tar{round}"));
        let command = format!("tar -xzf {} -C {}", archive.display(), theirs.display());
        measured("tar -xzf", || shell(&command));
        measured("tar -xzf, sync", || shell("sync"));
    }
}

/// The files of this machine that programs are made of.
fn fill(source: &Path) {
    let target = source.display();
    shell(&format!("cp -a /usr/bin /usr/share/doc {target}/; cp -a /usr/lib/python3* {target}/"));
    shell(&format!("du -sh {target}; find {target} | wc -l"));
}

fn measured<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{name:20} {:.3} s", start.elapsed().as_secs_f64());
    result
}

#[allow(clippy::disallowed_methods, reason = "a measurement runs programs of the system")]
fn shell(command: &str) {
    drop(Command::new("sh").args(["-c", command]).status().unwrap());
}
