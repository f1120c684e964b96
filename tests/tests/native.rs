// SPDX-License-Identifier: Apache-2.0
//! Images whose layers are filesystems already: made, carried about, and run.
use std::os::unix::fs::FileExt;

use e2e::{Image, Outcome, World, host, only_ours};

use crate::store::blobs;

only_ours!(
    an_image_of_native_layers_is_made_and_travels,
    of_both_kinds_each_takes_what_suits_it,
    layers_of_a_cache_are_neither_fetched_nor_unpacked,
);

const EROFS: [&str; 2] = ["--snapshotter", "erofs"];

/// Whether native layers can be made and mounted here.
fn can() -> Outcome<bool> {
    let known = fs_err::read_to_string("/proc/filesystems")?.contains("\terofs\n");
    let can = known && e2e::parts::tool("mkfs.erofs").is_ok();
    if !can {
        println!("skipped: no erofs in this kernel, or no mkfs.erofs");
    }
    Ok(can)
}

/// How many blobs of the store are erofs images.
fn native_blobs(world: &World) -> Outcome<usize> {
    let folder = world.daemon.home().join("root/io.containerd.content.v1.content/blobs/sha256");
    let mut count = 0;
    for digest in blobs(world)? {
        let blob = fs_err::File::open(folder.join(digest.trim_start_matches("sha256:")))?;
        let mut magic = [0; 4];
        let is_image = blob.file().read_exact_at(&mut magic, 1024).is_ok();
        count += usize::from(is_image && magic == [0xe2, 0xe1, 0xf5, 0xe0]);
    }
    Ok(count)
}

fn runs(world: &World, flags: &[&str], image: &str) -> Outcome {
    let id = world.id("x");
    let command = [image, &id, "cat", "/srv/twin"];
    let said = world.ctr.ok([&["run", "--rm"], flags, &command].concat())?;
    assert_eq!(said, "new\n");
    Ok(())
}

fn an_image_of_native_layers_is_made_and_travels(world: &mut World) -> Outcome {
    if !can()? {
        return Ok(());
    }
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    let host = world.registry()?.host();
    let (raw, packed) = (format!("{host}/tools/native:1"), format!("{host}/tools/native:zstd"));
    let made = world.ctr.ok(["images", "convert", "--erofs", "raw", &image, &raw])?;
    let again = world.ctr.ok(["images", "convert", "--erofs", "raw", &image, &raw])?;
    assert_eq!(made, again, "the same image becomes the same image");
    assert_eq!(native_blobs(world)?, 3);
    let words = ["images", "convert", "--erofs", "zstd", "--erofs-compressors", "lz4hc"];
    world.ctr.ok([&words[..], &[&image, &packed]].concat())?;
    assert_eq!(native_blobs(world)?, 3, "packed, they are not seen as such");
    for name in [&raw, &packed] {
        runs(world, &EROFS, name)?;
        let said = world.ctr.ok(["images", "inspect", name])?;
        assert_eq!(said.matches("application/vnd.erofs.layer.v1").count(), 3, "{said}");
        world.ctr.refused(["run", "--rm", name, &world.id("y"), "true"], &["erofs"])?;
    }
    world.ctr.ok(["images", "export", "native.tar", &raw])?;
    for name in [&raw, &packed] {
        world.ctr.ok(["images", "push", "--plain-http", name])?;
    }
    world.ctr.ok(["images", "rm", "--sync", &image, &raw, &packed])?;
    assert_eq!(blobs(world)?, Vec::<String>::new());
    world.ctr.ok([&["images", "import"], &EROFS[..], &["native.tar"]].concat())?;
    runs(world, &EROFS, &raw)?;
    world.ctr.ok(["images", "rm", "--sync", &raw])?;
    for name in [&raw, &packed] {
        world.ctr.ok([&["images", "pull", "--plain-http"], &EROFS[..], &[name]].concat())?;
        runs(world, &EROFS, name)?;
    }
    world.ctr.ok(["store", "check"]).map(drop)
}

fn of_both_kinds_each_takes_what_suits_it(world: &mut World) -> Outcome {
    if !can()? {
        return Ok(());
    }
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    let both = format!("{}/tools/both:1", world.registry()?.host());
    let words = ["images", "convert", "--erofs", "raw", "--append-to-index", &image, &both];
    world.ctr.ok(words)?;
    let listed = world.ctr.lines(["images", "ls", &format!("name=={both}")])?;
    let platform = format!("linux(+erofs)/{}", host());
    assert!(listed.last().is_some_and(|line| line.contains(&platform)), "{listed:?}");
    // Added once more, it is there already.
    world.ctr.ok(["images", "convert", "--erofs", "raw", "--append-to-index", &both, &both])?;
    world.ctr.ok(["images", "push", "--plain-http", &both])?;
    world.ctr.ok(["images", "rm", "--sync", &image, &both])?;
    // Index, two manifests with their configs, and the layers of one.
    for (flags, native) in [(&[][..], 0), (&EROFS[..], 3)] {
        world.ctr.ok([&["images", "pull", "--plain-http"], flags, &[&both]].concat())?;
        assert_eq!((blobs(world)?.len(), native_blobs(world)?), (8, native));
        runs(world, flags, &both)?;
        if flags.is_empty() {
            // What is here is for any host, and can be had by that snapshotter, too.
            runs(world, &EROFS, &both)?;
        }
        world.ctr.ok(["images", "rm", "--sync", &both])?;
    }
    Ok(())
}

fn layers_of_a_cache_are_neither_fetched_nor_unpacked(world: &mut World) -> Outcome {
    if !can()? {
        return Ok(());
    }
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    let cache = world.daemon.home().join("cache").display().to_string();
    world.ctr.ok(["images", "build-erofs-cache", &image, &cache])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    world.daemon.terminate()?;
    let path = world.daemon.home().join("config.toml");
    let section = "[plugins.\"io.containerd.snapshotter.v1.erofs\"]\nlayer_content_cache";
    let config = format!("{}\n{section} = {cache:?}\n", fs_err::read_to_string(&path)?);
    fs_err::write(&path, config)?;
    world.daemon.restart()?;
    let pull = [&["images", "pull", "--plain-http"], &EROFS[..], &[&image]].concat();
    // A manifest and a config; and with a layer that is not cached, that one.
    for blobs_here in [2, 3] {
        world.ctr.ok(&pull)?;
        assert_eq!(blobs(world)?.len(), blobs_here);
        runs(world, &EROFS, &image)?;
        world.ctr.ok(["images", "rm", "--sync", &image])?;
        let top = &Image::three_layers()?.pack()?;
        let config: serde_json::Value = serde_json::from_slice(&top.config.bytes)?;
        let diff_id = config["rootfs"]["diff_ids"][2].as_str().unwrap_or_default();
        let hex = diff_id.trim_start_matches("sha256:");
        let cached = format!("{cache}/sha256/{}/{hex}.erofs", &hex[..2]);
        if blobs_here == 2 {
            fs_err::remove_file(cached)?;
        }
    }
    Ok(())
}
