// SPDX-License-Identifier: Apache-2.0
//! How fast we inflate, beside programs that are there: `cargo run --release -p containerd-diff
//! --example inflate -- layer.tar.gz ...`.
//!
//! Each file is inflated three times by each, to nowhere, and the best time counts. `gzip`, `pigz` and
//! `igzip` are started as processes, as containerd starts `unpigz` and `igzip` where they are (their
//! output goes through a pipe, as it does there).
use std::{
    io::{self, Read},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use fs_err as fs;

const PROGRAMS: [&str; 3] = ["gzip", "pigz", "igzip"];

fn main() -> io::Result<()> {
    for path in std::env::args().skip(1) {
        let packed = fs::metadata(&path)?.len();
        let size = ours(&path)?;
        println!("{path}: {} MB from {} MB", size >> 20, packed >> 20);
        report("ours", size, best(|| ours(&path))?);
        for program in PROGRAMS {
            match best(|| theirs(program, &path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    println!("  {program:8} not installed");
                }
                took => report(program, size, took?),
            }
        }
    }
    Ok(())
}

fn best(mut inflate: impl FnMut() -> io::Result<u64>) -> io::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        inflate()?;
        best = best.min(began.elapsed());
    }
    Ok(best)
}

fn report(name: &str, size: u64, took: Duration) {
    let speed = u128::from(size >> 20) * 1000 / took.as_millis().max(1);
    println!("  {name:8} {:6} ms {speed:6} MB/s", took.as_millis());
}

fn ours(path: &str) -> io::Result<u64> {
    let inflated = diff::inflate(fs::File::open(path)?).map_err(io::Error::other)?;
    drain(inflated)
}

fn theirs(program: &str, path: &str) -> io::Result<u64> {
    let source = fs::File::open(path)?.into_parts().0;
    let mut command = Command::new(program);
    let mut child = command.arg("-dc").stdin(source).stdout(Stdio::piped()).spawn()?;
    let size = child.stdout.take().map_or(Ok(0), drain)?;
    let status = child.wait()?;
    if status.success() { Ok(size) } else { Err(io::Error::other(format!("{program}: {status}"))) }
}

/// Reads as an unpacking does, in pieces.
fn drain(mut reader: impl Read) -> io::Result<u64> {
    let (mut buffer, mut size) = (vec![0; 256 << 10], 0);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(size),
            length => size += length as u64,
        }
    }
}
