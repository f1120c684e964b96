// SPDX-License-Identifier: Apache-2.0
//! Images in archives: written by one, read by another, bit for bit.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::process::run;
use e2e::{Context, Dialect, Image, Layer, Outcome, PATIENCE, Packed, World, ensure};
use e2e::{for_each_daemon, only_ours, parts};

use crate::store::{self, assert_empty};

for_each_daemon!(
    what_is_exported_is_imported_and_runs,
    an_archive_goes_through_pipes,
    an_archive_may_hold_several_images,
    what_skopeo_writes_is_imported,
    what_docker_would_save_is_imported,
    skopeo_reads_what_is_exported,
    umoci_reads_what_is_exported_and_adds_a_layer,
    a_layout_names_its_images_by_tags_and_digests,
    an_export_without_its_content_is_refused,
    an_import_of_what_is_no_archive_is_refused_and_leaves_nothing,
);

only_ours!(
    an_image_is_converted_and_runs,
    a_blob_is_edited_into_another,
    what_a_container_changed_becomes_an_image,
    references_to_layers_are_let_go,
    their_client_and_ours_export_the_same_bytes,
    an_import_by_ourselves_is_the_same,
    layers_go_once_they_are_unpacked,
    a_wrong_blob_is_refused_and_leaves_nothing,
);

const NAME: &str = "tools/three:1";

fn path(world: &World, name: &str) -> PathBuf {
    world.daemon.home().join(name)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn skopeo(words: &[&str]) -> Outcome<String> {
    let mut command = Command::new(parts::tool("skopeo")?);
    run(command.arg("--insecure-policy").args(words), PATIENCE)?.ok()
}

/// A shell command in which `$CTR` is the client.
fn shell(world: &World, script: &str) -> Outcome<String> {
    let ctr = world.ctr.command::<&str>([]);
    let mut words = vec![ctr.get_program().to_owned()];
    words.extend(ctr.get_args().map(std::ffi::OsStr::to_owned));
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", script]).env("CTR", words.join(" "));
    run(command.current_dir(world.daemon.home()), PATIENCE)?.ok()
}

/// Unpacks an exported layout, adds a layer to it, and packs it for import: all with umoci.
fn umoci_reads_what_is_exported_and_adds_a_layer(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, NAME)?;
    world.ctr.ok(["images", "export", "three.tar", &image])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)?;
    shell(world, "mkdir layout && tar -xf three.tar -C layout && echo added > added")?;
    let umoci = |words: &[&str]| {
        let mut command = Command::new(parts::tool("umoci")?);
        run(command.args(words).current_dir(world.daemon.home()), PATIENCE)?.ok()
    };
    umoci(&["unpack", "--image", "layout:1", "bundle"])?;
    let twin = fs_err::read_to_string(path(world, "bundle/rootfs/srv/twin"))?;
    ensure!(twin == "new\n", "umoci found {twin:?}");
    ensure!(!path(world, "bundle/rootfs/srv/removed").exists(), "a whiteout was not heeded");
    umoci(&["insert", "--image", "layout:1", "added", "/srv/added"])?;
    shell(world, "tar -cf more.tar -C layout .")?;
    world.ctr.ok(["images", "import", "more.tar"])?;
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/added"])?;
    ensure!(said == "added\n", "{image} said {said}");
    runs(world, &image)?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

fn runs(world: &World, image: &str) -> Outcome {
    let said = world.ctr.ok(["run", "--rm", image, &world.id("x"), "cat", "/srv/twin"])?;
    ensure!(said == "new\n", "{image} said {said}");
    Ok(())
}

fn what_is_exported_is_imported_and_runs(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.pull_packed(&packed, NAME)?;
    let mut before = store::blobs(world)?;
    before.sort();
    world.ctr.ok(["images", "export", "three.tar", &image])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)?;
    world.ctr.ok(["images", "import", "three.tar"])?;
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, [image.as_str()]);
    store::collect(world)?;
    let mut after = store::blobs(world)?;
    after.sort();
    assert_eq!(after, before);
    assert_eq!(store::snapshots(world)?.len(), 3);
    runs(world, &image)?;
    world.ctr.ok(["images", "import", "three.tar"])?;
    assert_eq!(store::snapshots(world)?.len(), 3);
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

fn an_archive_goes_through_pipes(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?.dialect(Dialect::Docker), NAME)?;
    let script = "$CTR images export - \"$IMAGE\" | gzip -1 > three.tgz";
    shell(world, &script.replace("$IMAGE", &image))?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    shell(world, "gunzip < three.tgz | $CTR images import --no-unpack -")?;
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, [image.as_str()]);
    assert_eq!(store::snapshots(world)?, Vec::<String>::new());
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

fn an_archive_may_hold_several_images(world: &mut World) -> Outcome {
    let three = world.pull(&Image::three_layers()?, NAME)?;
    let plain = world.busybox()?;
    let other = world.pull(&Image::busybox()?.with(Layer::text("srv/x", 5000, 9)), "tools/x:1")?;
    world.ctr.ok(["images", "export", "all.tar", &three, &plain, &other])?;
    for image in [&three, &plain, &other] {
        world.ctr.ok(["images", "rm", "--sync", image])?;
    }
    world.ctr.ok(["images", "import", "all.tar"])?;
    let mut images = world.ctr.lines(["images", "ls", "-q"])?;
    images.sort();
    let mut want = vec![three.clone(), plain, other];
    want.sort();
    assert_eq!(images, want);
    runs(world, &three)
}

/// An OCI layout on disk with the image in it, under `tag`.
fn layout(world: &World, packed: &Packed, tag: &str) -> Outcome<PathBuf> {
    let dir = path(world, "layout");
    packed.write_layout(&dir, tag)?;
    Ok(dir)
}

fn what_skopeo_writes_is_imported(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let dir = layout(world, &packed, "1")?;
    let archive = text(&path(world, "skopeo.tar"));
    let to = format!("oci-archive:{archive}:example.com/three:1");
    skopeo(&["copy", "-q", &format!("oci:{}:1", text(&dir)), &to])?;
    world.ctr.ok(["images", "import", &archive])?;
    let image = "example.com/three:1";
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, [image]);
    let table = world.ctr.ok(["images", "ls"])?;
    assert!(table.contains(&packed.root.digest), "{} in {table}", packed.root.digest);
    runs(world, image)
}

fn what_docker_would_save_is_imported(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let dir = layout(world, &packed, "1")?;
    let archive = text(&path(world, "docker.tar"));
    let to = format!("docker-archive:{archive}:three:1");
    skopeo(&["copy", "-q", &format!("oci:{}:1", text(&dir)), &to])?;
    world.ctr.ok(["images", "import", &archive])?;
    let image = "docker.io/library/three:1";
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, [image]);
    runs(world, image)?;
    world.ctr.ok(["images", "rm", "--sync", image])?;
    world.ctr.ok(["images", "import", "--compress-blobs", &archive])?;
    runs(world, image)?;
    world.ctr.ok(["images", "rm", "--sync", image])?;
    assert_empty(world)
}

fn skopeo_reads_what_is_exported(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.pull_packed(&packed, NAME)?;
    world.ctr.ok(["images", "export", "three.tar", &image])?;
    let archive = text(&path(world, "three.tar"));
    let digest =
        skopeo(&["inspect", "--format", "{{.Digest}}", &format!("oci-archive:{archive}")])?;
    assert_eq!(digest.trim(), packed.root.digest);
    let copy = text(&path(world, "copy"));
    skopeo(&["copy", "-q", &format!("oci-archive:{archive}"), &format!("oci:{copy}:1")])?;
    for blob in packed.blobs() {
        let name = blob.digest.trim_start_matches("sha256:");
        let same = fs_err::read(Path::new(&copy).join("blobs/sha256").join(name))? == blob.bytes;
        ensure!(same, "{} is not the same", blob.digest);
    }
    let tags = skopeo(&["list-tags", &format!("docker-archive:{archive}")])?;
    assert!(tags.contains(&image), "{image} in {tags}");
    Ok(())
}

fn a_layout_names_its_images_by_tags_and_digests(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    layout(world, &packed, "v7")?;
    shell(world, "tar -C layout -cf layout.tar .")?;
    let archive = text(&path(world, "layout.tar"));
    let words = ["images", "import", "--base-name", "example.com/app", "--digests"];
    world.ctr.ok(words.into_iter().chain(["--index-name", "example.com/all:1", &archive]))?;
    let mut names = world.ctr.lines(["images", "ls", "-q"])?;
    names.sort();
    let by_digest = format!("example.com/app@{}", packed.root.digest);
    assert_eq!(names, ["example.com/all:1", "example.com/app:v7", &by_digest]);
    for name in &names {
        world.ctr.ok(["images", "rm", "--sync", name])?;
    }
    assert_empty(world)?;
    world.ctr.ok(["images", "import", &archive])?;
    let names = world.ctr.lines(["images", "ls", "-q"])?;
    let [name] = &names[..] else { return Err(e2e::Failure::new(format!("{names:?}"))) };
    ensure!(name.starts_with("import-20") && name.ends_with(":v7"), "{name}");
    Ok(())
}

fn an_export_without_its_content_is_refused(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.pull_packed(&packed, NAME)?;
    world.ctr.refused(["images", "export", "x.tar", "example.com/none:1"], &["not found"])?;
    world.ctr.ok(["content", "rm", &packed.layers[1].digest])?;
    let layer = packed.layers[1].digest.as_str();
    world.ctr.refused(["images", "export", "x.tar", &image], &[layer, "not found"])
}

fn an_import_of_what_is_no_archive_is_refused_and_leaves_nothing(world: &mut World) -> Outcome {
    shell(world, "echo x > x; tar -cf none.tar x; mkdir l; cd l")?;
    fs_err::write(path(world, "l/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    shell(world, "tar -C l -cf half.tar .")?;
    world.ctr.refused(["images", "import", "none.tar"], &["unrecognized image format"])?;
    world.ctr.refused(["images", "import", "half.tar"], &["missing index.json"])?;
    assert_empty(world)
}

fn their_client_and_ours_export_the_same_bytes(world: &mut World) -> Outcome {
    let other = if e2e::host() == "arm64" { "amd64" } else { "arm64" };
    let other = Image::busybox()?.with(Layer::text("srv/foreign", 5000, 9)).architecture(other);
    let (index, _) = Packed::index(&[other, Image::three_layers()?])?;
    let reference = world.registry()?.push(&index, "tools/index:1")?;
    world.ctr.ok(["images", "pull", "--plain-http", "--all-platforms", &reference])?;
    let three = world.pull(&Image::three_layers()?, NAME)?;
    let both = [&reference, &three];
    for flags in [&[][..], &["--all-platforms"], &["--skip-manifest-json"]] {
        // Theirs of 1.6 heeds the last flag for indexes only.
        let images = if flags == ["--skip-manifest-json"] { &[&reference][..] } else { &both };
        for image in images {
            let export = |output| [&["images", "export"], flags, &[output, image]].concat();
            world.ctr.ok(export("ours.tar"))?;
            let mut theirs = Command::new(parts::tool("ctr")?);
            theirs.args(export("theirs.tar")).envs(world.ctr.environment());
            run(theirs.current_dir(world.daemon.home()), PATIENCE)?.ok()?;
            // Containerd 1.6 does not say in the index which repositories have an image, nor of what
            // type it is; 2.x does.
            let script = "for it in ours theirs; do rm -rf $it; mkdir $it; tar -C $it -xf $it.tar; \
                          tar -tvf $it.tar | grep -v index.json > $it.list; \
                          sed -E 's/\"containerd.io.distribution.source[^\"]*\":\"[^\"]*\",?//; \
                          s/^.\"schemaVersion\":2,(\"mediaType\":\"[^\"]*\",)?//' $it/index.json \
                          > $it.index; rm $it/index.json; done; cmp ours.list theirs.list; \
                          diff ours.index theirs.index >&2; diff -r ours theirs";
            shell(world, script)?;
        }
    }
    Ok(())
}

fn an_import_by_ourselves_is_the_same(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, NAME)?;
    world.ctr.ok(["images", "export", "--local", "local.tar", &image])?;
    world.ctr.ok(["images", "export", "daemon.tar", &image])?;
    let [local, daemon] = ["local.tar", "daemon.tar"].map(|name| fs_err::read(path(world, name)));
    ensure!(local? == daemon?, "archives differ");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let said = world.ctr.ok(["images", "import", "--local", "local.tar"])?;
    assert!(said.contains(&format!("imported {image}")), "{said}");
    runs(world, &image)
}

fn layers_go_once_they_are_unpacked(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.pull_packed(&packed, NAME)?;
    world.ctr.ok(["images", "export", "three.tar", &image])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    world.ctr.ok(["images", "import", "--discard-unpacked-layers", "three.tar"])?;
    store::collect(world)?;
    let blobs = store::blobs(world)?;
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    runs(world, &image)
}

fn a_wrong_blob_is_refused_and_leaves_nothing(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let dir = layout(world, &packed, "1")?;
    let layer = packed.layers.first().context("a layer")?.digest.trim_start_matches("sha256:");
    let blob = dir.join("blobs/sha256").join(layer);
    let mut bytes = fs_err::read(&blob)?;
    bytes[100] ^= 1;
    fs_err::write(&blob, bytes)?;
    shell(world, "tar -C layout -cf layout.tar .")?;
    let words = ["images", "import", "--base-name", "example.com/app", "layout.tar"];
    world.ctr.refused(words, &[layer, "unexpected commit digest"])?;
    assert_empty(world)
}

fn an_image_is_converted_and_runs(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?.dialect(Dialect::Docker), NAME)?;
    let other = "example.com/oci:zstd";
    world.ctr.ok(["images", "convert", "--oci", "--zstd", &image, other])?;
    let said = world.ctr.ok(["images", "inspect", other])?;
    assert!(said.matches("tar+zstd").count() == 3 && !said.contains("vnd.docker"), "{said}");
    let checked = world.ctr.lines(["images", "check", &format!("name=={other}")])?;
    assert!(checked.last().is_some_and(|line| line.ends_with("true")), "{checked:?}");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    runs(world, other)?;
    assert_eq!(store::blobs(world)?.len(), 5);
    // Theirs makes the same of it, byte for byte.
    let mut theirs = Command::new(parts::tool("ctr")?);
    theirs.args(["images", "convert", "--uncompress", other, "example.com/theirs:1"]);
    let theirs = run(theirs.envs(world.ctr.environment()), PATIENCE)?.ok()?;
    let ours = world.ctr.ok(["images", "convert", "--uncompress", other, "example.com/ours:1"])?;
    assert_eq!(ours, theirs);
    Ok(())
}

fn a_blob_is_edited_into_another(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    world.pull_packed(&packed, NAME)?;
    let old = &packed.config.digest;
    let words = ["content", "edit", "--validate", "json", "--editor"];
    let edit = |editor| words.into_iter().chain([editor, old.as_str()]);
    let new = world.ctr.ok(edit("sed -i s/linux/plan9/"))?;
    assert!(world.ctr.ok(["content", "get", new.trim()])?.contains("plan9"));
    assert!(!world.ctr.ok(["content", "get", old])?.contains("plan9"));
    world.ctr.refused(edit("sed -i s/{//"), &["not JSON"])?;
    world.ctr.refused(edit("false"), &["nothing was stored"])
}

fn references_to_layers_are_let_go(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, NAME)?;
    let said = world.ctr.lines(["content", "prune", "references", "--dry"])?;
    assert_eq!((said.len(), store::blobs(world)?.len()), (3, 5));
    world.ctr.ok(["content", "prune", "references"])?;
    assert_eq!(store::blobs(world)?.len(), 2);
    runs(world, &image)
}

fn what_a_container_changed_becomes_an_image(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("maker");
    world.ctr.ok(["run", &image, &id, "sh", "-c", "echo made > /made; rm /bin/yes"])?;
    let package = |name| {
        let words = ["images", "package", "--source-date-epoch", "1000000", "--cmd", "cat"];
        world.ctr.ok(words.into_iter().chain(["--cmd", "/made", "--container", &id, name]))
    };
    let made = "example.com/made:1";
    assert_eq!(package(made)?, package("example.com/again:1")?);
    world.ctr.remove(&id)?;
    assert_eq!(world.ctr.ok(["run", "--rm", made, &world.id("x")])?, "made\n");
    let said = world.ctr.ok(["run", "--rm", made, &world.id("y"), "ls", "/bin"])?;
    ensure!(!said.lines().any(|line| line == "yes"), "what was removed is there: {said}");
    for name in [&image, made, "example.com/again:1"] {
        world.ctr.ok(["images", "rm", "--sync", name])?;
    }
    assert_empty(world)
}
