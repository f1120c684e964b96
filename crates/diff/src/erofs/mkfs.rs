// SPDX-License-Identifier: Apache-2.0
//! The program that makes images.
use std::{
    io::{self, Read, Write},
    path::Path,
    process::Stdio,
    sync::OnceLock,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fs_err as fs;
use sys::Command;
use types::{Digest, Error, Kind, Result};

use super::{inflated, pour};

/// The program, and how long it may take.
pub(super) const PROGRAM: &str = "mkfs.erofs";
const PATIENCE: Duration = Duration::from_mins(10);

/// Told by this variable what the image's own time is, the program leaves those of files as they are,
/// unless they are later.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Whether the program is there and reads archives, as it does from version 1.7 on.
pub(super) fn takes_tar() -> bool {
    static TAKES: OnceLock<bool> = OnceLock::new();
    *TAKES.get_or_init(|| {
        let asked =
            Command::new(PROGRAM).arg("--help").stdin(Stdio::null()).output_within(PATIENCE);
        asked.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("--tar="))
    })
}

/// Has the program read an archive into an image at `path`, and says what was read. Without an `epoch`
/// the image has the time of its making.
pub(super) fn convert(
    reader: impl Read + Send,
    is_compressed: bool,
    path: &Path,
    options: &[String],
    uuid: &str,
    epoch: Option<u64>,
) -> Result<(Digest, u64)> {
    let (input, mut feed) = io::pipe()?;
    let own = ["--tar=f", "--aufs", "--quiet", "-Enoinline_data"].map(String::from);
    let args = own.into_iter().chain(options.iter().cloned()).chain(["-U".into(), uuid.into()]);
    let command = dated(Command::new(PROGRAM), epoch).args(args).arg(path);
    thread::scope(|scope| {
        let pouring =
            thread::Builder::new().name("diff-feed".into()).spawn_scoped(scope, move || {
                // A program that has read enough closes its end; what is left is hashed all the same.
                let mut is_read = true;
                pour(&mut inflated(reader, is_compressed)?, &mut |data| {
                    is_read = is_read && feed.write_all(data).is_ok();
                    Ok(())
                })
            })?;
        let made = run(command.stdin(input));
        let poured = pouring.join().map_err(|_panic| Error::internal("hashing a layer"))?;
        // A broken archive is why the program failed, if it did.
        let poured = poured?;
        made.map(|()| poured)
    })
}

/// Has the program make an image at `path` of a directory as it is.
pub(super) fn pack(
    directory: &Path,
    path: &Path,
    options: &[String],
    uuid: &str,
    epoch: u64,
) -> Result<()> {
    let own = ["--quiet", "-Enoinline_data"].map(String::from);
    let args = own.into_iter().chain(options.iter().cloned()).chain(["-U".into(), uuid.into()]);
    let command = dated(Command::new(PROGRAM), Some(epoch)).args(args).arg(path).arg(directory);
    run(command.stdin(Stdio::null()))
}

/// Makes an image of a directory in a file that has no name.
pub(super) fn image_of(
    directory: &Path,
    options: &[String],
    epoch: Option<SystemTime>,
) -> Result<fs::File> {
    let folder =
        directory.parent().ok_or_else(|| Error::invalid("snapshot without a directory"))?;
    let path = folder.join("diff.erofs.part");
    let mut args = vec!["--quiet".to_owned(), "-Enoinline_data".into()];
    args.extend_from_slice(options);
    if let Some(epoch) = epoch {
        let seconds = epoch.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Without it the image would bear a random number of its own.
        args.extend([format!("-T{seconds}"), "-U".into(), uuid(&Digest::of("erofs"))]);
    }
    let made = run(Command::new(PROGRAM).args(args).arg(&path).arg(directory).stdin(Stdio::null()));
    let opened = made.and_then(|()| Ok(fs::File::open(&path)?));
    drop(fs::remove_file(&path));
    opened
}

fn dated(command: Command, epoch: Option<u64>) -> Command {
    match epoch {
        Some(epoch) => command.env(EPOCH, epoch.to_string()),
        None => command,
    }
}

/// Runs the program; what it said is the error.
fn run(command: Command) -> Result<()> {
    let output = command.output_within(PATIENCE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::unimplemented(format!("{PROGRAM} is not installed")),
        io::ErrorKind::TimedOut => Error::caused(Kind::DeadlineExceeded, PROGRAM, error),
        _ => Error::from(error),
    })?;
    if output.exit.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Err(Error::said(Kind::Unknown, format!("erofs apply failed: {}: {}", text.trim(), output.exit)))
}

/// A number of the image's own that follows from the layer's digest (RFC 9562, version 8).
pub(super) fn uuid(digest: &Digest) -> String {
    let text = digest.as_str().rsplit(':').next().unwrap_or_default();
    let hex: String = text.chars().chain(std::iter::repeat('0')).take(32).collect();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_follows_from_the_digest() {
        let of = uuid(&Digest::of(""));
        assert_eq!(of, "e3b0c442-98fc-8c14-8afb-f4c8996fb924");
    }
}
