// SPDX-License-Identifier: Apache-2.0
//! Paths as archives write them: bytes, relative to some root, in need of cleaning.

/// The shortest equal path, by text alone: no empty parts, no `.`, no `..`, no slash at either end.
/// A `..` that would leave the root stays there. The root itself is empty.
///
/// Compat: Go cleans names before it looks at any file (`pkg/archive/tar.go`), so `a/../b` is `b` even
/// where `a` is a symbolic link.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut cleaned = Vec::with_capacity(path.len());
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => cleaned.truncate(split(&cleaned).0.len()),
            part => join_to(&mut cleaned, part),
        }
    }
    cleaned
}

/// A clean path's parent, empty for the root, and its last part.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The path of `name` in `directory`.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    join_to(&mut path, name);
    path
}

fn join_to(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// A path for people to read.
pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_stays_beneath_its_root() {
        let cases = [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("a/b", "a/b"),
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/b/..", "a"),
            ("..", ""),
        ];
        for (path, want) in cases {
            assert_eq!(show(&clean(path.as_bytes())), want, "{path}");
        }
    }

    #[test]
    fn a_path_splits_at_its_last_slash() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"a", b"b"), b"a/b");
    }
}
