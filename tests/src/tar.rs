// SPDX-License-Identifier: Apache-2.0
//! Tar archives written byte by byte, so that they can be as wrong as a test wants them.
//!
//! The header is POSIX ustar: 512 bytes, numbers in octal, a checksum over the block with its own
//! field as blanks (IEEE Std 1003.1, pax, "ustar Interchange Format"). Nothing is checked: a name
//! may be `../../etc/passwd`.

/// The time every entry carries, so that the same archive has the same digest every day.
const EPOCH: u64 = 1_700_000_000;

const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Starts an empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, b'5', mode, "", &[])
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, contents: &[u8]) -> Self {
        self.entry(path, b'0', mode, "", contents)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, b'2', 0o777, target, &[])
    }

    /// Adds a hard link to an earlier entry, or to whatever `target` says. An honest archiver
    /// repeats the mode of the file.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str, mode: u32) -> Self {
        self.entry(path, b'1', mode, target, &[])
    }

    /// Adds the marker that removes `path` from the layers below (OCI image spec, layer.md).
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        self.file(&format!("{dir}.wh.{name}"), 0, &[])
    }

    /// Adds the marker that hides all of a directory of the layers below (OCI image spec, layer.md).
    #[must_use]
    pub fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), 0, &[])
    }

    /// Ends the archive with its two empty blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn entry(mut self, path: &str, kind: u8, mode: u32, link: &str, contents: &[u8]) -> Self {
        self.0.extend_from_slice(&header(path, kind, mode, link, contents.len()));
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }
}

fn header(path: &str, kind: u8, mode: u32, link: &str, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    debug_assert!(path.len() <= 100 && link.len() <= 100, "longer names need PAX");
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{EPOCH:011o}"));
    put(148, "        ");
    put(157, link);
    put(257, "ustar");
    put(263, "00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use crate::{Outcome, process};

    use super::*;

    #[test]
    fn the_system_tar_reads_what_is_written_here() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.tar");
        let tar = Tar::new()
            .dir("etc", 0o755)
            .file("etc/greeting", 0o640, b"hello\n")
            .symlink("etc/link", "greeting")
            .hardlink("etc/twin", "etc/greeting", 0o640)
            .whiteout("etc/old");
        fs_err::write(&path, tar.finish())?;
        let list = Command::new("tar").arg("-tvf").arg(&path).env("TZ", "UTC").output()?;
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        for line in ["etc/greeting", "etc/link -> greeting", "link to etc/greeting", ".wh.old"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let out = process::run(
            Command::new("tar").arg("-xOf").arg(&path).arg("etc/greeting"),
            Duration::from_secs(10),
        )?;
        assert_eq!(out.ok()?, "hello\n");
        Ok(())
    }
}
