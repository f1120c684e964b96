// SPDX-License-Identifier: Apache-2.0
//! Snapshots, as a client sees them.

use e2e::{Image, Outcome, World, ensure, for_each_daemon, only_ours};

use crate::store::{collect, first_word, snapshots};

for_each_daemon!(
    the_difference_of_a_snapshot_is_an_archive,
    two_snapshots_are_compared,
    what_was_only_fetched_is_unpacked,
    a_list_names_kinds_and_parents,
    a_tree_shows_who_stands_on_whom,
    usage_counts_bytes_and_inodes,
    a_snapshot_is_prepared_committed_and_stood_upon,
    a_parent_is_not_removed,
    the_native_snapshotter_works_too,
);

only_ours!(erofs_carries_an_image_from_the_pull_to_the_container,);

fn pull_three(world: &World) -> Outcome<String> {
    world.pull(&Image::three_layers()?, "tools/three:1")
}

/// The snapshot that has all three layers.
fn top(world: &World) -> Outcome<String> {
    let lines = world.ctr.lines(["snapshots", "ls"])?;
    let parents: Vec<&str> =
        lines.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let keys = lines.iter().skip(1).map(|line| first_word(line));
    let mut tops = keys.filter(|key| !parents.contains(&key.as_str()));
    tops.next().ok_or_else(|| e2e::Failure::new(format!("no top in {lines:?}")))
}

fn a_list_names_kinds_and_parents(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    let id = world.id("web");
    world.ctr.ok(["containers", "create", &image, &id, "true"])?;
    let lines = world.ctr.lines(["snapshots", "ls"])?;
    let kind = |wanted: &str| lines.iter().filter(|line| line.ends_with(wanted)).count();
    assert_eq!((kind("Committed"), kind("Active")), (3, 1), "{lines:#?}");
    world.ctr.ok(["containers", "rm", &id])?;
    assert_eq!(snapshots(world)?.len(), 3);
    Ok(())
}

fn a_tree_shows_who_stands_on_whom(world: &mut World) -> Outcome {
    pull_three(world)?;
    let tree = world.ctr.ok(["snapshots", "tree"])?;
    let depths: Vec<usize> = tree.lines().filter_map(|line| line.find("sha256:")).collect();
    assert!(depths.len() == 3 && depths.is_sorted_by(|a, b| a < b), "{tree}");
    Ok(())
}

fn usage_counts_bytes_and_inodes(world: &mut World) -> Outcome {
    pull_three(world)?;
    let key = top(world)?;
    let lines = world.ctr.lines(["snapshots", "usage", &key])?;
    let line = lines.last().map(String::as_str).unwrap_or_default();
    let inodes = line.split_whitespace().last().and_then(|word| word.parse::<u64>().ok());
    // Of the third layer: its root, srv, the whiteout, one file with two names, a link, hidden and
    // the one in it.
    assert_eq!(inodes, Some(7), "{lines:?}");
    let whole = world.ctr.lines(["snapshots", "usage"])?;
    assert_eq!(whole.len(), 4, "{whole:?}");
    Ok(())
}

fn a_snapshot_is_prepared_committed_and_stood_upon(world: &mut World) -> Outcome {
    pull_three(world)?;
    let parent = top(world)?;
    world.ctr.ok(["snapshots", "prepare", "work", &parent])?;
    world.ctr.refused(["snapshots", "prepare", "work", &parent], &["work", "already exists"])?;
    let mounts = world.ctr.ok(["snapshots", "mounts", "/target", "work"])?;
    for word in ["overlay", "upperdir=", "lowerdir=", "/target"] {
        assert!(mounts.contains(word), "{word} in {mounts}");
    }
    world.ctr.ok(["snapshots", "commit", "done", "work"])?;
    world.ctr.ok(["snapshots", "label", "done", "containerd.io/gc.root=yes"])?;
    world.ctr.ok(["snapshots", "view", "look", "done"])?;
    world.ctr.ok(["snapshots", "rm", "look"])?;
    let info = world.ctr.ok(["snapshots", "info", "done"])?;
    assert!(info.contains("Committed") && info.contains(&parent), "{info}");
    collect(world)?;
    let kept = snapshots(world)?;
    ensure!(kept.contains(&"done".to_owned()), "a root was collected: {kept:?}");
    world.ctr.ok(["snapshots", "label", "done", "containerd.io/gc.root="])?;
    collect(world)?;
    let left = snapshots(world)?;
    ensure!(left.len() == 3, "what nobody holds was kept: {left:?}");
    Ok(())
}

fn a_parent_is_not_removed(world: &mut World) -> Outcome {
    pull_three(world)?;
    let lines = world.ctr.lines(["snapshots", "ls"])?;
    let bottom = lines
        .iter()
        .find(|line| line.split_whitespace().count() == 2 && line.ends_with("Committed"));
    let bottom = first_word(bottom.map(String::as_str).unwrap_or_default());
    world.ctr.refused(["snapshots", "rm", &bottom], &["cannot remove snapshot with child"])?;
    assert_eq!(snapshots(world)?.len(), 3);
    Ok(())
}

fn the_difference_of_a_snapshot_is_an_archive(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    let id = world.id("web");
    let script = "echo new > /srv/made; rm /srv/kept";
    world.ctr.ok(["run", &image, &id, "sh", "-c", script])?;
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let archive = world.ctr.ok(["snapshots", "diff", "--media-type", plain, &id])?;
    assert!(archive.contains("srv/made") && archive.contains("srv/.wh.kept"), "{archive:?}");
    assert!(!archive.contains("srv/replaced"), "unchanged files are in it: {archive:?}");
    world.ctr.remove(&id)
}

fn two_snapshots_are_compared(world: &mut World) -> Outcome {
    pull_three(world)?;
    let top = top(world)?;
    let info: serde_json::Value =
        serde_json::from_str(&world.ctr.ok(["snapshots", "info", &top])?)?;
    let parent = info["Parent"].as_str().unwrap_or_default();
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let archive = world.ctr.ok(["snapshots", "diff", "--media-type", plain, parent, &top])?;
    ensure!(archive.contains("srv/twin"), "what the third layer brings is not in it");
    ensure!(!archive.contains("bin/busybox"), "unchanged files are in it");
    assert_eq!(snapshots(world)?.len(), 3, "views are left");
    Ok(())
}

fn what_was_only_fetched_is_unpacked(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, "tools/three:1")?;
    world.ctr.ok(["content", "fetch", "--plain-http", &image])?;
    assert_eq!(snapshots(world)?.len(), 0);
    let said = world.ctr.ok(["snapshots", "unpack", &packed.root.digest])?;
    ensure!(said.contains(&packed.root.digest) && said.contains("done"), "{said}");
    assert_eq!(snapshots(world)?.len(), 3);
    world.ctr.refused(["snapshots", "unpack", &packed.config.digest], &["manifest not found"])?;
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?;
    assert_eq!(said, "new\n");
    Ok(())
}

fn the_native_snapshotter_works_too(world: &mut World) -> Outcome {
    let image = world.registry()?.push(&Image::three_layers()?.pack()?, "tools/three:1")?;
    let native = ["--snapshotter", "native"];
    world.ctr.ok([&["images", "pull", "--plain-http"], &native[..], &[&image]].concat())?;
    assert_eq!(snapshots(world)?, Vec::<String>::new());
    let lines = world.ctr.lines(["snapshots", "--snapshotter", "native", "ls"])?;
    assert_eq!(lines.len(), 4, "{lines:?}");
    let id = world.id("x");
    let said = world
        .ctr
        .ok([&["run", "--rm"], &native[..], &[&image, &id, "cat", "/srv/twin"]].concat())?;
    assert_eq!(said, "new\n");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let lines = world.ctr.lines(["snapshots", "--snapshotter", "native", "ls"])?;
    assert_eq!(lines.len(), 1, "{lines:?}");
    Ok(())
}

/// Each layer becomes one file that is mounted as it is.
fn erofs_carries_an_image_from_the_pull_to_the_container(world: &mut World) -> Outcome {
    let known = fs_err::read_to_string("/proc/filesystems")?.contains("\terofs\n");
    let can = known && e2e::parts::tool("mkfs.erofs").is_ok();
    if !can {
        println!("skipped: no erofs in this kernel, or no mkfs.erofs");
        return Ok(());
    }
    let image = world.registry()?.push(&Image::three_layers()?.pack()?, "tools/three:1")?;
    let erofs = ["--snapshotter", "erofs"];
    world.ctr.ok([&["images", "pull", "--plain-http"], &erofs[..], &[&image]].concat())?;
    let root = world.daemon.home().join("root/io.containerd.snapshotter.v1.erofs/snapshots");
    let layers = fs_err::read_dir(&root)?.flatten();
    let layers = layers.filter(|entry| entry.path().join("layer.erofs").exists());
    assert_eq!(layers.count(), 3, "one file for each layer");
    let id = world.id("x");
    let shell = "cat /srv/twin; echo mine > /srv/mine; cat /srv/mine";
    let words = [&["run", "--rm"], &erofs[..], &[&image, &id, "sh", "-c", shell]].concat();
    assert_eq!(world.ctr.ok(words)?, "new\nmine\n");
    world.ctr.ok(["store", "check"])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let left = fs_err::read_dir(root)?.count();
    ensure!(left == 0, "{left} directories are left");
    Ok(())
}
