// SPDX-License-Identifier: Apache-2.0
//! Where programs are.

use std::env;
use std::path::{Path, PathBuf};

/// The file that `name` is, in the first of `before` and then of the directories on the PATH that has
/// it. A name with a slash is found nowhere: it is a path already.
pub fn find(name: &str, before: Option<&Path>) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let directories = before.map(Path::to_owned).into_iter().chain(env::split_paths(&on_path));
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_where_it_is_looked_for_first() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("sh");
        let elsewhere = find("sh", Some(directory.path())).unwrap();
        assert!(elsewhere.ends_with("sh") && elsewhere != own, "{elsewhere:?}");
        fs_err::write(&own, "").unwrap();
        assert_eq!(find("sh", Some(directory.path())), Some(own));
    }

    #[test]
    fn a_path_and_what_is_nowhere_are_not_found() {
        assert_eq!(find("/bin/sh", None), None);
        assert_eq!(find("no-such-program", None), None);
    }
}
