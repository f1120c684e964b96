// SPDX-License-Identifier: Apache-2.0
//! Real mounts. Needs root.
//!
//! Each test mounts in a namespace of its own, which ends with its thread: whatever happens, nothing
//! stays mounted.

use std::{
    os::unix::fs::{MetadataExt, chown, symlink},
    path::{Path, PathBuf},
};

use fs_err as fs;
use mount::{Mount, Temporary, UnmountFlags, all, mountinfo, one, unmount, unmount_all};
use sys::thread::{Own, with};
use tempfile::TempDir;

/// Runs a test with mounts of its own. Its directory is a filesystem of its own too, so that
/// overlays find one that they can be laid on.
fn in_private(test: impl FnOnce(&Path) + Send) {
    let dir = TempDir::new().expect("a directory for the test");
    with(Own::Mounts, || {
        one(&tmpfs(&[]), dir.path()).expect("a filesystem for the test");
        test(dir.path());
    })
    .expect("mounts of its own");
}

fn tmpfs(options: &[&str]) -> Mount {
    Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

fn make_dirs<const N: usize>(root: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let dir = root.join(name);
        fs::create_dir_all(&dir).expect("a new directory");
        dir
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn overlay_of(root: &Path, options: &[&str]) -> Mount {
    let [lower, upper, work] = make_dirs(root, ["lower", "upper", "work"]);
    fs::write(lower.join("below"), "below").expect("a file in the lower layer");
    let options = options.iter().map(|&option| option.to_owned());
    Mount::overlay(&[text(&lower)], Some((text(&upper), text(&work))), options)
}

#[test]
fn a_bind_mount_shows_the_source() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source", "target"]);
        all(&[Mount::bind(text(&source), ["rbind", "rw"])], &target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        assert!(source.join("file").exists());
    });
}

#[test]
fn a_read_only_bind_mount_refuses_writes_and_its_source_does_not() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source", "target"]);
        all(&[Mount::bind(text(&source), ["rbind", "ro"])], &target).unwrap();
        fs::write(target.join("file"), "x").unwrap_err();
        fs::write(source.join("file"), "x").unwrap();
    });
}

#[test]
fn an_overlay_writes_to_its_upper_directory() {
    in_private(|root| {
        let mount = overlay_of(root, &["index=off"]);
        let [target] = make_dirs(root, ["target"]);
        one(&mount, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("below")).unwrap(), "below");
        fs::write(target.join("above"), "above").unwrap();
        assert!(root.join("upper/above").exists());
        assert_eq!(mountinfo::lookup(&target).unwrap().kind, "overlay");
    });
}

/// Lays `count` directories over each other, each with a file of its own and one they all have.
fn many_layers(root: &Path, count: usize, name: &str) -> Vec<String> {
    let mut lower = Vec::new();
    for layer in 0..count {
        let [dir] = make_dirs(root, [format!("snapshots/{layer}/{name}").as_str()]);
        fs::write(dir.join(format!("of-{layer}")), "").expect("a file of the layer");
        fs::write(dir.join("top"), layer.to_string()).expect("a file of all layers");
        lower.push(text(&dir).to_owned());
    }
    lower.reverse();
    lower
}

fn check_many_layers(count: usize, name: &str, options: &[&str]) {
    in_private(|root| {
        let lower = many_layers(root, count, name);
        let [upper, work, target] = make_dirs(root, ["upper", "work", "target"]);
        let options = options.iter().map(|&option| option.to_owned());
        let mount = Mount::overlay(&lower, Some((text(&upper), text(&work))), options);
        assert!(mount.options.iter().map(String::len).sum::<usize>() > 4096);
        one(&mount, &target).expect("many layers are mounted");
        assert_eq!(fs::read_to_string(target.join("top")).expect("top"), (count - 1).to_string());
        assert!((0..count).all(|layer| target.join(format!("of-{layer}")).exists()));
        fs::write(target.join("new"), "").expect("the overlay is writable");
        assert!(upper.join("new").exists());
    });
}

#[test]
fn more_than_a_hundred_layers_are_mounted() {
    check_many_layers(128, "fs", &["index=off", "userxattr"]);
}

#[test]
fn layers_with_very_long_names_are_mounted() {
    let name = ["long"; 120].join("/");
    check_many_layers(101, &name, &["volatile"]);
}

#[test]
fn flags_of_an_overlay_with_many_layers_are_kept() {
    in_private(|root| {
        let lower = many_layers(root, 128, "fs");
        let [target] = make_dirs(root, ["target"]);
        let options = ["ro", "nodev", "noatime", "rslave"].map(str::to_owned);
        one(&Mount::overlay(&lower, None, options), &target).unwrap();
        let entry = mountinfo::lookup(&target).unwrap();
        assert_eq!(entry.options, "ro,nodev,noatime");
        assert!(entry.super_options.starts_with("ro"), "{}", entry.super_options);
    });
}

#[test]
fn a_layer_that_is_missing_among_many_is_an_error_that_names_the_call() {
    in_private(|root| {
        let mut lower = many_layers(root, 128, "fs");
        lower.push("/no/such/layer".to_owned());
        let [target] = make_dirs(root, ["target"]);
        let error = one(&Mount::overlay(&lower, None, []), &target).unwrap_err().to_string();
        assert!(error.starts_with(r#"mount source: "overlay", target: "#), "{error}");
        assert!(error.ends_with("err: no such file or directory"), "{error}");
        assert!(!mountinfo::is_mount_point(&target).unwrap());
    });
}

#[test]
fn a_failed_mount_reads_as_containerd_has_it() {
    in_private(|root| {
        let [target] = make_dirs(root, ["target"]);
        let error = one(&Mount::overlay(&["/no/such"], None, []), &target).unwrap_err();
        let want = format!(
            r#"mount source: "overlay", target: "{}", fstype: overlay, flags: 0, data: "lowerdir=/no/such", err: no such file or directory"#,
            target.display(),
        );
        assert_eq!(error.to_string(), want);
    });
}

#[test]
fn a_later_mount_goes_below_an_earlier_one() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source/inner", "target"]);
        let mounts = [
            Mount::bind(text(source.parent().unwrap()), ["rbind"]),
            Mount { target: "inner".into(), ..tmpfs(&["size=1m"]) },
        ];
        all(&mounts, &target).unwrap();
        assert!(mountinfo::is_mount_point(&target.join("inner")).unwrap());
        mount::unmount_mounts(&mounts, &target, UnmountFlags::empty()).unwrap();
        assert!(!mountinfo::is_mount_point(&target).unwrap());
    });
}

#[test]
fn a_symbolic_link_does_not_lead_out_of_the_target() {
    in_private(|root| {
        let [target, _] = make_dirs(root, ["target", "target/etc"]);
        symlink("/etc", target.join("link")).unwrap();
        one(&Mount { target: "link".into(), ..tmpfs(&[]) }, &target).unwrap();
        assert!(mountinfo::is_mount_point(&target.join("etc")).unwrap());
        assert!(!mountinfo::is_mount_point(Path::new("/etc")).unwrap());
    });
}

#[test]
fn a_target_that_does_not_exist_below_the_root_is_an_error() {
    in_private(|root| {
        let mount = Mount { target: "missing".into(), ..tmpfs(&[]) };
        let error = one(&mount, root).unwrap_err().to_string();
        let want = format!(
            r#"failed to join path "missing" with root "{}": no such file or directory"#,
            root.display()
        );
        assert_eq!(error, want);
    });
}

#[test]
fn propagation_is_set_after_the_mount() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source", "target"]);
        one(&Mount::bind(text(&source), ["rbind", "rshared"]), &target).unwrap();
        assert!(mountinfo::lookup(&target).unwrap().propagation.shared.is_some());
    });
}

#[test]
fn a_remount_changes_what_is_there() {
    in_private(|root| {
        let [target] = make_dirs(root, ["target"]);
        one(&tmpfs(&["size=1m"]), &target).unwrap();
        one(&tmpfs(&["remount", "size=2m"]), &target).unwrap();
        assert!(mountinfo::lookup(&target).unwrap().super_options.contains("size=2048k"));
    });
}

/// An ext4 image, or nothing and a loud notice where there is no mkfs.
fn image(root: &Path) -> Option<PathBuf> {
    let file = root.join("image");
    fs::File::create(&file).and_then(|file| file.set_len(16 << 20)).expect("an empty image");
    let mkfs = sys::Command::new("mkfs.ext4").args(["-q", text(&file)]).output();
    if mkfs.is_err() {
        eprintln!("NOT TESTED: loop devices need mkfs.ext4, which this machine lacks");
        return None;
    }
    Some(file)
}

fn loop_mount(file: &Path, options: &[&str]) -> Mount {
    let options = options.iter().map(|&option| option.into()).collect();
    Mount { kind: "ext4".into(), source: text(file).into(), target: String::new(), options }
}

#[test]
fn a_file_is_mounted_through_a_loop_device_that_goes_with_the_mount() {
    in_private(|root| {
        let Some(file) = image(root) else { return };
        let [target] = make_dirs(root, ["target"]);
        one(&loop_mount(&file, &["loop"]), &target).unwrap();
        fs::write(target.join("file"), "kept").unwrap();
        let device = PathBuf::from(mountinfo::lookup(&target).unwrap().source);
        assert_eq!(sys::loop_device::backing(&device).unwrap().file_name(), file.file_name());

        unmount(&target, UnmountFlags::empty()).unwrap();
        one(&loop_mount(&file, &["loop", "ro"]), &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
        fs::write(target.join("file"), "").unwrap_err();
        let device = PathBuf::from(mountinfo::lookup(&target).unwrap().source);
        unmount(&target, UnmountFlags::empty()).unwrap();
        let backing = sys::loop_device::backing(&device).ok();
        assert_ne!(backing.as_deref(), Some(file.as_path()), "the device is free");
    });
}

/// Since Linux 6.12; before, there is a loop device, and all else is the same.
#[test]
fn an_erofs_image_is_mounted_without_a_device() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source", "target"]);
        fs::write(source.join("file"), "kept").unwrap();
        let file = root.join("image");
        let mkfs = sys::Command::new("mkfs.erofs").args(["--quiet", text(&file), text(&source)]);
        if mkfs.output().is_err() {
            println!("skipped: there is no mkfs.erofs");
            return;
        }
        one(&Mount { kind: "erofs".into(), ..loop_mount(&file, &["ro", "loop"]) }, &target)
            .unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "kept");
        let entry = mountinfo::lookup(&target).unwrap();
        assert_eq!(entry.kind, "erofs");
        let source = PathBuf::from(entry.source);
        if sys::loop_device::backing(&source).is_ok() {
            println!("skipped: this kernel mounts erofs from devices only");
        } else {
            assert_eq!(source, file);
        }
    });
}

#[test]
fn an_id_mapped_bind_mount_shifts_owners_even_when_read_only() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source", "target"]);
        let file = source.join("file");
        fs::write(&file, "").unwrap();
        chown(&file, Some(5), Some(6)).unwrap();
        for access in ["rw", "ro"] {
            let maps = ["uidmap=0:1000:100", "gidmap=0:2000:100"];
            one(&Mount::bind(text(&source), ["rbind", access, maps[0], maps[1]]), &target).unwrap();
            let seen = fs::metadata(target.join("file")).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (1005, 2006));
            assert!(mountinfo::lookup(&target).unwrap().options.starts_with(access));
            unmount(&target, UnmountFlags::empty()).unwrap();
            assert!(!mountinfo::is_mount_point(&target).unwrap(), "it was one mount");
        }
        let kept = fs::metadata(&file).unwrap();
        assert_eq!((kept.uid(), kept.gid()), (5, 6));
    });
}

fn check_shifted_overlay(layers: usize) {
    in_private(|root| {
        let lower = many_layers(root, layers, "fs");
        for (dir, layer) in lower.iter().zip((0..layers).rev()) {
            let file = Path::new(dir).join(format!("of-{layer}"));
            chown(file, Some(7), Some(7)).expect("files of the layer have another owner");
        }
        let [upper, work, target] = make_dirs(root, ["upper", "work", "target"]);
        let maps = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"].map(str::to_owned);
        let mount = Mount::overlay(&lower, Some((text(&upper), text(&work))), maps);
        one(&mount, &target).expect("it is mounted");
        for layer in 0..layers {
            let seen =
                fs::metadata(target.join(format!("of-{layer}"))).expect("a file of the layer");
            assert_eq!((seen.uid(), seen.gid()), (100_007, 100_007), "layer {layer}");
        }
        let entries = mountinfo::read().expect("what is mounted");
        let place = |entry: &&mountinfo::Entry| text(&entry.mount_point).contains("ovl-idmapped");
        assert_eq!(entries.iter().find(place), None, "the shifted layers are out of sight");
    });
}

#[test]
fn an_id_mapped_overlay_shifts_the_owners_of_its_layers() {
    check_shifted_overlay(2);
}

/// Layers of erofs are mounts below the directory that they are all in: a copy of that directory has
/// nothing where they are.
#[test]
fn an_id_mapped_overlay_shifts_layers_that_are_filesystems_of_their_own() {
    in_private(|root| {
        let [one_layer, other, upper, work, target] =
            make_dirs(root, ["1", "2", "upper", "work", "target"]);
        let kind = || "tmpfs".to_owned();
        let source = kind();
        let own = Mount { kind: kind(), source, target: String::new(), options: Vec::new() };
        one(&own, &one_layer).unwrap();
        for (layer, name) in [(&one_layer, "a"), (&other, "b")] {
            fs::write(layer.join(name), "").unwrap();
            chown(layer.join(name), Some(7), Some(7)).unwrap();
        }
        let lower = [&one_layer, &other].map(|dir| text(dir).to_owned());
        let maps = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"].map(str::to_owned);
        let mount = Mount::overlay(&lower, Some((text(&upper), text(&work))), maps);
        one(&mount, &target).unwrap();
        for name in ["a", "b"] {
            assert_eq!(fs::metadata(target.join(name)).unwrap().uid(), 100_007, "{name}");
        }
        unmount(&target, UnmountFlags::empty()).unwrap();
        unmount(&one_layer, UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn an_id_mapped_overlay_may_have_many_layers() {
    check_shifted_overlay(110);
}

#[test]
fn ids_that_overlap_are_an_error_and_nothing_is_mounted() {
    in_private(|root| {
        let [source, target] = make_dirs(root, ["source", "target"]);
        let options = ["rbind", "uidmap=0:0:9,5:0:9", "gidmap=0:0:9"];
        one(&Mount::bind(text(&source), options), &target).unwrap_err();
        assert!(!mountinfo::is_mount_point(&target).unwrap());
    });
}

#[test]
fn stacked_mounts_are_all_taken_away() {
    in_private(|root| {
        let [target] = make_dirs(root, ["target"]);
        all(&[tmpfs(&[]), tmpfs(&[]), tmpfs(&[])], &target).unwrap();
        unmount(&target, UnmountFlags::empty()).unwrap();
        assert!(mountinfo::is_mount_point(&target).unwrap());
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        assert!(!mountinfo::is_mount_point(&target).unwrap());
    });
}

#[test]
fn what_is_not_mounted_needs_no_unmounting() {
    in_private(|root| {
        unmount(&root.join(""), UnmountFlags::DETACH).unwrap();
        let [target] = make_dirs(Path::new("/tmp"), ["containerd-mount-test-not-mounted"]);
        unmount(&target, UnmountFlags::empty()).unwrap();
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        unmount_all(&target.join("missing"), UnmountFlags::empty()).unwrap();
        unmount_all(Path::new(""), UnmountFlags::empty()).unwrap();
        mount::unmount_recursive(&target.join("missing"), UnmountFlags::empty()).unwrap();
        fs::remove_dir(target).unwrap();
    });
}

#[test]
fn a_busy_mount_can_be_detached() {
    in_private(|root| {
        let [target] = make_dirs(root, ["target"]);
        one(&tmpfs(&[]), &target).unwrap();
        let user = fs::File::create(target.join("file")).unwrap();
        let error = unmount(&target, UnmountFlags::empty()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("failed to unmount target {}: device or resource busy", target.display())
        );
        unmount(&target, UnmountFlags::DETACH).unwrap();
        assert!(!mountinfo::is_mount_point(&target).unwrap());
        drop(user);
    });
}

#[test]
fn a_mount_that_is_busy_for_a_moment_is_waited_for() {
    in_private(|root| {
        let [target] = make_dirs(root, ["target"]);
        one(&tmpfs(&[]), &target).unwrap();
        let user = fs::File::create(target.join("file")).unwrap();
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(user);
        });
        unmount(&target, UnmountFlags::empty()).unwrap();
        leaving.join().unwrap();
    });
}

#[test]
fn a_whole_tree_of_mounts_is_taken_away() {
    in_private(|root| {
        let [target] = make_dirs(root, ["target"]);
        one(&tmpfs(&[]), &target).unwrap();
        let [inner] = make_dirs(&target, ["inner"]);
        all(&[tmpfs(&[]), tmpfs(&[])], &inner).unwrap();
        let [innermost] = make_dirs(&inner, ["most"]);
        one(&tmpfs(&[]), &innermost).unwrap();
        mount::unmount_recursive(&target, UnmountFlags::empty()).unwrap();
        assert!(mountinfo::below(&target).unwrap().is_empty());
    });
}

#[test]
fn a_temporary_mount_leaves_nothing_behind() {
    in_private(|root| {
        let mount = overlay_of(root, &["volatile"]);
        let [base] = make_dirs(root, ["base"]);
        for _ in 0..2 {
            let temporary = Temporary::mount(std::slice::from_ref(&mount), &base).unwrap();
            fs::write(temporary.path().join("above"), "").unwrap();
            temporary.close().unwrap();
        }
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        assert!(root.join("upper/above").exists());
    });
}

#[test]
fn a_temporary_mount_for_looking_only_stands_beside_one_in_use() {
    in_private(|root| {
        let mounts = [overlay_of(root, &[])];
        let [base, target] = make_dirs(root, ["base", "target"]);
        all(&mounts, &target).unwrap();
        fs::write(target.join("above"), "").unwrap();
        let temporary = Temporary::read_only(&mounts, &base).unwrap();
        assert!(temporary.path().join("above").exists());
        assert!(temporary.path().join("below").exists());
        fs::write(temporary.path().join("new"), "").unwrap_err();
    });
}

#[test]
fn a_temporary_mount_that_is_busy_is_told_on_close_and_goes_all_the_same() {
    in_private(|root| {
        let [base] = make_dirs(root, ["base"]);
        let temporary = Temporary::mount(&[tmpfs(&[])], &base).unwrap();
        let user = fs::File::create(temporary.path().join("file")).unwrap();
        let error = temporary.close().unwrap_err().to_string();
        assert!(error.starts_with("failed to unmount /"), "{error}");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        drop(user);
    });
}

#[test]
fn a_temporary_mount_that_fails_half_way_leaves_nothing_behind() {
    in_private(|root| {
        let [base] = make_dirs(root, ["base"]);
        let broken = Mount { target: "missing".into(), ..tmpfs(&[]) };
        let error = Temporary::mount(&[tmpfs(&[]), broken], &base).unwrap_err().to_string();
        assert!(error.starts_with("failed to mount /"), "{error}");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    });
}

#[test]
fn a_type_that_is_left_to_a_helper_says_so_when_it_fails() {
    in_private(|root| {
        let mount = Mount { kind: "fuse3.no-such-filesystem".into(), ..tmpfs(&["ro"]) };
        let error = one(&mount, root).unwrap_err().to_string();
        let call = format!(
            "mount helper [mount.fuse3 [tmpfs {} -o ro -t no-such-filesystem]] failed",
            root.display()
        );
        assert!(error.starts_with(&call), "{error}");
    });
}
