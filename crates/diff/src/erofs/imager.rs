// SPDX-License-Identifier: Apache-2.0
//! Archives made into images, one layer of an image after the other, the lowest first.
//!
//! ```text
//! archive --read once--> diff ID, newest time
//!         --read again--> mkfs.erofs --tar=f            --> image    (version 1.7 and later)
//!         --read again--> <scratch>/<n>/ --mkfs.erofs--> image    (before)
//! ```
//!
//! An image follows from its archive alone, whenever and wherever it is made by the same version of
//! `mkfs.erofs`: its number is made of the diff ID, and its own time is that of the newest file, which
//! is also the time of directories that the archive takes for granted.
use std::{
    io::{self, BufReader, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fs_err as fs;
use types::{Algorithm, Digest, Error, Hasher, Result};

use super::{BUFFER, check, inflated, mkfs};
use crate::{Options, Target, Whiteouts, apply, media, tar::Archive};

/// How images are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imaging {
    /// What files are compressed with, in the words of `mkfs.erofs -z`: `lz4hc,9`. Empty is nothing.
    pub compressors: String,
    /// What else `mkfs.erofs` is told.
    pub mkfs_options: Vec<String>,
}

impl Imaging {
    /// Compressed, files are in clusters of 64 KiB (containerd `core/images/converter/erofs`).
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if !self.compressors.is_empty() {
            options.extend([format!("-z{}", self.compressors), "-C65536".to_owned()]);
        }
        options.extend_from_slice(&self.mkfs_options);
        options
    }
}

/// Makes the layers of one image. What it needs on disk goes when it does.
///
/// Where layers have to be unpacked, it takes root: whiteouts are devices.
#[derive(Debug)]
pub struct Imager {
    how: Imaging,
    scratch: PathBuf,
    /// The layers that were unpacked, topmost first.
    unpacked: Vec<PathBuf>,
}

impl Imager {
    /// Makes images as `how` says, in a directory of its own in `place`.
    pub fn open(place: &Path, how: Imaging) -> Result<Self> {
        let number = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (pid, nanos) = (std::process::id(), number.tv_sec * 1_000_000_000 + number.tv_nsec);
        let scratch = place.join(format!(".erofs-{pid}-{nanos}"));
        fs::create_dir(&scratch)?;
        fs::set_permissions(&scratch, PermissionsExt::from_mode(0o700))?;
        Ok(Self { how, scratch, unpacked: Vec::new() })
    }

    /// Makes the image of the layer above the last one, and says what the archive's diff ID is. The
    /// file is the caller's to take away; what stays goes with this. Both readers yield the layer.
    ///
    /// Errors: `Unimplemented` without `mkfs.erofs`, and for a media type that is not known;
    /// `InvalidArgument` for an archive that is malformed.
    pub fn next(
        &mut self,
        media_type: &str,
        first: impl Read,
        second: impl Read + Send,
    ) -> Result<(PathBuf, Digest)> {
        let is_compressed = media::is_compressed(media_type)?;
        let Survey { diff_id, newest } = survey(first, is_compressed)?;
        let image = self.scratch.join("layer.erofs");
        let (options, uuid) = (self.how.options(), mkfs::uuid(&diff_id));
        let read = if mkfs::takes_tar() {
            mkfs::convert(second, is_compressed, &image, &options, &uuid, Some(newest))?.0
        } else {
            let (directory, read) = self.unpack(media_type, second)?;
            mkfs::pack(&directory, &image, &options, &uuid, newest)?;
            read
        };
        if read != diff_id {
            return Err(Error::failed_precondition(format!("layer {diff_id} changed to {read}")));
        }
        check(&fs::File::open(&image)?)?;
        Ok((image, diff_id))
    }

    /// Unpacks a layer beside those beneath it, after which what it takes for granted is made.
    fn unpack(&mut self, media_type: &str, layer: impl Read + Send) -> Result<(PathBuf, Digest)> {
        let directory = self.scratch.join(self.unpacked.len().to_string());
        fs::create_dir(&directory)?;
        let (mode, uid, gid) = match self.unpacked.first() {
            Some(parent) => {
                let parent = fs::metadata(parent)?;
                (parent.mode() & 0o7777, parent.uid(), parent.gid())
            }
            None => (0o755, 0, 0),
        };
        fs::os::unix::fs::lchown(&directory, Some(uid), Some(gid))?;
        fs::set_permissions(&directory, PermissionsExt::from_mode(mode))?;
        let target = Target {
            directory: directory.clone(),
            whiteouts: Whiteouts::Overlay { userxattr: false },
            parents: self.unpacked.clone(),
        };
        let options = Options { sync: false, ..Options::default() };
        let applied = apply(layer, media_type, &target, &options)?;
        self.unpacked.insert(0, directory.clone());
        Ok((directory, applied.digest))
    }
}

impl Drop for Imager {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.scratch) {
            tracing::warn!(%error, "failed to remove what images were made in");
        }
    }
}

/// What an archive is, as far as its image depends on it.
struct Survey {
    diff_id: Digest,
    /// When the newest of its files last changed, in seconds since 1970.
    newest: u64,
}

fn survey(reader: impl Read, is_compressed: bool) -> Result<Survey> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let hashed = Hashed { source: inflated(reader, is_compressed)?, hasher: &mut hasher };
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, hashed));
    let mut newest = 0;
    while let Some(entry) = archive.next_entry()? {
        // An image's own time is in seconds: what is within the last one is not later.
        let seconds = entry.modified.seconds + i64::from(entry.modified.nanos > 0);
        newest = newest.max(u64::try_from(seconds).unwrap_or_default());
    }
    archive.drain()?;
    Ok(Survey { diff_id: hasher.finish(), newest })
}

struct Hashed<'a, R> {
    source: R,
    hasher: &'a mut Hasher,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread::sleep, time::Duration};

    use mount::{Mount, Temporary};

    use super::*;
    use crate::tar::{Entry, Kind, Time, Writer};

    fn archive(entries: &[(&str, Kind, &str)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for &(name, kind, text) in entries {
            let (link, data) = if kind == Kind::File { ("", text) } else { (text, "") };
            let entry = Entry {
                name: name.into(),
                kind,
                link: link.into(),
                mode: 0o640,
                uid: 7,
                size: data.len() as u64,
                modified: Time { seconds: 1_000_000_000, nanos: 500_000_000 },
                ..Entry::default()
            };
            writer.append(&entry).unwrap();
            writer.data(data.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn make(layers: &[&[u8]], how: &Imaging) -> Option<Vec<Vec<u8>>> {
        sys::program::find(mkfs::PROGRAM, None).or_else(|| {
            println!("skipped: {} is not installed", mkfs::PROGRAM);
            None
        })?;
        let place = tempfile::tempdir().unwrap();
        let mut imager = Imager::open(place.path(), how.clone()).unwrap();
        let images = layers.iter().map(|layer| {
            let (path, diff_id) = imager.next(types::media_types::LAYER, *layer, *layer).unwrap();
            assert_eq!(diff_id, Digest::of(layer));
            fs::read(path).unwrap()
        });
        let images = images.collect();
        drop(imager);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left");
        Some(images)
    }

    #[test]
    fn the_same_archive_gives_the_same_image() {
        let lower = archive(&[("d/", Kind::Directory, ""), ("d/a", Kind::File, "text")]);
        let upper = archive(&[("d/.wh.a", Kind::File, ""), ("e/b", Kind::File, "more")]);
        for compressors in ["", "lz4hc,9"] {
            let how = Imaging { compressors: compressors.into(), ..Imaging::default() };
            let Some(first) = make(&[&lower, &upper], &how) else { return };
            // The image's own time and those of directories that nobody describes must not show.
            sleep(Duration::from_millis(1100));
            assert_eq!(make(&[&lower, &upper], &how).unwrap(), first, "{compressors:?}");
        }
    }

    #[test]
    fn an_image_is_what_the_archive_says() {
        let lower = archive(&[
            ("d/", Kind::Directory, ""),
            ("d/a", Kind::File, "text"),
            ("d/b", Kind::Link, "d/a"),
            ("d/l", Kind::Symlink, "a"),
            ("gone", Kind::File, "x"),
            ("o/", Kind::Directory, ""),
        ]);
        let upper = archive(&[
            (".wh.gone", Kind::File, ""),
            ("o/.wh..wh..opq", Kind::File, ""),
            ("d/new", Kind::File, "new"),
        ]);
        let Some(images) = make(&[&lower, &upper], &Imaging::default()) else { return };
        let place = tempfile::tempdir().unwrap();
        let mounted = |image: &[u8]| {
            let path = place.path().join("image");
            fs::write(&path, image).unwrap();
            let options = ["ro", "loop"].map(str::to_owned).to_vec();
            let source = path.display().to_string();
            let mount = Mount { kind: "erofs".into(), source, target: String::new(), options };
            Temporary::mount(&[mount], place.path()).unwrap()
        };
        let first = mounted(&images[0]);
        let found = |name: &str| fs::symlink_metadata(first.path().join(name)).unwrap();
        assert_eq!(fs::read_to_string(first.path().join("d/l")).unwrap(), "text");
        assert_eq!((found("d/a").uid(), found("d/a").mode() & 0o7777), (7, 0o640));
        assert_eq!((found("d/a").mtime(), found("d/a").mtime_nsec()), (1_000_000_000, 500_000_000));
        assert_eq!((found("d/a").ino(), found("d/a").nlink()), (found("d/b").ino(), 2));
        first.close().unwrap();
        let second = mounted(&images[1]);
        let gone = fs::symlink_metadata(second.path().join("gone")).unwrap();
        assert_eq!((gone.mode() & 0o170_000, gone.rdev()), (0o020_000, 0));
        let mut opaque = [0; 8];
        let key = "trusted.overlay.opaque";
        let length = rustix::fs::getxattr(second.path().join("o"), key, &mut opaque).unwrap();
        assert_eq!(&opaque[..length], b"y");
        assert_eq!(fs::read_to_string(second.path().join("d/new")).unwrap(), "new");
        second.close().unwrap();
    }
}
