// SPDX-License-Identifier: Apache-2.0
//! Archives that were made to do harm: bodies without an end, sizes that cannot be, and what random
//! changes make of archives as GNU tar writes them.
use std::{
    io::{self, Read},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use diff::{Target, Whiteouts};
use fs_err as fs;
use types::{Kind, media_types};

use super::{
    archive::{Raw, archive, dir, file, tar, unpack, unpack_upper, unsynced},
    overlays::Layers,
    tree::{make_dir, paths, temp, write},
};

/// How long archives are changed at random.
const BUDGET: Duration = Duration::from_millis(1500);
const LEAST: usize = 60;

/// An archive, and zeros for ever.
struct Endless<'a>(&'a [u8]);

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            length => Ok(length),
        }
    }
}

#[test]
fn a_body_without_an_end_is_given_up() {
    let root = temp();
    let bytes = tar([file("f", "x")]);
    let directory = root.path().to_owned();
    let target = Target { directory, whiteouts: Whiteouts::Remove, parents: vec![] };
    let applied = diff::apply(Endless(&bytes), media_types::LAYER, &target, &unsynced());
    let error = applied.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
}

#[test]
fn what_inflates_without_an_end_is_given_up() {
    let root = temp();
    let bytes = tar([dir("d")]);
    let zeros = io::repeat(0).take(80 << 20);
    let bomb = zstd::encode_all((&bytes[..]).chain(zeros), 1).unwrap();
    assert!(bomb.len() < 64 << 10, "it is small: {} bytes", bomb.len());
    let error = unpack(&bomb, root.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
}

#[test]
fn sizes_that_cannot_be_are_refused_without_being_believed() {
    for size in [u64::from(u32::MAX), 1 << 40, (1 << 62) + 1, u64::MAX] {
        let root = temp();
        let mut raw = Raw::gnu("f", b'0', 0);
        let mut field = [0; 12];
        field[4..].copy_from_slice(&size.to_be_bytes());
        field[0] = 0x80;
        raw.put(124, field);
        let error = unpack(&archive(&[raw.with(b"x")]), root.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{size}: {error}");
    }
}

/// Archives as they come: sparse files, long names, PAX records, extended attributes, whiteouts.
fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let root = make_dir(folder, "source");
    write(&root, "d/file", &"content ".repeat(200));
    write(&root, &format!("d/{}", "long".repeat(40)), "x");
    write(&root, "d/.wh.gone", "");
    write(&root, "e/.wh..wh..opq", "");
    std::os::unix::fs::symlink("../d/file", root.join("e/link")).unwrap();
    fs::hard_link(root.join("d/file"), root.join("e/hard")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(sparse.file(), b"end", 1 << 20).unwrap();
    let key = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("d"), "user.k", b"value", key).unwrap();
    let formats = ["--format=gnu", "--format=pax", "--format=ustar", "--format=v7"];
    let pack = |format: &str| {
        let output = Command::new("tar")
            .args([format, "--sparse", "--xattrs", "-C"])
            .arg(&root)
            .args(["-cf", "-", "."])
            .output()
            .expect("tar is installed");
        output.stdout
    };
    formats.into_iter().map(pack).filter(|bytes| !bytes.is_empty()).collect()
}

/// A sequence that is the same each time, so that what it finds is found again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// Changes bytes, exchanges, repeats and cuts blocks; and makes headers valid again, most times.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.roll(2) {
        let (block, other) = (dice.roll(bytes.len() / 512), dice.roll(bytes.len() / 512));
        let range = block * 512..(block + 1) * 512;
        match dice.roll(8) {
            0 => {
                let copy = bytes[range].to_vec();
                bytes[other * 512..(other + 1) * 512].copy_from_slice(&copy);
            }
            1 => {
                let copy = bytes[range].to_vec();
                bytes.splice(other * 512..other * 512, copy);
            }
            2 if bytes.len() > 2048 => drop(bytes.drain(range)),
            3 => bytes[block * 512 + 156] = b"0123456LKxgSV7"[dice.roll(14)],
            4 => bytes[block * 512 + 124 + dice.roll(12)] = b"01278\0 \x80\xff"[dice.roll(9)],
            _ => bytes[block * 512 + dice.roll(512)] = dice.roll(256) as u8,
        }
    }
    if dice.roll(5) > 0 {
        super::random::fix_checksums(bytes);
    }
}

#[test]
fn changed_archives_do_no_harm() {
    let top = temp();
    let corpus = corpus(top.path());
    assert!(corpus.len() >= 3, "tar writes {} formats", corpus.len());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (began, mut applied, mut count) = (Instant::now(), 0, 0);
    while count < LEAST || began.elapsed() < BUDGET {
        let mut bytes = corpus[dice.roll(corpus.len())].clone();
        mutate(&mut bytes, &mut dice);
        let folder = temp();
        let (plain, upper) = (make_dir(folder.path(), "plain"), make_dir(folder.path(), "upper"));
        let first = unpack(&bytes, &plain).ok();
        let second = unpack_upper(&bytes, &upper, &[]).ok();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is made outside");
        // Where both ways are through, they tell the same of the archive.
        if let (Some(first), Some(second)) = (&first, &second) {
            assert_eq!((&first.digest, first.size), (&second.digest, second.size));
        }
        applied += usize::from(first.is_some());
        count += 1;
    }
    println!("{count} archives, of which {applied} were unpacked");
    assert!(applied > 0 && applied < count, "some archives survive their changes, some do not");
}

/// What was unpacked from any archive can be told and unpacked again, also where whiteouts are marks.
#[test]
fn what_survives_its_changes_can_be_compared() {
    let top = temp();
    let corpus = corpus(top.path());
    let mut dice = Dice(7);
    let began = Instant::now();
    while began.elapsed() < BUDGET {
        let mut bytes = corpus[dice.roll(corpus.len())].clone();
        mutate(&mut bytes, &mut dice);
        let mut layers = Layers::new();
        let directory = layers.push();
        if unpack_upper(&bytes, &directory, &[]).is_err() {
            continue;
        }
        let mounted = layers.mounted();
        let layer = diff::compare(None, mounted.path(), None, None, Vec::new()).unwrap();
        let again = temp();
        unpack(&layer, again.path()).unwrap();
        let (got, want) = (paths(again.path()), paths(mounted.path()));
        mounted.close().unwrap();
        assert_eq!(got, want);
    }
}
