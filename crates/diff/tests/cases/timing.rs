// SPDX-License-Identifier: Apache-2.0
//! Not a test but a measurement, to be asked for:
//! `cargo test --release -p containerd-diff timing -- --ignored --nocapture`.
use std::{path::Path, process::Command, time::Instant};

use diff::{Options, Target, Whiteouts};
use fs_err::{self as fs, File};
use types::media_types;

use super::tree::{make_dir, paths, temp};

#[test]
#[ignore = "a measurement"]
fn timing_of_200_megabytes() {
    let top = temp();
    let source = make_dir(top.path(), "source");
    fill(&source);
    let archive = top.path().join("layer.tar.gz");
    measured("compare", || {
        let tar = diff::compare(None, &source, None, None, Vec::new()).unwrap();
        fs::write(top.path().join("layer.tar"), tar).unwrap();
    });
    shell(&format!("gzip -1 -k {}", top.path().join("layer.tar").display()));
    measured("only inflate", || {
        let file = std::io::BufReader::with_capacity(1 << 17, File::open(&archive).unwrap());
        let mut source = flate2::bufread::MultiGzDecoder::new(file);
        let mut buffer = vec![0; 1 << 18];
        while std::io::Read::read(&mut source, &mut buffer).unwrap() > 0 {}
    });
    for round in 0..2 {
        for (name, sync, file) in [
            ("plain, synced", true, "layer.tar"),
            ("gzip, synced", true, "layer.tar.gz"),
            ("gzip", false, "layer.tar.gz"),
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
        let files = make_dir(top.path(), &format!("gzip{round}"));
        measured("fsync each file", || sync_each(&files));
        let theirs = make_dir(top.path(), &format!("tar{round}"));
        let command = format!("tar -xzf {} -C {}", archive.display(), theirs.display());
        measured("tar -xzf", || shell(&command));
        measured("tar -xzf, sync", || shell("sync"));
    }
}

/// What it would cost to sync a layer without the rest of its filesystem.
fn sync_each(root: &Path) {
    for name in paths(root) {
        let path = root.join(name);
        if !fs::symlink_metadata(&path).unwrap().is_symlink() {
            File::open(path).unwrap().sync_all().unwrap();
        }
    }
}

/// The files of this machine that programs are made of.
fn fill(source: &Path) {
    let target = source.display();
    shell(&format!("cp -a /usr/bin /usr/share/doc {target}/"));
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
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
}
