// SPDX-License-Identifier: Apache-2.0
//! Paths by pattern: `/dev/disk/by-id/*SSD*`, as Go's `filepath.Glob` finds them.
use std::path::{Path, PathBuf};

/// The paths that match, by name. Where nothing can be read there is nothing.
pub(crate) fn find(pattern: &str) -> Vec<PathBuf> {
    let root = if pattern.starts_with('/') { "/" } else { "" };
    let mut found = vec![PathBuf::from(root)];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found.into_iter().flat_map(|dir| below(&dir, part)).collect();
    }
    found
}

fn below(dir: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains(['*', '?', '[', '\\']) {
        let path = dir.join(part);
        return Vec::from_iter(path.symlink_metadata().is_ok().then_some(path));
    }
    let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let names = fs_err::read_dir(here).into_iter().flatten().flatten();
    let mut names: Vec<_> = names.filter_map(|it| it.file_name().into_string().ok()).collect();
    names.retain(|name| matches(part, name));
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Whether a name is of a pattern: `*` any letters, `?` one, `[a-z]` one of these, `[^a-z]` none of
/// them, `\` before a letter that is only itself. A pattern that does not end matches nothing.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Where the last star was, and how far what follows it has been tried.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, read));
            at += 1;
        } else if let Some(length) = one(&pattern[at..], name[read]) {
            (at, read) = (at + length, read + 1);
        } else if let Some((after, tried)) = star {
            star = Some((after, tried + 1));
            (at, read) = (after, tried + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&letter| letter == '*')
}

/// How much of the pattern stands for this letter, if its beginning does.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => set(rest, letter).map(|length| length + 1),
        ['\\', own, ..] => (*own == letter).then_some(2),
        ['\\'] | [] => None,
        [own, ..] => (*own == letter).then_some(1),
    }
}

/// The same for what follows `[`, up to the bracket that closes it.
fn set(pattern: &[char], letter: char) -> Option<usize> {
    let is_negated = pattern.first() == Some(&'^');
    let (mut at, mut is_in) = (usize::from(is_negated), false);
    let start = at;
    loop {
        match pattern.get(at)? {
            ']' if at > start => return (is_in != is_negated).then_some(at + 1),
            _ => {
                let (low, length) = member(&pattern[at..])?;
                at += length;
                let mut high = low;
                if pattern.get(at) == Some(&'-') {
                    let (end, length) = member(&pattern[at + 1..])?;
                    high = end;
                    at += 1 + length;
                }
                is_in |= (low..=high).contains(&letter);
            }
        }
    }
}

fn member(pattern: &[char]) -> Option<(char, usize)> {
    match pattern {
        ['\\', own, ..] => Some((*own, 2)),
        ['\\' | '-' | ']', ..] | [] => None,
        [own, ..] => Some((*own, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_go() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("sd[a-z]", "sdb", true),
            ("sd[a-z]", "sdB", false),
            ("sd[^a-c]", "sdd", true),
            ("*SSD*", "ata-SSD-1", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("a?c", "abc", true),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("[", "[", false),
            ("[a", "a", false),
            ("[]a]", "]", false),
            ("a**", "a", true),
            ("é?", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn paths_are_found_part_by_part() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for path in ["a1/x", "a2/x", "b1/x"] {
            fs_err::create_dir_all(dir.join(path)).unwrap();
        }
        let found = |pattern: &str| {
            let found = find(&format!("{}/{pattern}", dir.display()));
            let names = found.iter().map(|path| path.strip_prefix(dir).unwrap().to_owned());
            names.map(|name| name.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("a*/x"), ["a1/x", "a2/x"]);
        assert_eq!(found("[ab]1"), ["a1", "b1"]);
        assert_eq!(found("c*/x"), Vec::<String>::new());
        assert_eq!(found("a1"), ["a1"]);
    }
}
