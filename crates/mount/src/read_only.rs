// SPDX-License-Identifier: Apache-2.0
//! The same filesystem for somebody who only looks (containerd `core/mount/mount.go`,
//! `readonlyMounts`, and `temp.go`, `RemoveVolatileOption`).
use crate::Mount;

/// The mounts such that nothing can be changed through them.
///
/// An overlay loses its upper directory, which becomes the topmost lower one: so it can be mounted
/// beside one that is in use. Its shifted owners are left out, as they cost a mount.
pub fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    let read_only = |mount: &Mount| {
        let options = match mount.kind.as_str() {
            "overlay" => read_only_overlay(mount),
            _ => read_only_options(&mount.options),
        };
        Mount { options, ..mount.clone() }
    };
    mounts.iter().map(read_only).collect()
}

/// The mounts without `volatile`: an overlay that was mounted with it refuses to be mounted again.
pub fn without_volatile(mounts: &[Mount]) -> Vec<Mount> {
    let mut mounts = mounts.to_vec();
    for mount in mounts.iter_mut().filter(|mount| mount.kind == "overlay") {
        mount.options.retain(|option| option != "volatile");
    }
    mounts
}

fn read_only_options(options: &[String]) -> Vec<String> {
    let others = options.iter().filter(|option| *option != "rw" && *option != "ro").cloned();
    others.chain(["ro".to_owned()]).collect()
}

fn read_only_overlay(mount: &Mount) -> Vec<String> {
    let dropped = ["upperdir=", "workdir=", "uidmap=", "gidmap="];
    let kept = mount
        .options
        .iter()
        .filter(|option| !dropped.into_iter().any(|prefix| option.starts_with(prefix)));
    let lower = |option: &String| match (option.strip_prefix("lowerdir="), mount.option("upperdir"))
    {
        (Some(lower), Some(upper)) => format!("lowerdir={upper}:{lower}"),
        _ => option.clone(),
    };
    kept.map(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mount: Mount, want: &str) {
        assert_eq!(read_only(&[mount])[0].to_string(), want);
    }

    #[test]
    fn a_bind_mount_says_ro_once() {
        check(Mount::bind("/a", ["rbind", "rw"]), "bind /a rbind,ro");
        check(Mount::bind("/a", ["ro", "rbind"]), "bind /a rbind,ro");
    }

    #[test]
    fn an_overlay_turns_its_upper_directory_into_a_lower_one() {
        let options =
            ["index=off".to_owned(), "uidmap=0:1:2".to_owned(), "gidmap=0:1:2".to_owned()];
        let mount = Mount::overlay(&["/2", "/1"], Some(("/u", "/w")), options);
        check(mount, "overlay overlay index=off,lowerdir=/u:/2:/1");
    }

    #[test]
    fn an_overlay_that_was_read_only_stays_as_it_is() {
        check(Mount::overlay(&["/2", "/1"], None, []), "overlay overlay lowerdir=/2:/1");
    }

    #[test]
    fn volatile_is_forgotten_on_overlays_only() {
        let overlay = Mount::overlay(&["/1"], Some(("/u", "/w")), ["volatile".to_owned()]);
        let other = Mount { options: vec!["volatile".to_owned()], ..Mount::default() };
        let mounts = without_volatile(&[overlay, other.clone()]);
        assert_eq!(mounts[0].to_string(), "overlay overlay workdir=/w,upperdir=/u,lowerdir=/1");
        assert_eq!(mounts[1], other);
    }
}
