// SPDX-License-Identifier: Apache-2.0
//! The log that runc writes in JSON, one object to a line.
use std::{
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use fs_err as fs;
use serde::Deserialize;

/// More than an error ever says.
const LONGEST: u64 = 1 << 20;

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// How long a log is: what is written from here on is news.
pub(super) fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// The last error that was logged from there on, or why the log cannot be read.
pub(super) fn last_error(log: &Path, from: u64) -> Result<String, String> {
    let text = read(log, from)
        .map_err(|error| format!("open {}: {}", log.display(), sys::errno::text(&error)))?;
    let entries = serde_json::Deserializer::from_str(&text).into_iter::<Entry>();
    let errors = entries.map_while(Result::ok).filter(|entry| entry.level == "error");
    Ok(errors.last().map(|entry| entry.msg.trim().to_owned()).unwrap_or_default())
}

fn read(log: &Path, from: u64) -> std::io::Result<String> {
    let (mut file, _) = fs::File::open(log).map_err(plain)?.into_parts();
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The error without the path, which is told in Go's way.
fn plain(error: std::io::Error) -> std::io::Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => std::io::Error::from_raw_os_error(2),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_since_then_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.json");
        let old = "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"x\"}\n";
        fs::write(&log, old).unwrap();
        let from = length(&log);
        assert_eq!(last_error(&log, from).unwrap(), "");
        let new = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n\
                   {\"level\":\"error\",\"msg\":\"runc create failed: x\\n\"}\n{\"level\":\"info";
        fs::write(&log, format!("{old}{new}")).unwrap();
        assert_eq!(last_error(&log, from).unwrap(), "runc create failed: x");
    }

    #[test]
    fn a_log_that_is_missing_is_told_in_go_s_words() {
        let error = last_error(Path::new("/no/log.json"), 0).unwrap_err();
        assert_eq!(error, "open /no/log.json: no such file or directory");
    }
}
