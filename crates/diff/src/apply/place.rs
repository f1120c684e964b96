// SPDX-License-Identifier: Apache-2.0
//! Where a layer is unpacked, given the mounts of a snapshot.
use mount::Mount;

/// Where a layer is unpacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// Straight into an overlay's upper directory; the layers beneath it, topmost first.
    Upper { directory: &'a str, parents: Vec<String>, userxattr: bool },
    /// Straight into a directory that is only bound elsewhere.
    Bound(&'a str),
    /// Into the mounts, once they are mounted somewhere.
    Mounted,
}

/// Plans where to unpack. Whenever one directory holds all that a layer brings, nothing is mounted:
/// writing to it directly saves the overlay's copying up and its own bookkeeping
/// (containerd `core/diff/apply/apply_linux.go`).
///
/// With `overlay_bind`, a bound directory is one that will be a layer of an overlay later on.
pub(super) fn plan(mounts: &[Mount], overlay_bind: bool, in_user_namespace: bool) -> Place<'_> {
    let [mount] = mounts else { return Place::Mounted };
    let is_plain = mount.target.is_empty() && !mount.is_read_only();
    let is_mapped = mount.option("uidmap").or(mount.option("gidmap")).is_some();
    match mount.kind.as_str() {
        // Compat: an overlay in a user namespace is left to the kernel (containerd issue 3762).
        "overlay" if is_plain && !in_user_namespace => match mount.option("upperdir") {
            Some(directory) if !directory.is_empty() => {
                let userxattr = mount.options.iter().any(|option| option == "userxattr");
                Place::Upper { directory, parents: mount.lower_dirs(), userxattr }
            }
            _ => Place::Mounted,
        },
        "bind" if is_plain && !is_mapped && !mount.source.is_empty() => {
            let directory = mount.source.as_str();
            if overlay_bind {
                Place::Upper { directory, parents: vec![], userxattr: false }
            } else {
                Place::Bound(directory)
            }
        }
        _ => Place::Mounted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &str) -> Mount {
        Mount {
            kind: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.split(',').map(String::from).collect(),
        }
    }

    fn check(mounts: &[Mount], want: &Place<'_>) {
        assert_eq!(&plan(mounts, false, false), want, "{mounts:?}");
    }

    #[test]
    fn one_overlay_is_unpacked_into_its_upper_directory() {
        let overlay =
            mount("overlay", "overlay", "index=off,workdir=/w,upperdir=/u,lowerdir=/b:/a");
        let parents = vec!["/b".into(), "/a".into()];
        let want = Place::Upper { directory: "/u", parents, userxattr: false };
        check(std::slice::from_ref(&overlay), &want);
        assert_eq!(plan(&[overlay], false, true), Place::Mounted);
        check(&[mount("overlay", "overlay", "lowerdir=/b:/a")], &Place::Mounted);
    }

    #[test]
    fn one_bound_directory_is_unpacked_into_itself() {
        let bind = mount("bind", "/s/fs", "rw,rbind");
        check(std::slice::from_ref(&bind), &Place::Bound("/s/fs"));
        let want = Place::Upper { directory: "/s/fs", parents: vec![], userxattr: false };
        assert_eq!(plan(&[bind], true, false), want);
    }

    #[test]
    fn anything_else_is_mounted() {
        check(&[], &Place::Mounted);
        check(&[mount("bind", "/s/fs", "ro,rbind")], &Place::Mounted);
        check(&[mount("bind", "/s/fs", "rw,uidmap=0:1000:1")], &Place::Mounted);
        check(&[mount("ext4", "/dev/loop0", "rw")], &Place::Mounted);
        check(&[mount("bind", "/a", "rw"), mount("bind", "/b", "rw")], &Place::Mounted);
    }
}
