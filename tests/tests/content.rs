// SPDX-License-Identifier: Apache-2.0
//! The content store, as a client sees it.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use e2e::{
    Daemon, Image, Outcome, Parts, Profile, World, digest, ensure, for_each_daemon, only_ours,
};

use crate::store;

for_each_daemon!(
    a_blob_is_read_back_as_it_was_served,
    a_fetch_stores_content_and_unpacks_nothing,
    a_blob_is_taken_in_and_kept_by_its_digest,
    a_blob_with_the_wrong_digest_is_not_committed,
    a_blob_with_the_wrong_size_is_not_committed,
    a_blob_is_labelled,
    a_blob_is_removed,
);

only_ours!(
    blobs_are_handed_out_as_files_to_those_who_see_them,
    our_client_reads_blobs_as_files_and_does_without,
    our_client_reads_blobs_of_gos_daemon,
);

const THREE: &str = "tools/three:1";
const ZEROS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Stores bytes under a ref, which nothing holds once they are a blob: the garbage collector runs
/// a moment after the start, and after that only when something is deleted.
fn ingest(world: &World, args: &[&str], bytes: &[u8]) -> Outcome<e2e::Output> {
    store::collect(world)?;
    let mut ctr = world.ctr.start_fed([&["content", "ingest"], args].concat())?;
    ctr.feed(bytes)?;
    ctr.hang_up();
    ctr.wait(e2e::PATIENCE)
}

fn a_blob_is_read_back_as_it_was_served(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    world.pull_packed(&packed, THREE)?;
    for blob in [&packed.root, &packed.config] {
        let text = world.ctr.ok(["content", "get", &blob.digest])?;
        assert_eq!(text.as_bytes(), blob.bytes);
    }
    Ok(())
}

fn a_fetch_stores_content_and_unpacks_nothing(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, THREE)?;
    world.ctr.ok(["content", "fetch", "--plain-http", &image])?;
    assert_eq!(store::blobs(world)?.len(), 5);
    assert_eq!(store::snapshots(world)?, Vec::<String>::new());
    Ok(())
}

fn a_blob_is_taken_in_and_kept_by_its_digest(world: &mut World) -> Outcome {
    let bytes = b"some bytes\n";
    ingest(world, &["a-ref"], bytes)?.ok()?;
    assert_eq!(store::blobs(world)?, [digest(bytes)]);
    assert_eq!(world.ctr.ok(["content", "get", &digest(bytes)])?, "some bytes\n");
    let path = world.daemon.content().join("blobs/sha256");
    assert!(path.join(digest(bytes).trim_start_matches("sha256:")).is_file());
    Ok(())
}

fn a_blob_with_the_wrong_digest_is_not_committed(world: &mut World) -> Outcome {
    let bytes = b"some bytes\n";
    let refused = ingest(world, &["--expected-digest", ZEROS, "a-ref"], bytes)?;
    refused.refused(&["unexpected commit digest", &digest(bytes), ZEROS])?;
    assert_eq!(store::blobs(world)?, Vec::<String>::new());
    Ok(())
}

fn a_blob_with_the_wrong_size_is_not_committed(world: &mut World) -> Outcome {
    ingest(world, &["--expected-size", "7000", "a-ref"], b"some bytes\n")?.refused(&[])?;
    assert_eq!(store::blobs(world)?, Vec::<String>::new());
    Ok(())
}

fn a_blob_is_labelled(world: &mut World) -> Outcome {
    ingest(world, &["a-ref"], b"labelled\n")?.ok()?;
    let name = digest(b"labelled\n");
    world.ctr.ok(["content", "label", &name, "kind=test"])?;
    assert_eq!(world.ctr.lines(["content", "ls", "-q", "labels.kind==test"])?, [name.as_str()]);
    assert!(world.ctr.ok(["content", "ls"])?.contains("kind=test"));
    world.ctr.refused(["content", "label", ZEROS, "a=b"], &[ZEROS, "not found"])
}

fn a_blob_is_removed(world: &mut World) -> Outcome {
    ingest(world, &["a-ref"], b"to be removed\n")?.ok()?;
    let name = digest(b"to be removed\n");
    world.ctr.ok(["content", "rm", &name])?;
    world.ctr.refused(["content", "get", &name], &[&name, "not found"])
}

fn files_socket(daemon: &Daemon) -> PathBuf {
    daemon.home().join("c.sock.fd")
}

/// Asks for a file, and gives the line of the answer. The file is let go of by the kernel.
fn ask_for_file(daemon: &Daemon, question: &str) -> Outcome<String> {
    let mut stream = UnixStream::connect(files_socket(daemon))?;
    stream.set_read_timeout(Some(e2e::PATIENCE))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn blobs_are_handed_out_as_files_to_those_who_see_them(world: &mut World) -> Outcome {
    let of = |path: PathBuf| fs_err::metadata(path);
    let (beside, grpc) = (of(files_socket(&world.daemon))?, of(world.daemon.address())?);
    assert_eq!(beside.permissions().mode(), grpc.permissions().mode());
    assert_eq!((beside.uid(), beside.gid()), (grpc.uid(), grpc.gid()));

    let packed = Image::three_layers()?.pack()?;
    world.pull_packed(&packed, THREE)?;
    let (namespace, config) = (world.ctr.namespace().to_owned(), &packed.config);
    let open = format!("open {namespace} {}\n", config.digest);
    let length = config.bytes.len();
    assert_eq!(ask_for_file(&world.daemon, &open)?, format!("0 {length}\n"));
    let hidden = format!("open {namespace}-other {}\n", config.digest);
    let missing = format!("5 content digest {}: not found\n", config.digest);
    assert_eq!(ask_for_file(&world.daemon, &hidden)?, missing);
    // What was seen a moment ago is not seen any more once it is deleted.
    world.ctr.ok(["content", "rm", &config.digest])?;
    assert_eq!(ask_for_file(&world.daemon, &open)?, missing);
    world.ctr.refused(["content", "get", &config.digest], &["not found"])
}

fn our_client_reads_blobs_as_files_and_does_without(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    world.pull_packed(&packed, THREE)?;
    let config = &packed.config;
    let get = ["content", "get", &config.digest];
    assert_eq!(world.ctr.ok(get)?.as_bytes(), config.bytes);

    // Another takes the socket's place: our client asks it, and believes it no more than it should.
    fs_err::remove_file(files_socket(&world.daemon))?;
    let listener = UnixListener::bind(files_socket(&world.daemon))?;
    let asked = thread::spawn(move || -> std::io::Result<String> {
        let (mut client, _) = listener.accept()?;
        let mut question = [0; 1024];
        let length = client.read(&mut question)?;
        client.write_all(b"0 4\n")?;
        Ok(String::from_utf8_lossy(&question[..length]).into_owned())
    });
    assert_eq!(world.ctr.ok(get)?.as_bytes(), config.bytes);
    let asked = asked.join().expect("the thread asserts nothing")?;
    assert_eq!(asked, format!("open {} {}\n", world.ctr.namespace(), config.digest));

    let home = world.daemon.home().to_owned();
    fs_err::remove_file(files_socket(&world.daemon))?;
    let path = home.join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    let disabled = text.replace("cri\"]", "cri\", \"io.containerd.grpc.v1.content-files\"]");
    ensure!(disabled != text, "the config has no place for it: {text}");
    fs_err::write(&path, disabled)?;
    world.daemon.terminate()?;
    world.daemon.restart()?;
    ensure!(!files_socket(&world.daemon).exists(), "a socket that was turned off");
    assert_eq!(world.ctr.ok(get)?.as_bytes(), config.bytes);
    Ok(())
}

fn our_client_reads_blobs_of_gos_daemon(world: &mut World) -> Outcome {
    let go = Daemon::start(Parts::REFERENCE, Profile::Dev)?;
    let ours = go.ctr_by(&e2e::parts::Programs::find(Parts::OURS, Profile::Dev)?.ctr);
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, THREE)?;
    ours.ok(["content", "fetch", "--plain-http", &image])?;
    assert_eq!(ours.ok(["content", "get", &packed.config.digest])?.as_bytes(), packed.config.bytes);
    let archive = go.home().join("tmp/three.tar");
    ours.ok(["images", "export", &archive.display().to_string(), &image])?;
    ours.ok(["images", "rm", "--sync", &image])?;
    ours.ok(["images", "import", &archive.display().to_string()])?;
    assert_eq!(ours.ok(["content", "get", &packed.config.digest])?.as_bytes(), packed.config.bytes);
    Ok(())
}
