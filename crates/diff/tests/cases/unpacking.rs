// SPDX-License-Identifier: Apache-2.0
//! What entries become.
use std::os::unix::fs::MetadataExt;

use diff::tar::{Entry, Kind, Time};
use fs_err as fs;
use types::Digest;

use super::{
    archive::{Raw, archive, dir, entry, file, link, symlink, tar, unpack, unpack_upper},
    tree::{listing, make_dir, paths, read, temp, write, xattrs},
};

fn check_error(bytes: &[u8], want: &str) {
    let root = temp();
    let error = unpack(bytes, root.path()).unwrap_err();
    assert_eq!(error.to_string(), want);
    assert_eq!(error.kind(), types::Kind::InvalidArgument);
}

#[test]
fn every_kind_of_file_comes_out_as_it_went_in() {
    let root = temp();
    let device = |kind, name, mode| Entry { device: (1, 3), mode, ..entry(kind, name) };
    let bytes = tar([
        dir("d/"),
        file("d/f", "content"),
        link("d/hard", "d/f"),
        symlink("d/soft", "/nowhere/at/all"),
        (device(Kind::Char, "c", 0o666), vec![]),
        (device(Kind::Block, "b", 0o660), vec![]),
        (entry(Kind::Fifo, "p"), vec![]),
        (Entry { uid: 1000, gid: 2000, mode: 0o6755, ..entry(Kind::File, "suid") }, vec![]),
        (Entry { mode: 0o1777, ..entry(Kind::Directory, "tmp/") }, vec![]),
    ]);
    let applied = unpack(&bytes, root.path()).unwrap();
    assert_eq!(applied.digest, Digest::of(&bytes));
    assert_eq!(applied.size, bytes.len() as u64);
    assert!(!applied.needs_parent);
    let lines: Vec<_> =
        listing(root.path()).into_iter().map(|(name, line)| format!("{name} {line}")).collect();
    let time = "1700000000.000000000";
    assert_eq!(
        lines,
        [
            format!("b 060660 0:0 {time} dev 103"),
            format!("c 020666 0:0 {time} dev 103"),
            format!("d 040755 0:0 {time}"),
            format!("d/f 100644 0:0 {time} 7 ed7002b439e9 = d/f"),
            format!("d/hard 100644 0:0 {time} 7 ed7002b439e9 = d/f"),
            format!("d/soft 120777 0:0 {time} -> /nowhere/at/all"),
            format!("p 010644 0:0 {time}"),
            format!("suid 106755 1000:2000 {time} 0 e3b0c44298fc"),
            format!("tmp 041777 0:0 {time}"),
        ]
    );
}

#[test]
fn attributes_are_set_and_those_that_cannot_be_are_not_missed() {
    let root = temp();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let xattrs_in = vec![
        xattr("security.capability", &capability),
        xattr("user.note", b"a=b\n"),
        xattr("trusted.overlay.opaque", b"y"),
        xattr("nonsense", b""),
    ];
    let owned = Entry { uid: 5, mode: 0o4755, ..entry(Kind::File, "ping") };
    let bytes = tar([
        (Entry { xattrs: xattrs_in, ..owned }, vec![]),
        (Entry { xattrs: vec![xattr("user.d", b"1")], ..entry(Kind::Directory, "d") }, vec![]),
        (Entry { xattrs: vec![xattr("user.l", b"1")], ..symlink("l", "d").0 }, vec![]),
        (Entry { xattrs: vec![xattr("user.p", b"1")], ..entry(Kind::Fifo, "p") }, vec![]),
    ]);
    unpack(&bytes, root.path()).unwrap();
    let ping = xattrs(&root.path().join("ping"));
    assert_eq!(ping.keys().collect::<Vec<_>>(), ["security.capability", "user.note"]);
    assert_eq!(ping["security.capability"], capability);
    assert_eq!(ping["user.note"], b"a=b\n");
    assert_eq!(fs::metadata(root.path().join("ping")).unwrap().mode(), 0o104_755);
    assert_eq!(xattrs(&root.path().join("d"))["user.d"], b"1");
    assert!(xattrs(&root.path().join("l")).is_empty());
}

#[test]
fn times_are_exact_even_of_directories_that_are_filled_later() {
    let root = temp();
    let at = |seconds, nanos, entry| Entry { modified: Time { seconds, nanos }, ..entry };
    let bytes = tar([
        (at(1, 5, entry(Kind::Directory, "a")), vec![]),
        (at(2, 0, entry(Kind::Directory, "a/b")), vec![]),
        (at(3, 999_999_999, entry(Kind::File, "a/b/c")), vec![]),
        (at(-5, 0, entry(Kind::File, "a/before")), vec![]),
        (at(7, 7, symlink("a/l", "x").0), vec![]),
    ]);
    unpack(&bytes, root.path()).unwrap();
    let times: Vec<_> = paths(root.path())
        .iter()
        .map(|name| fs::symlink_metadata(root.path().join(name)).unwrap())
        .map(|meta| (meta.mtime(), meta.mtime_nsec()))
        .collect();
    assert_eq!(times, [(1, 5), (2, 0), (3, 999_999_999), (0, 0), (7, 7)]);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_whatever_they_are() {
    let root = temp();
    let bytes = tar([
        dir("x"),
        dir("x/deep"),
        file("x/deep/file", "1"),
        file("x", "now a file"),
        file("y", "file"),
        dir("y"),
        file("y/in", "2"),
        symlink("z", "y"),
        dir("z"),
        file("z/own", "3"),
        dir("y"),
    ]);
    unpack(&bytes, root.path()).unwrap();
    assert_eq!(paths(root.path()), ["x", "y", "y/in", "z", "z/own"]);
    assert_eq!(read(root.path(), "x"), "now a file");
}

#[test]
fn an_entry_for_the_root_changes_nothing() {
    let root = temp();
    let before = fs::metadata(root.path()).unwrap().mode();
    let odd = |name| (Entry { mode: 0o7777, ..entry(Kind::Directory, name) }, vec![]);
    unpack(&tar([odd("./"), odd("/"), odd(".."), odd("a/..")]), root.path()).unwrap();
    assert_eq!(fs::metadata(root.path()).unwrap().mode(), before);
    assert!(paths(root.path()).is_empty());
}

#[test]
fn what_a_layer_takes_for_granted_is_made_and_told() {
    let root = temp();
    let applied = unpack(&tar([file("a/b/c", "1")]), root.path()).unwrap();
    assert!(applied.needs_parent);
    assert_eq!(fs::metadata(root.path().join("a/b")).unwrap().mode(), 0o40755);
    // The same directories again, now from beneath.
    assert!(unpack(&tar([file("a/b/d", "2")]), root.path()).unwrap().needs_parent);
    assert!(!unpack(&tar([dir("a"), file("a/e", "2")]), root.path()).unwrap().needs_parent);
    assert!(unpack(&tar([link("g", "a/e")]), root.path()).unwrap().needs_parent);
    assert!(!unpack(&tar([file("h", ""), link("i", "h")]), root.path()).unwrap().needs_parent);
}

#[test]
fn missing_directories_are_like_those_of_the_layers_beneath() {
    let top = temp();
    let [upper, middle, bottom] = ["u", "m", "b"].map(|name| make_dir(top.path(), name));
    let described = Entry { uid: 7, gid: 8, mode: 0o1750, ..entry(Kind::Directory, "a") };
    let below = Entry { uid: 9, ..entry(Kind::Directory, "a/b") };
    unpack(&tar([(described, vec![]), (below, vec![])]), &bottom).unwrap();
    write(&middle, "other", "");
    let applied = unpack_upper(&tar([file("a/b/c/f", "1")]), &upper, &[&middle, &bottom]).unwrap();
    assert!(applied.needs_parent);
    let (a, b) = (fs::metadata(upper.join("a")).unwrap(), fs::metadata(upper.join("a/b")).unwrap());
    assert_eq!((a.uid(), a.gid(), a.mode(), a.mtime()), (7, 8, 0o41750, 1_700_000_000));
    assert_eq!((b.uid(), b.mtime()), (9, 1_700_000_000));
    assert_eq!(fs::metadata(upper.join("a/b/c")).unwrap().mode(), 0o40755);
}

#[test]
fn a_hard_link_to_what_is_not_there_is_refused() {
    let root = temp();
    for target in ["gone", "no/such/dir", "../../../etc/passwd"] {
        let error = unpack(&tar([link("l", target)]), root.path()).unwrap_err();
        assert_eq!(error.kind(), types::Kind::FailedPrecondition);
        assert!(error.to_string().ends_with("no such file or directory"), "{error}");
    }
}

#[test]
fn a_hard_link_to_a_symbolic_link_is_that_link() {
    let root = temp();
    unpack(&tar([symlink("soft", "/etc/passwd"), link("hard", "soft")]), root.path()).unwrap();
    let target = fs::read_link(root.path().join("hard")).unwrap();
    assert_eq!(target.to_str().unwrap(), "/etc/passwd");
}

#[test]
fn bytes_behind_the_end_count_for_the_digest() {
    let root = temp();
    let mut bytes = tar([file("f", "x")]);
    bytes.extend_from_slice(&[0; 8192]);
    bytes.extend_from_slice(b"trailing garbage");
    let applied = unpack(&bytes, root.path()).unwrap();
    assert_eq!(applied.digest, Digest::of(&bytes));
    assert_eq!(applied.size, bytes.len() as u64);
}

#[test]
fn an_archive_may_just_stop_where_a_header_could_be() {
    let root = temp();
    for bytes in [
        vec![],
        vec![0; 512],
        vec![0; 1024],
        Raw::gnu("f", b'0', 0).with(b""),
        Raw::gnu("g", b'0', 3).with(b"abc")[..515].to_vec(),
    ] {
        unpack(&bytes, root.path()).unwrap();
    }
    assert_eq!(paths(root.path()), ["f", "g"]);
}

#[test]
fn what_is_no_archive_is_refused_in_the_words_of_go() {
    let invalid = "archive/tar: invalid tar header";
    check_error(&[b'x'; 512], invalid);
    check_error(&[b'x'; 100], "unexpected EOF");
    let whole = archive(&[Raw::gnu("f", b'0', 1000).with(&[b'x'; 1000])]);
    check_error(&whole[..600], "f: unexpected EOF");
    check_error(&[&[0; 512][..], &whole].concat(), invalid);
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    check_error(&flipped, invalid);
    check_error(&archive(&[Raw::gnu("x", b'x', 1 << 30).with(b"")]), invalid);
    check_error(&archive(&[Raw::gnu("V", b'V', 0).with(b"")]), "V: unhandled tar header type 86");
    let device = Entry { device: (1 << 20, -1), ..entry(Kind::Char, "c") };
    assert!(diff::tar::Writer::new(Vec::new()).append(&device).is_err());
    let mut negative = Raw::gnu("c", b'3', 0);
    negative.put(329, [0xff; 8]);
    let want = "c: device number -1:0 out of range: invalid archive";
    check_error(&archive(&[negative.with(b"")]), want);
    let long = "a/".repeat(3000);
    let name = [Raw::gnu("x", b'L', long.len()).with(long.as_bytes())].concat();
    let error = unpack(&archive(&[name, Raw::gnu("f", b'0', 0).with(b"")]), temp().path());
    assert!(error.unwrap_err().to_string().ends_with("file name too long"));
}

#[test]
fn old_formats_are_read() {
    let root = temp();
    let mut large_id = Raw::gnu("id", b'0', 0);
    large_id.put(108, [0x80, 0, 0, 0, 0, 0x20, 0, 1]);
    let mut before = Raw::gnu("before1970", b'0', 0);
    before.put(136, [0xff; 12]);
    let mut prefixed = Raw::gnu("name", b'0', 0);
    prefixed.put(257, "ustar\x0000").put(345, "pre/fix");
    let long = "l".repeat(150);
    let bytes = archive(&[
        Raw::v7("v7dir/", 0, 0).with(b""),
        Raw::v7("v7dir/file", 0, 2).with(b"hi"),
        Raw::gnu("contiguous", b'7', 2).with(b"co"),
        large_id.with(b""),
        before.with(b""),
        prefixed.with(b""),
        Raw::gnu("././@LongLink", b'L', 151).with(format!("{long}\0").as_bytes()),
        Raw::gnu("././@LongLink", b'K', 151).with(format!("{long}\0").as_bytes()),
        Raw::gnu("short", b'2', 0).with(b""),
        Raw::gnu("g", b'g', 12).with(b"12 path=xyz\n"),
        Raw::gnu("after", b'0', 0).with(b""),
        // A link with a size has no data all the same.
        Raw::gnu("again", b'1', 700).put(157, "after").0.to_vec().pipe_checksum(),
    ]);
    unpack(&bytes, root.path()).unwrap();
    assert_eq!(read(root.path(), "v7dir/file"), "hi");
    assert_eq!(read(root.path(), "contiguous"), "co");
    assert_eq!(fs::metadata(root.path().join("id")).unwrap().uid(), 0x0020_0001);
    assert_eq!(fs::metadata(root.path().join("before1970")).unwrap().mtime(), 0);
    assert!(root.path().join("pre/fix/name").exists());
    assert_eq!(fs::read_link(root.path().join(&long)).unwrap().to_str().unwrap(), long);
    assert!(root.path().join("after").exists() && root.path().join("again").exists());
    assert!(!root.path().join("xyz").exists());
}

trait PipeChecksum {
    fn pipe_checksum(self) -> Vec<u8>;
}

impl PipeChecksum for Vec<u8> {
    fn pipe_checksum(self) -> Vec<u8> {
        Raw(self.try_into().unwrap()).with(b"")
    }
}

#[test]
fn compressed_layers_are_recognised_by_their_bytes() {
    let root = temp();
    let bytes = tar([file("f", "compressed")]);
    let zstd = zstd::encode_all(&bytes[..], 0).unwrap();
    // The media type says gzip, the bytes say zstd.
    let applied = unpack(&zstd, root.path()).unwrap();
    assert_eq!(applied.digest, Digest::of(&bytes));
    assert_eq!(read(root.path(), "f"), "compressed");
    let error = unpack(&zstd[..zstd.len() / 2], root.path()).unwrap_err();
    assert_eq!(error.to_string(), "zstd: unexpected EOF");
    assert_eq!(error.kind(), types::Kind::InvalidArgument);
}
