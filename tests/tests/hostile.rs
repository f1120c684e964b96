// SPDX-License-Identifier: Apache-2.0
//! Images made to do harm: whatever becomes of them, nothing outside of their snapshot is touched.

use std::path::PathBuf;

use e2e::{Image, Layer, Outcome, Tar, World, for_each_daemon};

use crate::store::{assert_empty, snapshots};

for_each_daemon!(
    a_path_with_dots_stays_inside,
    an_absolute_path_stays_inside,
    a_symlinked_parent_is_not_followed_outside,
    a_symlinked_parent_with_dots_is_not_followed_outside,
    a_hard_link_does_not_reach_outside,
    a_whiteout_does_not_remove_outside,
    a_truncated_layer_is_refused,
);

const UP: &str = "../../../../../../../../../..";

/// A file outside of everything, which a hostile layer is after.
fn victim(world: &World) -> Outcome<PathBuf> {
    let dir = world.daemon.home().join("v");
    fs_err::create_dir(&dir)?;
    fs_err::write(dir.join("file"), "untouched\n")?;
    Ok(dir)
}

/// Pulls an image with this layer, whether it succeeds or not, runs it if it did, and checks that
/// the victim is as it was and that nothing is left once the image is removed.
fn assert_harmless(world: &World, tar: Tar) -> Outcome {
    let dir = world.daemon.home().join("v");
    let image = Image::busybox()?.with(Layer::new(tar)).pack()?;
    let image = world.registry()?.push(&image, "evil/image:1")?;
    let pulled = world.ctr.run(["images", "pull", "--plain-http", &image])?;
    if pulled.status.success() {
        let write = "echo bad > /link/file; echo bad > /hard; echo bad > /link/made; true";
        world.ctr.run(["run", "--rm", &image, &world.id("x"), "sh", "-c", write])?;
    }
    assert_eq!(fs_err::read_to_string(dir.join("file"))?, "untouched\n");
    let names =
        fs_err::read_dir(&dir)?.map(|entry| Ok(entry?.file_name())).collect::<Outcome<Vec<_>>>()?;
    assert_eq!(names, ["file"], "{}", pulled.told());
    world.ctr.run(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

fn a_path_with_dots_stays_inside(world: &mut World) -> Outcome {
    let dir = victim(world)?;
    let tar = Tar::new().file(&format!("{UP}{}/made", dir.display()), 0o644, b"bad\n").file(
        &format!("etc/{UP}{}/file", dir.display()),
        0o644,
        b"bad\n",
    );
    assert_harmless(world, tar)
}

fn an_absolute_path_stays_inside(world: &mut World) -> Outcome {
    let dir = victim(world)?;
    let tar = Tar::new().file(&format!("{}/made", dir.display()), 0o644, b"bad\n").file(
        &format!("{}/file", dir.display()),
        0o644,
        b"bad\n",
    );
    assert_harmless(world, tar)
}

fn a_symlinked_parent_is_not_followed_outside(world: &mut World) -> Outcome {
    let dir = victim(world)?;
    let tar = Tar::new()
        .symlink("link", &dir.display().to_string())
        .file("link/made", 0o644, b"bad\n")
        .file("link/file", 0o644, b"bad\n");
    assert_harmless(world, tar)
}

fn a_symlinked_parent_with_dots_is_not_followed_outside(world: &mut World) -> Outcome {
    let dir = victim(world)?;
    let tar = Tar::new()
        .symlink("link", &format!("{UP}{}", dir.display()))
        .file("link/made", 0o644, b"bad\n")
        .dir("link/dir", 0o755);
    assert_harmless(world, tar)
}

fn a_hard_link_does_not_reach_outside(world: &mut World) -> Outcome {
    let dir = victim(world)?;
    for target in [format!("{}/file", dir.display()), format!("{UP}{}/file", dir.display())] {
        let tar = Tar::new().hardlink("hard", &target, 0o644).file("hard", 0o644, b"bad\n");
        assert_harmless(world, tar)?;
    }
    let tar =
        Tar::new().symlink("link", &dir.display().to_string()).hardlink("hard", "link/file", 0o644);
    assert_harmless(world, tar)
}

fn a_whiteout_does_not_remove_outside(world: &mut World) -> Outcome {
    let dir = victim(world)?;
    let tar = Tar::new()
        .symlink("link", &dir.display().to_string())
        .whiteout("link/file")
        .whiteout(&format!("{UP}{}/file", dir.display()))
        .opaque("link");
    assert_harmless(world, tar)
}

fn a_truncated_layer_is_refused(world: &mut World) -> Outcome {
    let layer = Layer::text("srv/text", 200_000, 3).truncated();
    let image = world.registry()?.push(&Image::busybox()?.with(layer).pack()?, "evil/cut:1")?;
    world.ctr.refused(["images", "pull", "--plain-http", &image], &["unexpected EOF"])?;
    let left = snapshots(world)?;
    assert!(left.iter().all(|key| !key.starts_with("extract-")), "{left:?}");
    world.ctr.run(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}
