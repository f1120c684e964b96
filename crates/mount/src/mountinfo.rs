// SPDX-License-Identifier: Apache-2.0
//! What is mounted: `/proc/thread-self/mountinfo`, as `proc_pid_mountinfo(5)` has it.
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//! id parent  root  point options    optional    kind source    super options
//! ```
use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use types::{Error, Result};

/// The thread's own view: a thread may have left the namespace of its process.
const FILE: &str = "/proc/thread-self/mountinfo";

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its number, which may be used again once it is gone.
    pub id: u32,
    /// The number of the mount it is in, or its own at the root of a tree.
    pub parent: u32,
    /// The device of files on it, first half.
    pub major: u32,
    /// The device of files on it, second half.
    pub minor: u32,
    /// The directory of the filesystem that is its root.
    pub root: PathBuf,
    /// Where it is, seen from the reader's root.
    pub mount_point: PathBuf,
    /// Options of the mount: `rw,noatime`.
    pub options: String,
    /// How mounts below it spread.
    pub propagation: Propagation,
    /// The type of the filesystem: `ext4`, `fuse.sshfs`.
    pub kind: String,
    /// What is mounted, in words of the filesystem's own.
    pub source: OsString,
    /// Options of the filesystem: `rw,errors=continue`.
    pub super_options: String,
}

/// How mounts below a mount spread to others (`mount_namespaces(7)`). Nothing set is private.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// The group of mounts it sends to and receives from.
    pub shared: Option<u32>,
    /// The group it only receives from.
    pub master: Option<u32>,
    /// The nearest group above that is visible here.
    pub propagate_from: Option<u32>,
    /// Whether it cannot be bind mounted.
    pub unbindable: bool,
}

/// All mounts, each before those mounted on it.
pub fn read() -> Result<Vec<Entry>> {
    parse(&fs::read(FILE)?)
}

/// The mounts at a path and below it. The path is absolute and free of symbolic links.
pub fn below(path: &Path) -> Result<Vec<Entry>> {
    let mut entries = read()?;
    entries.retain(|entry| entry.mount_point.starts_with(path));
    Ok(entries)
}

/// The mount that a path is on.
pub fn lookup(path: &Path) -> Result<Entry> {
    let nothing = || {
        Error::not_found(format!("failed to find the mount info for {:?}", path.to_string_lossy()))
    };
    let id =
        statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID).ok().and_then(|found| {
            let known = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
            known.then_some(found.stx_mnt_id as u32)
        });
    let mut entries = read()?;
    let at = match id {
        Some(id) => entries.iter().position(|entry| entry.id == id),
        None => holding(&entries, &fs::canonicalize(path)?),
    };
    at.map(|at| entries.swap_remove(at)).ok_or_else(nothing)
}

/// Whether something is mounted at exactly this path.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())
        .map_err(|error| crate::failure::failed("look at", path, error))?;
    if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    Ok(lookup(path)?.mount_point == fs::canonicalize(path)?)
}

/// The entry with the longest mount point above the path: of those, the one mounted last.
fn holding(entries: &[Entry], path: &Path) -> Option<usize> {
    let above =
        entries.iter().enumerate().filter(|(_, entry)| path.starts_with(&entry.mount_point));
    above.max_by_key(|(_, entry)| entry.mount_point.as_os_str().len()).map(|(at, _)| at)
}

/// Reads a whole file.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parse_line).collect()
}

/// Reads one line.
pub fn parse_line(line: &[u8]) -> Result<Entry> {
    entry(line).ok_or_else(|| {
        Error::invalid(format!("mountinfo line {:?}", String::from_utf8_lossy(line)))
    })
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let (id, parent) = (number(next()?)?, number(next()?)?);
    let (major, minor) = device(next()?)?;
    let (root, mount_point, options) = (next()?, next()?, next()?);
    let propagation = propagation(&mut next)?;
    Some(Entry {
        id,
        parent,
        major,
        minor,
        root: path(root),
        mount_point: path(mount_point),
        options: text(options),
        propagation,
        kind: text(next()?),
        source: OsString::from_vec(unescape(next()?).into_owned()),
        super_options: next().map(text).unwrap_or_default(),
    })
}

/// Reads the optional fields up to the dash that ends them. Unknown ones are to be ignored.
fn propagation<'a>(next: &mut impl FnMut() -> Option<&'a [u8]>) -> Option<Propagation> {
    let mut propagation = Propagation::default();
    loop {
        let field = next()?;
        let tag = field.split(|byte| *byte == b':').next()?;
        let group = field.get(tag.len() + 1..).and_then(number);
        match tag {
            b"-" => return Some(propagation),
            b"shared" => propagation.shared = group,
            b"master" => propagation.master = group,
            b"propagate_from" => propagation.propagate_from = group,
            b"unbindable" => propagation.unbindable = true,
            _ => {}
        }
    }
}

fn number<N: FromStr>(digits: &[u8]) -> Option<N> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

fn path(field: &[u8]) -> PathBuf {
    OsStr::from_bytes(&unescape(field)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `\ooo`: space, tab, newline, backslash and, in options, `#`.
fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return field.into();
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let octal = others.first_chunk().copied().and_then(octal).filter(|_| *first == b'\\');
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &others[3..] } else { others };
    }
    plain.into()
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let digits = std::str::from_utf8(&digits).ok()?;
    let valid = digits.bytes().all(|digit| digit.is_ascii_digit());
    valid.then(|| u8::from_str_radix(digits, 8).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_manual_is_read() {
        let line =
            b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let want = Entry {
            id: 36,
            parent: 35,
            major: 98,
            minor: 0,
            root: "/mnt1".into(),
            mount_point: "/mnt2".into(),
            options: "rw,noatime".into(),
            propagation: Propagation { master: Some(1), ..Propagation::default() },
            kind: "ext3".into(),
            source: "/dev/root".into(),
            super_options: "rw,errors=continue".into(),
        };
        assert_eq!(parse_line(line).unwrap(), want);
    }

    #[test]
    fn optional_fields_may_be_many_none_or_unknown() {
        let check = |fields: &str, want: Propagation| {
            let line = format!("1 1 0:1 / / rw{fields} - tmpfs tmpfs rw");
            assert_eq!(parse_line(line.as_bytes()).unwrap().propagation, want, "{line}");
        };
        let private = Propagation::default();
        check("", private);
        check(" new:7", private);
        check(" unbindable", Propagation { unbindable: true, ..private });
        let all =
            Propagation { shared: Some(2), master: Some(3), propagate_from: Some(4), ..private };
        check(" shared:2 master:3 propagate_from:4", all);
    }

    #[test]
    fn octal_escapes_are_undone_and_others_kept() {
        let line = br"1 1 0:1 / /a\040b\011c\134d\999e\ rw - tmpfs x\012y rw";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.mount_point, Path::new("/a b\tc\\d\\999e\\"));
        assert_eq!(entry.source, "x\ny");
    }

    #[test]
    fn a_source_may_be_empty_and_a_path_need_not_be_text() {
        let entry = parse_line(b"1 1 0:1 / /\xff rw - tmpfs  rw").unwrap();
        assert_eq!(entry.source, "");
        assert_eq!(entry.mount_point.as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn a_line_cut_short_is_invalid() {
        let line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root";
        parse_line(line).unwrap();
        for end in [0, 5, 10, 20, 40, 45] {
            parse_line(&line[..end]).unwrap_err();
        }
    }

    #[test]
    fn the_mount_above_a_path_is_the_last_of_the_longest() {
        let entry = |id, point: &str| Entry { id, mount_point: point.into(), ..Entry::default() };
        let entries = [entry(1, "/"), entry(2, "/a"), entry(3, "/a"), entry(4, "/ab")];
        let held_by = |path: &str| holding(&entries, Path::new(path)).map(|at| entries[at].id);
        assert_eq!(held_by("/a/b"), Some(3));
        assert_eq!(held_by("/abc"), Some(1));
    }

    #[test]
    fn our_own_mounts_can_be_read() {
        let root = lookup(Path::new("/")).unwrap();
        assert_eq!(root.mount_point, Path::new("/"));
        assert!(read().unwrap().contains(&root));
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/self")).unwrap());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            drop(parse(&bytes));
        }

        #[test]
        fn nearly_right_lines_do_not_panic(
            line in r"[0-9]{0,3} [0-9]{0,11} [0-9:]{0,4} [/a\\0-9]{0,8} [/\\0-9]{0,8} rw ([a-z:0-9]{0,8} ){0,3}-? ?[a-z ]{0,9}"
        ) {
            drop(parse_line(line.as_bytes()));
        }

        #[test]
        fn any_mount_point_survives_the_kernels_escaping(point in proptest::collection::vec(1_u8.., 0..40)) {
            let escaped: Vec<u8> = point.iter().flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                byte => vec![*byte],
            }).collect();
            let line = [b"1 1 0:1 / ", escaped.as_slice(), b" rw - tmpfs tmpfs rw"].concat();
            let entry = parse_line(&line).unwrap();
            prop_assert_eq!(entry.mount_point.as_os_str().as_bytes(), point.as_slice());
        }
    }
}
