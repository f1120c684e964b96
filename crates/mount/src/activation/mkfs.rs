// SPDX-License-Identifier: Apache-2.0
//! `mkfs/`: a filesystem in a file, made when it is first mounted.
use std::{fs::File, io, path::Path, process::Stdio, time::Duration};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ftruncate, openat, renameat, statat, unlinkat},
    io::Errno,
};
use sys::Command;
use types::{Context, Error, Kind, Result};

use super::{
    ActiveMount, Transformer,
    roots::{Place, Roots},
};
use crate::{Mount, failure::failed};

const PREFIX: &str = "X-containerd.mkfs.";

/// How long a filesystem may take to be made.
const PATIENCE: Duration = Duration::from_mins(2);

/// Makes the file that a mount's source names, unless it is there, and takes the options away.
#[derive(Clone, Debug)]
pub(super) struct Mkfs(pub(super) Roots);

impl Transformer for Mkfs {
    fn transform(&self, mut mount: Mount, _: &[ActiveMount]) -> Result<Mount> {
        let place = self.0.place(&mount.source, "mkfs")?;
        let (ours, others): (Vec<_>, Vec<_>) =
            mount.options.into_iter().partition(|option| option.starts_with(PREFIX));
        mount.options = others;
        let filesystem = Filesystem::parse(&ours)?;
        if !is_there(&place, &mount.source)? {
            filesystem.make(&place, &mount.source)?;
        }
        Ok(mount)
    }
}

/// A filesystem that is asked for.
#[derive(Debug, PartialEq)]
struct Filesystem {
    size: u64,
    kind: String,
    uuid: Option<String>,
}

impl Filesystem {
    /// Reads `X-containerd.mkfs.{size,fs,uuid}=` (containerd `core/mount/manager/mkfs.go`).
    fn parse(options: &[String]) -> Result<Self> {
        let mut filesystem = Self { size: 0, kind: "ext4".into(), uuid: None };
        for option in options {
            let option = option.strip_prefix(PREFIX).unwrap_or(option);
            match option.split_once('=').unwrap_or((option, "true")) {
                ("size", value) => {
                    let bad =
                        || Error::invalid(format!("bad option size: invalid size: {value:?}"));
                    filesystem.size = bytes(value).ok_or_else(bad)?;
                }
                ("fs", value) => value.clone_into(&mut filesystem.kind),
                ("uuid", value) => filesystem.uuid = Some(value.to_owned()),
                (key, _) => return Err(Error::invalid(format!("unknown mount option {key}"))),
            }
        }
        if filesystem.size == 0 {
            return Err(Error::invalid("mkfs requires mkfs.size option"));
        }
        Ok(filesystem)
    }

    /// Makes it under another name first: a file of the right name is a filesystem, also when the
    /// power fails or the program does.
    fn make(&self, place: &Place, source: &str) -> Result<()> {
        let mut name = place.name.clone();
        name.push(".mkfs");
        let own = |error| failed("create file", source.as_ref(), error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let file =
            openat(&place.parent, &name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o640));
        let file = File::from(file.map_err(own)?);
        let made = ftruncate(&file, self.size)
            .map_err(|error| failed("truncate file", source.as_ref(), error))
            .and_then(|()| self.format(&place.path()?.with_file_name(&name)))
            .context(|| format!("failed format {source:?}"))
            .and_then(|()| Ok(file.sync_all()?))
            .and_then(|()| renameat(&place.parent, &name, &place.parent, &place.name).map_err(own));
        if made.is_err() {
            _ = unlinkat(&place.parent, &name, AtFlags::empty());
        }
        made
    }

    fn format(&self, path: &Path) -> Result<()> {
        let (program, args) = self.command()?;
        let command = Command::new(&program).args(&args).arg(path).stdin(Stdio::null());
        let output = command.output_within(PATIENCE).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let text = format!(
                    "{program} failed: : exec: {program:?}: executable file not found in $PATH"
                );
                Error::said(Kind::Unknown, text)
            }
            io::ErrorKind::TimedOut => {
                Error::caused(Kind::DeadlineExceeded, program.clone(), error)
            }
            _ => failed("run", program.as_ref(), error),
        })?;
        if output.exit.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Err(Error::said(Kind::Unknown, format!("{program} failed: {text}: {}", output.exit)))
    }

    fn command(&self) -> Result<(String, Vec<String>)> {
        let uuid = self.uuid.as_ref();
        let named: Vec<String> = match self.kind.as_str() {
            "ext2" | "ext3" | "ext4" => {
                uuid.map(|uuid| vec!["-U".into(), uuid.clone()]).unwrap_or_default()
            }
            "xfs" => uuid.map(|uuid| vec!["-m".into(), format!("uuid={uuid}")]).unwrap_or_default(),
            kind => return Err(Error::invalid(format!("unsupported filesystem {kind:?}"))),
        };
        let args = std::iter::once("-q".to_owned()).chain(named).collect();
        Ok((format!("mkfs.{}", self.kind), args))
    }
}

/// Whether the file exists, which is a filesystem then.
fn is_there(place: &Place, source: &str) -> Result<bool> {
    match statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => Ok(true),
        Ok(_) => Err(Error::failed_precondition(format!(
            "mkfs backing file {source:?} exists and is not a regular file"
        ))),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(failed("stat", source.as_ref(), error)),
    }
}

/// Reads a size in the way of go-units' `RAMInBytes`: `500MiB`, `1.5g`, `4096`; all binary.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 1,
        "m" | "mb" | "mi" | "mib" => 2,
        "g" | "gb" | "gi" | "gib" => 3,
        "t" | "tb" | "ti" | "tib" => 4,
        "p" | "pb" | "pi" | "pib" => 5,
        _ => return None,
    };
    Some((number * 1024f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use fs_err as fs;
    use tempfile::TempDir;

    use super::*;

    fn options(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| format!("{PREFIX}{text}")).collect()
    }

    #[test]
    fn sizes_are_binary() {
        for (text, want) in [
            ("4096", Some(4096)),
            ("1k", Some(1 << 10)),
            ("1.5 GiB", Some(3 << 29)),
            ("64MB", Some(64 << 20)),
            ("x", None),
            ("1q", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }

    #[test]
    fn options_are_checked() {
        assert!(Filesystem::parse(&options(&["fs=xfs"])).is_err());
        assert!(Filesystem::parse(&options(&["size=1m", "other=1"])).is_err());
        let asked = Filesystem::parse(&options(&["size=1m", "fs=xfs", "uuid=u"])).unwrap();
        let (program, args) = asked.command().unwrap();
        assert_eq!((program.as_str(), args.join(" ").as_str()), ("mkfs.xfs", "-q -m uuid=u"));
        let foreign = Filesystem::parse(&options(&["size=1m", "fs=ntfs"])).unwrap();
        assert_eq!(foreign.command().unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn a_filesystem_is_made_once() {
        let folder = TempDir::new().unwrap();
        let source = folder.path().join("fs.img").display().to_string();
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        let options = options(&["size=4MiB", "fs=ext4", &format!("uuid={uuid}")]);
        let mount =
            Mount { kind: "loop".into(), source: source.clone(), options, ..Mount::default() };
        let mkfs = Mkfs(Roots(vec![folder.path().to_owned()]));
        assert_eq!(mkfs.transform(mount.clone(), &[]).unwrap().options, [""; 0]);
        // The magic number and the UUID of ext4's superblock.
        let made = fs::read(&source).unwrap();
        assert_eq!((made.len(), &made[1080..1082]), (4 << 20, &[0x53, 0xef][..]));
        assert_eq!(&made[1128..1132], [0x55, 0x0e, 0x84, 0x00]);
        fs::write(&source, "mine").unwrap();
        mkfs.transform(mount, &[]).unwrap();
        assert_eq!(fs::read(&source).unwrap(), b"mine");
    }

    #[test]
    fn what_fails_leaves_no_file() {
        let folder = TempDir::new().unwrap();
        let source = folder.path().join("fs.img").display().to_string();
        let options = options(&["size=4MiB", "uuid=bogus"]);
        let mount = Mount { kind: "loop".into(), source, options, ..Mount::default() };
        let error = Mkfs(Roots(vec![folder.path().to_owned()])).transform(mount, &[]).unwrap_err();
        assert!(error.to_string().contains("mkfs.ext4 failed"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
