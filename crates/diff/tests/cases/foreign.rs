// SPDX-License-Identifier: Apache-2.0
//! GNU tar on the other end: what it writes we unpack, and what we write it unpacks.
use std::{
    os::unix::{
        fs::{FileExt, MetadataExt},
        net::UnixListener,
    },
    path::Path,
    process::Command,
};

use fs_err as fs;

use super::{
    archive::unpack,
    tree::{listing, make_dir, set_time, temp, write},
};

#[allow(clippy::disallowed_methods, reason = "a test runs a program of the system")]
fn tar(arguments: &[&str], directory: &Path) -> Vec<u8> {
    let output = Command::new("tar").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A tree with something of everything.
fn everything(root: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags};
    write(root, "file", "content");
    write(root, &format!("{}/{}", "deep/".repeat(30), "n".repeat(120)), "long");
    write(root, "ünï/çödé", "utf-8");
    write(root, "owned", "");
    std::os::unix::fs::chown(root.join("owned"), Some(3_000_000), Some(2)).unwrap();
    fs::hard_link(root.join("file"), root.join("linked")).unwrap();
    fs::os::unix::fs::symlink("x".repeat(150), root.join("soft")).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    let device = rustix::fs::makedev(8, 300);
    rustix::fs::mknodat(CWD, root.join("disk"), FileType::BlockDevice, mode, device).unwrap();
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    let (key, value) = ("user.binary", b"\0=\n\xff");
    rustix::fs::setxattr(root.join("file"), key, value, XattrFlags::empty()).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    for i in 0..40 {
        sparse.file().write_all_at(b"data", i * 131_072 + 7).unwrap();
    }
    let holes = fs::File::create(root.join("holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    set_time(&root.join("file"), 1_234_567_890, 123_456_789);
}

fn whole_seconds(root: &Path) -> std::collections::BTreeMap<String, String> {
    let mut lines = listing(root);
    for line in lines.values_mut() {
        let (start, rest) = line.split_once('.').unwrap();
        *line = format!("{start}{}", &rest[9..]);
    }
    lines
}

#[test]
fn every_format_of_gnu_tar_is_unpacked() {
    let top = temp();
    let source = make_dir(top.path(), "source");
    everything(&source);
    let pax = ["--format=pax", "--xattrs"];
    let sparse = |version| ["--format=pax", "--xattrs", "--sparse", version];
    let cases: [(&[&str], bool); 6] = [
        (&pax, true),
        (&sparse("--sparse-version=0.0"), true),
        (&sparse("--sparse-version=0.1"), true),
        (&sparse("--sparse-version=1.0"), true),
        (&["--format=gnu", "--sparse"], false),
        (&["--format=oldgnu", "--sparse", "--hole-detection=raw"], false),
    ];
    for (i, (arguments, is_exact)) in cases.into_iter().enumerate() {
        let bytes = tar(&[&["-c", "--numeric-owner"], arguments, &["."]].concat(), &source);
        let root = make_dir(top.path(), &i.to_string());
        unpack(&bytes, &root).unwrap();
        if is_exact {
            assert_eq!(listing(&root), listing(&source), "{arguments:?}");
        } else {
            let mut want = whole_seconds(&source);
            for line in want.values_mut() {
                *line = line.split(" user.").next().unwrap().to_owned();
            }
            assert_eq!(whole_seconds(&root), want, "{arguments:?}");
        }
        let is_sparse = arguments.contains(&"--sparse");
        let blocks = fs::metadata(root.join("sparse")).unwrap().blocks();
        assert_eq!(blocks < 5 << 11, is_sparse, "{arguments:?}");
    }
}

#[test]
fn gnu_tar_unpacks_what_we_write() {
    let top = temp();
    let [source, target] = ["source", "target"].map(|name| make_dir(top.path(), name));
    everything(&source);
    let _socket = UnixListener::bind(source.join("socket")).unwrap();
    let bytes = diff::compare(None, &source, None, None, Vec::new()).unwrap();
    let archive = top.path().join("archive.tar");
    fs::write(&archive, bytes).unwrap();
    let archive = archive.to_str().unwrap();
    let arguments = ["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f"];
    tar(&[&arguments[..], &[archive]].concat(), &target);
    let mut want = whole_seconds(&source);
    want.remove("socket");
    assert_eq!(whole_seconds(&target), want);
}

/// Two readers that know nothing of each other have to see the same files in an archive.
#[test]
fn another_parser_agrees() {
    use tar_core::parse::{Limits, ParseEvent, Parser};
    let source = temp();
    everything(source.path());
    for format in ["--format=pax", "--format=gnu", "--format=ustar", "--format=v7"] {
        let left_out =
            ["soft", "deep", "owned", "disk", "pipe"].map(|name| format!("--exclude={name}"));
        let mut arguments = vec!["-c", format];
        arguments.extend(left_out.iter().map(String::as_str));
        let bytes = tar(&[&arguments[..], &["."]].concat(), source.path());
        let mut archive = diff::tar::Archive::new(&*bytes);
        let mut parser = Parser::new(Limits::default());
        let mut rest = &bytes[..];
        let mut count = 0;
        while let Some(ours) = archive.next_entry().unwrap() {
            let ParseEvent::Entry { consumed, entry } = parser.parse(rest).unwrap() else {
                panic!("{format}: they see no entry where we see {ours:?}");
            };
            assert_eq!(entry.path, ours.name);
            assert_eq!((entry.mode & 0o7777, entry.size), (ours.mode, ours.size));
            assert_eq!((entry.uid as i64, entry.mtime as i64), (ours.uid, ours.modified.seconds));
            rest = &rest[consumed + entry.padded_size() as usize..];
            count += 1;
        }
        assert!(matches!(parser.parse(rest).unwrap(), ParseEvent::End { .. }));
        assert!(count > 5, "{format}");
    }
}
