// SPDX-License-Identifier: Apache-2.0
//! Collections under load: what they take from those who pull meanwhile, and how long they hold up
//! those who ask for little things.
//!
//! Full stores, eight clients that pull and delete, and two that ask, first beside one daemon and then
//! beside the other. The roots are in memory: what is measured is who waits for whom, not the disk.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{
    Context, Daemon, Failure, Image, Layer, Outcome, Profile, Registry, Tar, parts, process,
};

use super::{GO, OURS};
use crate::{install, show};

/// How long the stores may take to be filled, beside the time of the work.
const PATIENCE: Duration = Duration::from_mins(20);
/// How many images are pulled; each has a layer of its own and one that all share.
const IMAGES: u64 = 8;

/// How much of everything.
struct Options {
    seconds: u64,
    blobs: usize,
    snapshots: usize,
}

const WHOLE: Options = Options { seconds: 120, blobs: 100_000, snapshots: 10_000 };
/// For trying it out.
const SMALL: Options = Options { seconds: 5, blobs: 2000, snapshots: 200 };

/// How many answers took how long: the question, the bucket's bound, and a count for each daemon.
type Row = (String, String, Vec<String>);

/// Plays it on both daemons.
pub(super) fn run(words: &[&str]) -> Outcome {
    let options = parse(WHOLE, words)?;
    install::packages(&["containerd", "runc", "docker-registry", "busybox-static"])?;
    parts::require_root()?;
    e2e::sweep();
    let registry = Registry::start()?;
    let images: Outcome<Vec<String>> = (0..IMAGES).map(|n| image(&registry, n)).collect();
    let images = images?;
    show::chapter(&format!(
        "collections among {} blobs and {} snapshots, {} s each",
        options.blobs, options.snapshots, options.seconds
    ));
    let mut rows: Vec<Row> = Vec::new();
    for contender in [GO, OURS] {
        println!("{}", contender.name);
        let daemon = Daemon::start_on(contender.parts, Profile::Release, in_memory)?;
        for (at, (question, bound, count)) in collect(&daemon, &options, &images)?.enumerate() {
            match rows.get_mut(at) {
                Some(row) => row.2.push(count),
                None => rows.push((question, bound, vec![count])),
            }
        }
    }
    show::chapter("how many answers took at most so many milliseconds");
    println!("{:24} {:>12} {:>12}", "", GO.name, OURS.name);
    for (question, bound, counts) in rows {
        let name = format!("{question} {bound}");
        let right = |count: &String| format!("{count:>12}");
        println!("{name:24} {}", counts.iter().map(right).collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

fn parse(options: Options, words: &[&str]) -> Outcome<Options> {
    match words {
        [] => Ok(options),
        ["--small", rest @ ..] => parse(SMALL, rest),
        ["--seconds", count, rest @ ..] => {
            parse(Options { seconds: count.parse()?, ..options }, rest)
        }
        other => Err(Failure::new(format!("bench collection does not know {other:?}"))),
    }
}

fn in_memory(root: &Path) -> Outcome {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4g,nr_inodes=0", "none"]).arg(root);
    process::run(&mut mount, PATIENCE)?.ok().map(drop)
}

fn image(registry: &Registry, number: u64) -> Outcome<String> {
    let layer = |seed: u64| {
        let files = (0..50).map(|at| format!("files/{seed}-{at}"));
        let file = |tar: Tar, path: String| {
            let text = format!("{path} of {seed}").repeat(200);
            tar.file(&path, 0o644, text.as_bytes())
        };
        Layer::new(files.fold(Tar::new().dir("files", 0o755), file))
    };
    let image = Image::new(vec![layer(1000), layer(number)]);
    registry.push(&image.pack()?, &format!("collect/image{number}:1"))
}

/// Builds the client if need be, and lets it loose on a daemon.
fn collect(
    daemon: &Daemon,
    options: &Options,
    images: &[String],
) -> Outcome<impl Iterator<Item = (String, String, String)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(parts::workspace());
    let package = ["-p", "containerd-services", "--example", "collect", "--"];
    command.args(["run", "--release", "-q"]).args(package).arg(daemon.address());
    command.arg(options.seconds.to_string());
    command.args([options.blobs, options.snapshots].map(|it| it.to_string())).args(images);
    let said = process::run(&mut command, PATIENCE + Duration::from_secs(options.seconds))?.ok()?;
    let rows: Outcome<Vec<_>> =
        said.lines().map(|line| row(line).context(format!("a count in {line:?}"))).collect();
    Ok(rows?.into_iter())
}

/// `read 0.5 1234`, or `rounds 12`.
fn row(line: &str) -> Option<(String, String, String)> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        [what, count] => Some((what.to_owned(), String::new(), count.to_owned())),
        [what, bound, count] => Some((what.to_owned(), bound.to_owned(), count.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_count_and_what_was_counted() {
        let want = ("read".to_owned(), "0.5".to_owned(), "12".to_owned());
        assert_eq!(row("read 0.5 12"), Some(want));
        assert_eq!(row("read"), None);
    }
}
