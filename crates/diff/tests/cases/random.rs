// SPDX-License-Identifier: Apache-2.0
//! Random trees, random changes, random bytes.
use std::path::Path;

use diff::tar::{Entry, Kind, Time};
use fs_err as fs;
use proptest::prelude::*;

use super::overlays::Layers;
use super::{
    archive::{tar, unpack},
    tree::{listing, make_dir, temp},
};

/// Failures are shrunk and shown, not kept in files.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

type Part = (Entry, Vec<u8>);

/// Few names, so that entries meet.
fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c.d", "é"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let value = proptest::collection::vec(any::<u8>(), 0..20);
    proptest::option::of(value)
        .prop_map(|value| value.into_iter().map(|value| (b"user.x".to_vec(), value)).collect())
}

prop_compose! {
    fn part()(
        name in name(),
        kind in 0..7_u8,
        mode in 0..0o10000_u32,
        (uid, gid) in (0..3_i64, 0..3_i64),
        seconds in 0..4_i64,
        content in proptest::collection::vec(any::<u8>(), 0..600),
        xattrs in xattrs(),
    ) -> Part {
        let (kind, link, xattrs) = match kind {
            0..3 => (Kind::Directory, vec![], xattrs),
            3 => (Kind::Symlink, b"../a".to_vec(), vec![]),
            4 => (Kind::Fifo, vec![], vec![]),
            _ => (Kind::File, vec![], xattrs),
        };
        let content = if kind == Kind::File { content } else { vec![] };
        let entry = Entry {
            name: name.into(), kind, link, mode, uid, gid, xattrs, size: content.len() as u64,
            modified: Time { seconds, nanos: 0 }, ..Entry::default()
        };
        (entry, content)
    }
}

/// An archive that can be unpacked: what does not fit what came before is left out.
fn unpack_what_fits(parts: Vec<Part>, root: &Path) -> Vec<u8> {
    let mut good = Vec::new();
    for part in parts {
        let one = tar([part.clone()]);
        if unpack(&one, root).is_ok() {
            good.push(part);
        }
    }
    tar(good)
}

/// Directories that no entry describes have the time of unpacking; here, they all have one.
fn lines(root: &Path) -> Vec<(String, String)> {
    let is_directory = |line: &str| line.starts_with("04");
    let line = |(name, line): (String, String)| {
        let parts = || line.split(' ');
        let without_time = || parts().take(2).chain(parts().skip(3)).collect();
        (name, if is_directory(&line) { without_time() } else { line.clone() })
    };
    listing(root).into_iter().map(line).collect()
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn comparing_undoes_applying(
        parts in proptest::collection::vec(part(), 0..12),
        changes in proptest::collection::vec(part(), 0..8),
        removals in proptest::collection::vec(name(), 0..4),
    ) {
        let top = temp();
        // None of them is called like a name in the trees: those may have links that lead up.
        let [lower, upper, again] = ["lower", "upper", "again"].map(|name| make_dir(top.path(), name));
        let base = unpack_what_fits(parts, &lower);
        unpack(&base, &upper).unwrap();
        unpack(&base, &again).unwrap();
        unpack_what_fits(changes, &upper);
        for name in removals {
            let path = upper.join(name);
            drop(fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)));
        }
        let layer = diff::compare(Some(&lower), &upper, None, None, Vec::new()).unwrap();
        unpack(&layer, &again).unwrap();
        prop_assert_eq!(lines(&again), lines(&upper));
        // And a second time there is nothing left to tell.
        let nothing = diff::compare(Some(&again), &upper, None, None, Vec::new()).unwrap();
        prop_assert_eq!(nothing.len(), 1024);
    }

    #[test]
    fn an_overlay_tells_the_same_by_its_top_layer(
        parts in proptest::collection::vec(part(), 0..10),
        changes in proptest::collection::vec(part(), 0..8),
        removals in proptest::collection::vec(name(), 0..4),
    ) {
        let mut layers = Layers::new();
        let lower = layers.push();
        unpack_what_fits(parts, &lower);
        let top = layers.push();
        let active = mount::Temporary::mount(&layers.active(), Path::new("/tmp")).unwrap();
        for name in removals {
            let path = active.path().join(name);
            drop(fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)));
        }
        unpack_what_fits(changes, active.path());
        let whole =
            diff::compare(Some(&lower), active.path(), None, None, Vec::new()).unwrap();
        let quick =
            diff::compare(Some(&lower), active.path(), Some(&top), None, Vec::new()).unwrap();
        let want = lines(active.path());
        active.close().unwrap();
        prop_assert!(quick == whole);
        // Unpacked as a layer of its own, it gives the same tree again.
        let mut copy = Layers::new();
        let again = copy.push();
        unpack(&diff::compare(None, &lower, None, None, Vec::new()).unwrap(), &again).unwrap();
        copy.apply(&whole);
        let mounted = copy.mounted();
        let got = lines(mounted.path());
        mounted.close().unwrap();
        prop_assert_eq!(got, want);
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    /// Whatever is in an archive, nothing panics, and nothing outside is touched.
    #[test]
    fn broken_archives_do_no_harm(
        parts in proptest::collection::vec(part(), 1..6),
        noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        fix in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = tar(parts);
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if fix {
            fix_checksums(&mut bytes);
        } else {
            bytes.truncate(cut.index(bytes.len()));
        }
        harmless(&bytes);
    }

    #[test]
    fn random_bytes_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        harmless(&bytes);
        fix_checksums(&mut bytes);
        harmless(&bytes);
        for magic in [&[0x1f, 0x8b, 8][..], &[0x28, 0xb5, 0x2f, 0xfd]] {
            harmless(&[magic, &bytes].concat());
        }
    }
}

fn harmless(bytes: &[u8]) {
    let top = temp();
    let root = make_dir(top.path(), "root");
    drop(unpack(bytes, &root));
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
}

/// Makes every block a header, so that what is in it is looked at.
pub(super) fn fix_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[..100] != [0; 100]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
