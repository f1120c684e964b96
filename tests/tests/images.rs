// SPDX-License-Identifier: Apache-2.0
//! Images: from a real registry into the store, onto a directory, and out again.

use e2e::{
    Compression, Context, Dialect, Image, Layer, Outcome, Packed, World, ensure, for_each_daemon,
};

use crate::store::{self, assert_empty};

for_each_daemon!(
    a_pull_makes_an_image_its_content_and_its_snapshots,
    a_pull_shows_its_progress,
    a_pull_again_changes_nothing,
    a_removed_image_leaves_an_empty_store,
    removing_one_of_two_images_keeps_what_they_share,
    a_check_says_that_an_image_is_complete_and_unpacked,
    an_image_is_mounted_read_only_and_read,
    an_image_mounted_for_writing_is_written_and_given_back,
    a_tag_is_a_second_name,
    an_image_is_labelled,
    of_an_index_the_machines_own_image_is_taken,
    dockers_media_types_are_understood,
    layers_may_be_zstd_or_plain,
    a_push_arrives_byte_for_byte,
    an_image_is_pulled_by_digest,
);

const THREE: &str = "tools/three:1";

fn pull_three(world: &World) -> Outcome<String> {
    world.pull(&Image::three_layers()?, THREE)
}

fn a_pull_makes_an_image_its_content_and_its_snapshots(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.pull_packed(&packed, THREE)?;
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, [image.as_str()]);
    let table = world.ctr.ok(["images", "ls"])?;
    for word in [&packed.root.digest, &packed.root.media_type, &format!("linux/{}", e2e::host())] {
        assert!(table.contains(word.as_str()), "{word} in {table}");
    }
    let mut wanted: Vec<String> = packed.blobs().map(|blob| blob.digest.clone()).collect();
    wanted.push(packed.root.digest.clone());
    wanted.sort();
    let mut blobs = store::blobs(world)?;
    blobs.sort();
    assert_eq!(blobs, wanted);
    assert_eq!(store::snapshots(world)?.len(), 3);
    Ok(())
}

fn a_pull_shows_its_progress(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, THREE)?;
    let said = world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    assert!(said.contains(&image), "the reference in {said}");
    for layer in &packed.layers {
        let hex = layer.digest.trim_start_matches("sha256:");
        assert!(said.contains(&hex[..12]), "layer {hex} in {said}");
    }
    Ok(())
}

fn a_pull_again_changes_nothing(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    let before = (store::blobs(world)?, store::snapshots(world)?);
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    assert_eq!((store::blobs(world)?, store::snapshots(world)?), before);
    Ok(())
}

fn a_removed_image_leaves_an_empty_store(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_eq!(store::blobs(world)?, Vec::<String>::new());
    assert_empty(world)
}

fn removing_one_of_two_images_keeps_what_they_share(world: &mut World) -> Outcome {
    let base = world.busybox()?;
    let image = pull_three(world)?;
    assert_eq!(store::snapshots(world)?.len(), 3);
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_eq!(store::snapshots(world)?.len(), 1);
    assert_eq!(world.ctr.ok(["run", "--rm", &base, &world.id("x"), "echo", "works"])?, "works\n");
    Ok(())
}

fn a_check_says_that_an_image_is_complete_and_unpacked(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    let lines = world.ctr.lines(["images", "check"])?;
    let line = lines.iter().find(|line| line.starts_with(&image)).context("the image's line")?;
    assert!(line.contains("complete (4/4)") && line.ends_with("true"), "{line}");
    Ok(())
}

fn an_image_is_mounted_read_only_and_read(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    let target = world.daemon.home().join("mnt");
    fs_err::create_dir(&target)?;
    let place = target.display().to_string();
    world.ctr.ok(["images", "mount", &image, &place])?;
    assert_eq!(fs_err::read_to_string(target.join("srv/kept"))?, "from the second layer\n");
    assert_eq!(fs_err::read_to_string(target.join("srv/twin"))?, "new\n");
    assert!(!target.join("srv/removed").exists() && !target.join("srv/hidden/old").exists());
    assert!(target.join("srv/hidden/new").exists());
    assert!(fs_err::write(target.join("srv/more"), "x").is_err(), "a view was written to");
    world.ctr.ok(["images", "unmount", "--rm", &place])?;
    assert!(!target.join("srv").exists());
    assert_eq!(store::snapshots(world)?.len(), 3);
    Ok(())
}

fn an_image_mounted_for_writing_is_written_and_given_back(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    let target = world.daemon.home().join("mnt");
    fs_err::create_dir(&target)?;
    let place = target.display().to_string();
    world.ctr.ok(["images", "mount", "--rw", &image, &place])?;
    fs_err::write(target.join("srv/more"), "written\n")?;
    assert_eq!(store::snapshots(world)?.len(), 4);
    world.ctr.ok(["images", "unmount", "--rm", &place])?;
    assert_eq!(store::snapshots(world)?.len(), 3);
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "ls", "/srv"])?;
    assert!(!said.contains("more"), "the image was changed: {said}");
    Ok(())
}

fn a_tag_is_a_second_name(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    world.ctr.ok(["images", "tag", &image, "example.com/copy:1"])?;
    world.ctr.refused(
        ["images", "tag", &image, "example.com/copy:1"],
        &["example.com/copy:1", "already exists"],
    )?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let said =
        world.ctr.ok(["run", "--rm", "example.com/copy:1", &world.id("x"), "echo", "same"])?;
    assert_eq!(said, "same\n");
    world.ctr.ok(["images", "rm", "--sync", "example.com/copy:1"])?;
    assert_empty(world)
}

fn an_image_is_labelled(world: &mut World) -> Outcome {
    let image = pull_three(world)?;
    world.ctr.ok(["images", "label", &image, "stage=test", "owner=me"])?;
    let chosen = world.ctr.lines(["images", "ls", "-q", "labels.stage==test"])?;
    assert_eq!(chosen, [image.as_str()]);
    let none = world.ctr.lines(["images", "ls", "-q", "labels.stage==live"])?;
    assert_eq!(none, Vec::<String>::new());
    world.ctr.ok(["images", "label", &image, "stage="])?;
    let table = world.ctr.ok(["images", "ls"])?;
    assert!(table.contains("owner=me") && !table.contains("stage"), "{table}");
    Ok(())
}

fn of_an_index_the_machines_own_image_is_taken(world: &mut World) -> Outcome {
    let foreign = if e2e::host() == "arm64" { "amd64" } else { "arm64" };
    let other = Image::busybox()?.with(Layer::text("srv/foreign", 5000, 9)).architecture(foreign);
    let images = [other, Image::three_layers()?];
    let (index, packed) = Packed::index(&images)?;
    let image = world.pull_packed(&index, THREE)?;
    assert_eq!(store::snapshots(world)?.len(), 3);
    let blobs = store::blobs(world)?;
    assert!(blobs.contains(&packed[1].config.digest), "{blobs:?}");
    // What the other image is made of may be known (ctr 2.x fetches its metadata), but its layers
    // are not fetched.
    assert!(!blobs.contains(&packed[0].layers[1].digest), "{blobs:?}");
    assert_eq!(world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?, "new\n");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

fn dockers_media_types_are_understood(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?.dialect(Dialect::Docker), THREE)?;
    assert_eq!(world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?, "new\n");
    Ok(())
}

fn layers_may_be_zstd_or_plain(world: &mut World) -> Outcome {
    for (compression, name) in
        [(Compression::Zstd, "tools/zstd:1"), (Compression::None, "tools/plain:1")]
    {
        let image = world.pull(&Image::three_layers()?.compressed(compression), name)?;
        let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?;
        ensure!(said == "new\n", "{name} said {said}");
    }
    Ok(())
}

fn a_push_arrives_byte_for_byte(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.pull_packed(&packed, THREE)?;
    let copy = format!("{}/copies/three:2", world.registry()?.host());
    world.ctr.ok(["images", "push", "--plain-http", &copy, &image])?;
    assert_eq!(world.registry()?.manifest("copies/three", "2")?, packed.root.bytes);
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    world.ctr.ok(["images", "pull", "--plain-http", &copy])?;
    assert_eq!(world.ctr.ok(["run", "--rm", &copy, &world.id("x"), "cat", "/srv/twin"])?, "new\n");
    Ok(())
}

fn an_image_is_pulled_by_digest(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, THREE)?;
    let exact = format!("{}@{}", image.trim_end_matches(":1"), packed.root.digest);
    world.ctr.ok(["images", "pull", "--plain-http", &exact])?;
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, [exact.as_str()]);
    assert_eq!(world.ctr.ok(["run", "--rm", &exact, &world.id("x"), "cat", "/srv/twin"])?, "new\n");
    Ok(())
}
