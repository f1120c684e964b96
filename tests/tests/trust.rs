// SPDX-License-Identifier: Apache-2.0
//! A policy on images, and the ways around it.
//!
//! In all of these, images below `signed/` need a signature by one key, and images below `banned/`
//! are refused.

use std::path::PathBuf;

use e2e::process::run;
use e2e::{Image, Layer, Outcome, PATIENCE, Packed, World, ensure, only_ours};

use crate::store;

only_ours!(
    a_signed_image_is_taken_and_keeps_its_signatures,
    an_unsigned_image_is_refused_whoever_pulls_it,
    another_name_is_no_way_around,
    an_archive_is_no_way_around,
    a_signature_in_the_archive_vouches_for_its_image,
    the_content_of_another_namespace_brings_no_signature,
    a_manifest_is_not_signed_by_the_signature_of_its_index,
    a_part_that_is_missing_vouches_for_nothing,
    a_container_of_an_image_from_before_is_refused,
    a_name_that_was_moved_is_judged_by_what_it_is_now,
    a_broken_policy_refuses_until_it_is_mended,
    what_is_sent_to_the_registry_is_found_there,
    a_verifier_program_may_refuse_a_pull,
);

/// How a refusal for want of a signature reads.
const UNSIGNED: [&str; 2] = ["is refused by the policy rule", "0 of 1 required signatures"];

fn path(world: &World, name: &str) -> PathBuf {
    world.daemon.home().join(name)
}

/// A command of the client that may need the password of the key.
fn ctr(world: &World, words: &[&str]) -> Outcome<String> {
    let mut command = world.ctr.command(words);
    run(command.env("COSIGN_PASSWORD", "secret"), PATIENCE)?.ok()
}

/// Makes the key, and has the daemon follow a policy that takes everything for now.
fn begin(world: &mut World) -> Outcome {
    ctr(world, &["images", "generate-key", "key"])?;
    fs_err::write(path(world, "policy.toml"), "default = \"accept\"")?;
    let file = path(world, "policy.toml");
    let section = "io.containerd.trust.v1.policy";
    configure(world, &format!("[plugins.\"{section}\"]\npath = \"{}\"", file.display()))
}

fn configure(world: &mut World, section: &str) -> Outcome {
    let path = path(world, "config.toml");
    let text = fs_err::read_to_string(&path)?;
    fs_err::write(&path, format!("{text}\n{section}\n"))?;
    world.daemon.terminate()?;
    world.daemon.restart()
}

/// Puts the policy into force, without a restart.
fn enforce(world: &World) -> Outcome {
    enforce_with(world, "default = \"accept\"")
}

fn enforce_with(world: &World, default: &str) -> Outcome {
    let host = world.registry()?.host();
    let policy = format!(
        "{default}\n[keys]\nrelease = \"key.pub\"\n\
         [[rule]]\nprefix = \"{host}/signed/\"\naction = \"require\"\nkeys = [\"release\"]\n\
         [[rule]]\nprefix = \"{host}/banned/\"\naction = \"reject\"\n"
    );
    Ok(fs_err::write(path(world, "policy.toml"), policy)?)
}

fn small(seed: u64) -> Outcome<Packed> {
    Image::new(vec![Layer::text("srv/x", 5000, seed)]).pack()
}

fn push(world: &World, image: &Packed, name: &str) -> Outcome<String> {
    world.registry()?.push(image, name)
}

fn pull(world: &World, image: &str) -> Outcome {
    world.ctr.ok(["images", "pull", "--plain-http", image]).map(drop)
}

fn sign(world: &World, image: &str, more: &[&str]) -> Outcome<String> {
    let words = [&["images", "sign", "--plain-http", "--key", "key.key"], more, &[image]].concat();
    ctr(world, &words)
}

fn refused(world: &World, words: &[&str]) -> Outcome {
    world.ctr.refused(words, &UNSIGNED)
}

fn images(world: &World) -> Outcome<Vec<String>> {
    world.ctr.lines(["images", "ls", "-q"])
}

fn a_signed_image_is_taken_and_keeps_its_signatures(world: &mut World) -> Outcome {
    begin(world)?;
    let image = push(world, &Image::busybox()?.pack()?, "signed/busybox:1")?;
    pull(world, &image)?;
    sign(world, &image, &["--push"])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    store::assert_empty(world)?;
    enforce(world)?;
    pull(world, &image)?;
    store::collect(world)?;
    let said = world.ctr.ok(["images", "verify", "--key", "key.pub", &image])?;
    ensure!(said.contains("ecdsa-p256") && said.contains("yes"), "{said}");
    let ran = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "echo", "ran"])?;
    ensure!(ran == "ran\n", "{ran}");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    store::assert_empty(world)
}

fn an_unsigned_image_is_refused_whoever_pulls_it(world: &mut World) -> Outcome {
    begin(world)?;
    let packed = small(1)?;
    let image = push(world, &packed, "signed/a:1")?;
    let digest = image.replace(":1", &format!("@{}", packed.root.digest));
    let banned = push(world, &packed, "banned/a:1")?;
    enforce(world)?;
    for name in [&image, &digest] {
        // By the daemon, and with the raw content and image services.
        refused(world, &["images", "pull", "--plain-http", name])?;
        refused(world, &["images", "pull", "--plain-http", "--local", name])?;
    }
    let words = ["images", "pull", "--plain-http", &banned];
    world.ctr.refused(words, &["is refused by the policy rule", "are not wanted"])?;
    ensure!(images(world)?.is_empty(), "an image was kept");
    Ok(())
}

fn another_name_is_no_way_around(world: &mut World) -> Outcome {
    begin(world)?;
    let free = push(world, &small(20)?, "free/a:1")?;
    let host = world.registry()?.host();
    pull(world, &free)?;
    let good = push(world, &small(30)?, "signed/good:1")?;
    pull(world, &good)?;
    sign(world, &good, &[])?;
    enforce(world)?;
    for other in [
        format!("{host}/signed/a:1"),
        format!("{host}//signed/a:1"),
        format!("{host}/./signed/a:1"),
        format!("{host}/signed/deep/er/a@sha256:{}", "0".repeat(64)),
    ] {
        refused(world, &["images", "tag", &free, &other])?;
    }
    // A name that is there already: an update.
    refused(world, &["images", "tag", "--force", &free, &good])?;
    // What is signed may have another name, and may be labelled.
    world.ctr.ok(["images", "tag", &good, &format!("{host}/signed/better:1")])?;
    world.ctr.ok(["images", "label", &good, "a=b"])?;
    enforce_with(world, "default = \"reject\"")?;
    let words = ["images", "tag", &good, "elsewhere.example/good:1"];
    world.ctr.refused(words, &["is refused by the policy's default"])
}

fn an_archive_is_no_way_around(world: &mut World) -> Outcome {
    begin(world)?;
    let image = push(world, &small(4)?, "signed/a:1")?;
    pull(world, &image)?;
    world.ctr.ok(["images", "export", "a.tar", &image])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    enforce(world)?;
    refused(world, &["images", "import", "a.tar"])?;
    refused(world, &["images", "import", "--local", "a.tar"])?;
    let host = world.registry()?.host();
    let index = format!("{host}/signed/index:1");
    refused(world, &["images", "import", "--index-name", &index, "a.tar"])?;
    ensure!(images(world)?.is_empty(), "an image was kept");
    Ok(())
}

/// The image and its signature travel together in one layout, as `cosign save` and `skopeo` write them.
fn a_signature_in_the_archive_vouches_for_its_image(world: &mut World) -> Outcome {
    begin(world)?;
    let packed = small(7)?;
    let image = push(world, &packed, "signed/small:1")?;
    pull(world, &image)?;
    sign(world, &image, &["--push"])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let repository = image.trim_end_matches(":1");
    let tag = format!("{}.sig", packed.root.digest.replacen(':', "-", 1));
    // Named in full: the policy goes by the name.
    for (source, name) in
        [(image.clone(), image.clone()), (format!("{repository}:{tag}"), tag.clone())]
    {
        let mut skopeo = std::process::Command::new(e2e::parts::tool("skopeo")?);
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
        skopeo.arg(format!("docker://{source}")).arg(format!("oci:layout:{name}"));
        run(skopeo.current_dir(world.daemon.home()), PATIENCE)?.ok()?;
    }
    let mut tar = std::process::Command::new("tar");
    tar.args(["-cf", "signed.tar", "-C", "layout", "."]).current_dir(world.daemon.home());
    run(&mut tar, PATIENCE)?.ok()?;
    // Nobody can be asked any more: what the archive has is all there is.
    enforce(world)?;
    let signature = world.registry()?.manifest("signed/small", &tag)?;
    world.registry()?.delete_manifest("signed/small", &e2e::digest(&signature))?;
    world.ctr.ok(["images", "import", "signed.tar"])?;
    ensure!(images(world)?.contains(&image), "{:?}", images(world)?);
    store::collect(world)?;
    let said = world.ctr.ok(["images", "verify", "--key", "key.pub", &image])?;
    ensure!(said.contains("yes"), "{said}");
    Ok(())
}

fn the_content_of_another_namespace_brings_no_signature(world: &mut World) -> Outcome {
    begin(world)?;
    let image = push(world, &small(5)?, "signed/a:1")?;
    pull(world, &image)?;
    sign(world, &image, &[])?;
    enforce(world)?;
    world.ctr.ok(["images", "tag", &image, &image.replace(":1", ":2")])?;
    let other = world.ctr.in_namespace("other");
    other.refused(["images", "pull", "--plain-http", &image], &UNSIGNED)?;
    other.refused(["images", "pull", "--plain-http", "--local", &image], &UNSIGNED)?;
    ensure!(other.lines(["images", "ls", "-q"])?.is_empty(), "an image was kept");
    Ok(())
}

fn a_manifest_is_not_signed_by_the_signature_of_its_index(world: &mut World) -> Outcome {
    begin(world)?;
    let (index, parts) = Packed::index(&[
        Image::new(vec![Layer::text("srv/x", 5000, 6)]),
        Image::new(vec![Layer::text("srv/y", 5000, 7)]).architecture("s390x"),
    ])?;
    let image = push(world, &index, "signed/many:1")?;
    pull(world, &image)?;
    sign(world, &image, &["--push"])?;
    enforce(world)?;
    pull(world, &image)?;
    let one = image.replace(":1", &format!("@{}", parts[0].root.digest));
    refused(world, &["images", "pull", "--plain-http", &one])?;
    refused(world, &["images", "pull", "--plain-http", "--local", &one])?;
    ensure!(images(world)? == [image], "the manifest was kept");
    Ok(())
}

fn a_part_that_is_missing_vouches_for_nothing(world: &mut World) -> Outcome {
    begin(world)?;
    let packed = small(8)?;
    let image = push(world, &packed, "signed/a:1")?;
    pull(world, &image)?;
    let before = store::blobs(world)?;
    sign(world, &image, &[])?;
    enforce(world)?;
    let second = image.replace(":1", ":2");
    world.ctr.ok(["images", "tag", &image, &second])?;
    // The signature goes, by our hand or by the collector's, and then the image itself.
    for blob in store::blobs(world)?.iter().filter(|blob| !before.contains(blob)) {
        world.ctr.run(["content", "rm", blob])?;
    }
    ensure!(store::blobs(world)?.iter().all(|it| before.contains(it)), "signatures are left");
    refused(world, &["images", "tag", &image, &image.replace(":1", ":3")])?;
    world.ctr.ok(["content", "rm", &packed.root.digest])?;
    refused(world, &["images", "tag", &image, &image.replace(":1", ":4")])
}

fn a_container_of_an_image_from_before_is_refused(world: &mut World) -> Outcome {
    begin(world)?;
    let image = push(world, &Image::busybox()?.pack()?, "signed/busybox:1")?;
    pull(world, &image)?;
    enforce(world)?;
    let id = world.id("x");
    refused(world, &["run", "--rm", &image, &id, "true"])?;
    refused(world, &["containers", "create", &image, &id])?;
    ensure!(world.ctr.lines(["containers", "ls", "-q"])?.is_empty(), "a container was made");
    sign(world, &image, &[])?;
    let ran = world.ctr.ok(["run", "--rm", &image, &id, "echo", "ran"])?;
    ensure!(ran == "ran\n", "{ran}");
    Ok(())
}

fn a_name_that_was_moved_is_judged_by_what_it_is_now(world: &mut World) -> Outcome {
    begin(world)?;
    let good = push(world, &Image::busybox()?.pack()?, "signed/busybox:1")?;
    let bad = Image::busybox()?.with(Layer::text("srv/x", 500, 9)).pack()?;
    let bad = push(world, &bad, "free/busybox:1")?;
    pull(world, &good)?;
    pull(world, &bad)?;
    sign(world, &good, &[])?;
    // Moved while nobody looked.
    world.ctr.ok(["images", "tag", "--force", &bad, &good])?;
    enforce(world)?;
    refused(world, &["containers", "create", &good, &world.id("x")])
}

fn a_broken_policy_refuses_until_it_is_mended(world: &mut World) -> Outcome {
    begin(world)?;
    let image = push(world, &small(10)?, "free/a:1")?;
    pull(world, &image)?;
    fs_err::write(path(world, "policy.toml"), "default = \"acept\"")?;
    let tag = ["images", "tag", &image, "free.example/b:1"];
    world.ctr.refused(tag, &["policy.toml", "acept"])?;
    fs_err::remove_file(path(world, "policy.toml"))?;
    world.ctr.refused(tag, &["policy.toml"])?;
    world.ctr.ok(["images", "ls"])?;
    enforce(world)?;
    world.ctr.ok(tag).map(drop)
}

fn what_is_sent_to_the_registry_is_found_there(world: &mut World) -> Outcome {
    begin(world)?;
    ctr(world, &["images", "generate-key", "other"])?;
    let image = push(world, &small(11)?, "tools/a:1")?;
    pull(world, &image)?;
    sign(world, &image, &["--push"])?;
    let second = ["images", "sign", "--plain-http", "--key", "other.key", "--push", "--referrer"];
    ctr(world, &[&second[..], &[&image]].concat())?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    pull(world, &image)?;
    let verify = ["images", "verify", "--plain-http", "--key", "key.pub", "--key", "other.pub"];
    let local = [&verify[..], &[&image]].concat();
    world.ctr.refused(local, &["0 of 2 wanted keys"])?;
    world.ctr.ok([&verify[..], &["--remote", &image]].concat())?;
    let again = ["images", "generate-key", "other"];
    let mut command = world.ctr.command(again);
    run(command.env("COSIGN_PASSWORD", "secret"), PATIENCE)?.refused(&["other.key", "exists"])
}

fn a_verifier_program_may_refuse_a_pull(world: &mut World) -> Outcome {
    let folder = path(world, "verifiers");
    fs_err::create_dir(&folder)?;
    let program = folder.join("names");
    let script = "#!/bin/sh\ncase \"$2\" in */bad/*) echo a bad name; exit 1;; esac\necho fine\n";
    sys::program::install(&program, script.as_bytes())?;
    let section = "io.containerd.image-verifier.v1.bindir";
    configure(world, &format!("[plugins.\"{section}\"]\nbin_dir = \"{}\"", folder.display()))?;
    let packed = small(12)?;
    let (good, bad) = (push(world, &packed, "good/a:1")?, push(world, &packed, "bad/a:1")?);
    pull(world, &good)?;
    world.ctr.refused(
        ["images", "pull", "--plain-http", &bad],
        &[
            "image verifier bindir blocked pull of",
            "for reason: verifier names rejected image (exit code 1): a bad name",
        ],
    )?;
    ensure!(images(world)? == [good], "the bad one was kept");
    Ok(())
}
