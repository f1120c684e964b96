// SPDX-License-Identifier: Apache-2.0
//! Layers that go through a program, what refers to images, transfers that only the wire has words
//! for, and the daemon over TCP.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api::containerd::services::transfer::v1::TransferRequest;
use api::containerd::types::Platform;
use api::containerd::types::transfer::{ImageReference, ImageStore, OciRegistry, RegistryResolver};
use e2e::process::run;
use e2e::{
    Blob, Context, Daemon, Image, Layer, Outcome, PATIENCE, Packed, Parts, Profile, Registry, Tar,
    World, digest, ensure, for_each_daemon, only_ours, over_the_wire, parts,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::store;
use crate::wire::Wire;

for_each_daemon!(an_encrypted_layer_goes_through_its_decoder);

over_the_wire!(
    a_decoder_gets_what_was_sent_along_with_the_layer,
    whoever_shows_a_certificate_is_served_over_tcp,
);

only_ours!(
    what_refers_to_an_image_is_pulled_and_pushed_along,
    an_image_gets_all_the_names_that_the_wire_says,
    the_platforms_that_the_wire_says_are_pushed,
    a_snapshotter_elsewhere_hears_whose_snapshots_they_are,
    layers_are_unpacked_by_a_daemon_elsewhere,
    layers_are_unpacked_by_gos_daemon_elsewhere,
);

const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
const SEALED: &str = "application/vnd.oci.image.layer.v1.tar+encrypted";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The decoder that is sent a payload.
const KEYED: &str = "io.containerd.ocicrypt.decoder.v1.tar";

/// A decoder of the tests: each byte is one more than it was. With `--key` it wants to be told a word
/// on file descriptor 3, and with anything else it complains.
const DECODER: &str = "#!/bin/sh\n\
    case \"$1\" in\n\
    --key) grep -aq sesame <&3 || { echo 'the word is wrong' >&2; exit 3; } ;;\n\
    '') ;;\n\
    *) exit 4 ;;\n\
    esac\n\
    test -n \"$STREAM_PROCESSOR_MEDIATYPE\" || exit 5\n\
    LC_ALL=C exec tr '\\001-\\377\\000' '\\000-\\377'\n";

fn encoded(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte.wrapping_add(1)).collect()
}

/// Has the daemon know the decoder, for two kinds of layers, in place of those that Go's containerd
/// has from the start: of two that accept the same, it takes any (containerd
/// `cmd/containerd/command/config.go`, `streamProcessors`).
fn configure_decoder(world: &mut World) -> Outcome {
    let decoder = world.daemon.home().join("decoder");
    sys::program::install(&decoder, DECODER.as_bytes())?;
    let path = decoder.display();
    let section = |id: &str, accepts: &str, returns: &str, args: &str| {
        format!(
            "[stream_processors.\"{id}\"]\naccepts = [\"{accepts}\"]\nreturns = \"{returns}\"\n\
             path = \"{path}\"\nargs = [{args}]\n"
        )
    };
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let open = section(
        "io.containerd.ocicrypt.decoder.v1.tar.gzip",
        ENCRYPTED,
        &format!("{layer}+gzip"),
        "",
    );
    let keyed = section(KEYED, SEALED, layer, "\"--key\"");
    change_config(world, |text| format!("{text}\n{open}{keyed}"))
}

fn change_config(world: &mut World, change: impl FnOnce(String) -> String) -> Outcome {
    let path = world.daemon.home().join("config.toml");
    fs_err::write(&path, change(fs_err::read_to_string(&path)?))?;
    world.daemon.terminate()?;
    world.daemon.restart()
}

/// The image with its top layer encrypted.
fn encrypted(image: &Image) -> Outcome<Packed> {
    let mut packed = image.pack()?;
    let top = packed.layers.last_mut().context("a layer")?;
    *top = Blob::new(ENCRYPTED, encoded(&top.bytes));
    packed.root = manifest(&packed);
    Ok(packed)
}

fn manifest(of: &Packed) -> Blob {
    let layers: Vec<Value> = of.layers.iter().map(Blob::descriptor).collect();
    let config = of.config.descriptor();
    let value = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
    });
    Blob::json(MANIFEST, &value)
}

fn an_encrypted_layer_goes_through_its_decoder(world: &mut World) -> Outcome {
    let secret = Tar::new().dir("srv", 0o755).file("srv/secret", 0o600, b"not for everybody\n");
    let packed = encrypted(&Image::busybox()?.with(Layer::new(secret)))?;
    let image = world.registry()?.push(&packed, "tools/secret:1")?;
    world.ctr.refused(["images", "pull", "--plain-http", &image], &["encrypted"])?;
    configure_decoder(world)?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/secret"])?;
    ensure!(said == "not for everybody\n", "{said}");
    let blobs = store::blobs(world)?;
    let top = &packed.layers.last().context("a layer")?.digest;
    ensure!(blobs.contains(top), "the layer is kept as it came: {blobs:?}");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    store::assert_empty(world)
}

/// Whoever asks for a layer to be applied may send along what its decoder needs.
fn a_decoder_gets_what_was_sent_along_with_the_layer(world: &mut World) -> Outcome {
    use api::containerd::services::diff::v1::{ApplyRequest, ApplyResponse};
    use api::containerd::types::{Descriptor, Mount};
    configure_decoder(world)?;
    let tar = Tar::new().file("opened", 0o644, b"by a word\n").finish();
    let sealed = Blob::new(SEALED, encoded(&tar));
    let mut packed = Image::busybox()?.pack()?;
    packed.layers = vec![sealed.clone()];
    packed.root = manifest(&packed);
    let image = world.registry()?.push(&packed, "tools/sealed:1")?;
    world.ctr.ok(["content", "fetch", "--plain-http", &image])?;
    let wire = Wire::connect(world, "diff.v1.Diff")?;
    let apply = |directory: &str, word: Option<&str>| {
        let source = world.daemon.home().join(directory);
        fs_err::create_dir(&source)?;
        let payload = word.map(|word| prost_types::Any {
            type_url: "e2e/word".to_owned(),
            value: word.as_bytes().to_vec(),
        });
        let request = ApplyRequest {
            diff: Some(Descriptor {
                media_type: SEALED.to_owned(),
                digest: sealed.digest.clone(),
                size: i64::try_from(sealed.bytes.len())?,
                ..Descriptor::default()
            }),
            mounts: vec![Mount {
                r#type: "bind".to_owned(),
                source: source.display().to_string(),
                options: vec!["rbind".to_owned(), "rw".to_owned()],
                ..Mount::default()
            }],
            payloads: payload.into_iter().map(|it| (KEYED.to_owned(), it)).collect(),
            ..ApplyRequest::default()
        };
        let answer = wire.ask::<_, ApplyResponse>("Apply", request, Duration::from_secs(30));
        Outcome::Ok((answer, source.join("opened")))
    };
    let (answer, opened) = apply("right", Some("sesame"))?;
    let applied = answer?.applied.context("what was applied")?;
    ensure!(applied.digest == digest(&tar), "{}", applied.digest);
    ensure!(fs_err::read_to_string(opened)? == "by a word\n", "what was unpacked");
    let (answer, opened) = apply("wrong", Some("mustard"))?;
    ensure!(answer.is_err() && !opened.exists(), "a wrong word opens nothing");
    Ok(())
}

/// An artifact that is about an image, as people attach lists of materials.
fn artifact(registry: &Registry, repository: &str, image: &Packed) -> Outcome<Blob> {
    let config = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let materials = Blob::new("application/spdx+json", b"flour, water, salt".to_vec());
    let manifest = Blob::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/spdx+json",
            "config": config.descriptor(), "layers": [materials.descriptor()],
            "subject": image.root.descriptor(),
        }),
    );
    registry.push_parts(repository, &[config, materials], &[(&manifest.digest, &manifest)])?;
    Ok(manifest)
}

fn what_refers_to_an_image_is_pulled_and_pushed_along(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, "tools/three:1")?;
    let materials = artifact(world.registry()?, "tools/three", &packed)?;
    // This registry lists no referrers: clients do, under a tag made of the image's digest.
    let tag = packed.root.digest.replacen(':', "-", 1);
    let mut listed = materials.descriptor();
    listed["artifactType"] = json!("application/spdx+json");
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [listed] });
    let index = Blob::json(kind, &index);
    world.registry()?.push_parts("tools/three", &[], &[(&tag, &index)])?;

    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    ensure!(!store::blobs(world)?.contains(&materials.digest), "only what was asked for");
    world.ctr.ok(["images", "pull", "--plain-http", "--referrers", &image])?;
    store::collect(world)?;
    let said = world.ctr.ok(["images", "referrers", &image])?;
    for word in [&*materials.digest, "application/spdx+json", &packed.root.digest] {
        ensure!(said.contains(word), "{word} in {said}");
    }

    let other = Registry::start()?;
    let to = format!("{}/more/three:1", other.host());
    world.ctr.ok(["images", "push", "--plain-http", "--referrers", &to, &image])?;
    ensure!(other.manifest("more/three", &materials.digest)? == materials.bytes, "it arrived");
    let found: Value = serde_json::from_slice(&other.manifest_of("more/three", &tag, kind)?)?;
    ensure!(found["manifests"][0]["digest"] == materials.digest.as_str(), "{found}");
    ensure!(other.manifest("more/three", "1")? == packed.root.bytes, "the tag is the image's");

    world.ctr.ok(["images", "rm", "--sync", &image])?;
    store::assert_empty(world)
}

fn any<M: Message + prost::Name>(message: &M) -> prost_types::Any {
    // Compat: containerd's types are named without a prefix.
    prost_types::Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

fn at(reference: &str) -> OciRegistry {
    let resolver = RegistryResolver { default_scheme: "http".to_owned(), ..Default::default() };
    OciRegistry { reference: reference.to_owned(), resolver: Some(resolver) }
}

fn transfer<A, B>(world: &World, from: &A, to: &B) -> Outcome
where
    A: Message + prost::Name,
    B: Message + prost::Name,
{
    let wire = Wire::connect(world, "transfer.v1.Transfer")?;
    let (source, destination) = (Some(any(from)), Some(any(to)));
    wire.accepts("Transfer", TransferRequest { source, destination, options: None })
}

fn an_image_gets_all_the_names_that_the_wire_says(world: &mut World) -> Outcome {
    let packed = Image::three_layers()?.pack()?;
    let image = world.registry()?.push(&packed, "tools/three:1")?;
    let reference = |name: &str, is_prefix, add_digest| ImageReference {
        name: name.to_owned(),
        is_prefix,
        add_digest,
        ..ImageReference::default()
    };
    let store = ImageStore {
        name: "first.test/three:1".to_owned(),
        extra_references: vec![
            reference("second.test/three:2", false, false),
            reference("third.test/three", false, true),
            // A prefix is for archives, which have names of their own.
            reference("fourth.test/three", true, false),
        ],
        ..ImageStore::default()
    };
    transfer(world, &at(&image), &store)?;
    let mut names = world.ctr.lines(["images", "ls", "-q"])?;
    names.sort();
    let by_digest = format!("third.test/three@{}", packed.root.digest);
    assert_eq!(names, ["first.test/three:1", "second.test/three:2", &by_digest]);
    Ok(())
}

fn the_platforms_that_the_wire_says_are_pushed(world: &mut World) -> Outcome {
    let kinds = ["amd64", "arm64", "riscv64"].map(|kind| {
        let layer =
            Layer::text("srv/kind", 4000, kind.len() as u64 + u64::from(kind.as_bytes()[2]));
        Image::new(vec![layer]).architecture(kind)
    });
    let (index, images) = Packed::index(&kinds)?;
    let image = world.registry()?.push(&index, "tools/many:1")?;
    world.ctr.ok(["images", "pull", "--plain-http", "--all-platforms", &image])?;
    let target = Registry::start()?;
    let platform = |architecture: &str| Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        ..Platform::default()
    };
    let store = ImageStore {
        name: image.clone(),
        platforms: vec![platform("arm64"), platform("riscv64")],
        ..ImageStore::default()
    };
    // This registry refuses an index of which something is missing: so it is told what is meant.
    let wire = Wire::connect(world, "transfer.v1.Transfer")?;
    let to = at(&format!("{}/tools/many:1", target.host()));
    let request =
        TransferRequest { source: Some(any(&store)), destination: Some(any(&to)), options: None };
    let refused = wire.ask::<_, ()>("Transfer", request, PATIENCE).err();
    let said = refused.map(|status| status.message().to_owned()).unwrap_or_default();
    ensure!(said.contains("missing in your target registry"), "{said}");
    for (image, is_there) in images.iter().zip([false, true, true]) {
        let found = target.manifest("tools/many", &image.root.digest).is_ok();
        ensure!(found == is_there, "{} is there: {found}", image.root.digest);
    }
    Ok(())
}

/// Another daemon stands in for a remote snapshotter: what it is told is seen in its namespaces.
fn a_snapshotter_elsewhere_hears_whose_snapshots_they_are(world: &mut World) -> Outcome {
    let elsewhere = Daemon::start(world.daemon.parts(), Profile::Dev)?;
    let section = format!(
        "[proxy_plugins.native]\n  type = \"snapshot\"\n  address = \"{}\"\n",
        elsewhere.address().display()
    );
    change_config(world, |text| format!("{text}\n{section}"))?;
    let image = world.registry()?.push(&Image::three_layers()?.pack()?, "tools/three:1")?;
    world.ctr.ok(["images", "pull", "--plain-http", "--snapshotter", "native", &image])?;
    let there = elsewhere.ctr().in_namespace_of(world.ctr.namespace());
    let snapshots = there.lines(["snapshots", "--snapshotter", "native", "ls"])?;
    assert_eq!(snapshots.len(), 1 + 3, "{snapshots:?}");
    let own = elsewhere.ctr().lines(["snapshots", "--snapshotter", "native", "ls"])?;
    assert_eq!(own.len(), 1, "{own:?}");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let snapshots = there.lines(["snapshots", "--snapshotter", "native", "ls"])?;
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    Ok(())
}

fn layers_are_unpacked_by_a_daemon_elsewhere(world: &mut World) -> Outcome {
    unpacked_elsewhere(world, Parts::OURS)
}

fn layers_are_unpacked_by_gos_daemon_elsewhere(world: &mut World) -> Outcome {
    unpacked_elsewhere(world, Parts::REFERENCE)
}

/// Another daemon is the only differ that ours has. It takes layers from its own content, so it has to
/// have them (containerd `core/diff/proxy/differ.go`: the wire carries descriptors and mounts).
fn unpacked_elsewhere(world: &mut World, parts: Parts) -> Outcome {
    let mut elsewhere = Daemon::start(parts, Profile::Dev)?;
    let section = format!(
        "[proxy_plugins.elsewhere]\n  type = \"diff\"\n  address = \"{}\"\n\
         [plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"elsewhere\"]\n",
        elsewhere.address().display()
    );
    change_config(world, |text| format!("{text}\n{section}"))?;
    let there = elsewhere.ctr().in_namespace_of(world.ctr.namespace());
    let image = world.registry()?.push(&Image::three_layers()?.pack()?, "tools/three:1")?;
    let pull = ["images", "pull", "--plain-http", &image];

    // Without its content it can do nothing, and ours has nothing else to do it with.
    world.ctr.refused(pull, &["not found"])?;
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, Vec::<String>::new());
    there.ok(["content", "fetch", "--plain-http", &image])?;
    world.ctr.ok(pull)?;
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?;
    assert_eq!(said, "new\n");
    let snapshots = there.lines(["snapshots", "ls"])?;
    assert_eq!(snapshots.len(), 1, "the snapshots are ours: {snapshots:?}");

    world.ctr.ok(["images", "rm", "--sync", &image])?;
    elsewhere.terminate()?;
    let refused = world.ctr.run(pull)?;
    refused.refused(&[])?;
    world.ctr.ok(["version"])?;
    elsewhere.restart()?;
    world.ctr.ok(pull)?;
    Ok(())
}

/// Certificates as somebody would make them who has openssl.
struct Certificates(PathBuf);

impl Certificates {
    fn make(home: &Path) -> Outcome<Self> {
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=ca
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout other.key -out other.pem -subj /CN=other
            for who in server client; do
              openssl req -newkey rsa:2048 -nodes -keyout $who.key -out $who.csr -subj /CN=$who
              printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nextendedKeyUsage=%sAuth\\n' $who > $who.ext
              openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $who.ext -out $who.pem
            done
            openssl x509 -req -in client.csr -CA other.pem -CAkey other.key -CAcreateserial -days 2 -extfile client.ext -out stranger.pem";
        parts::tool("openssl")?;
        let folder = home.join("certificates");
        fs_err::create_dir(&folder)?;
        let mut command = Command::new("sh");
        run(command.args(["-ec", script]).current_dir(&folder), PATIENCE)?.ok()?;
        Ok(Self(folder))
    }

    fn read(&self, name: &str) -> Outcome<Vec<u8>> {
        Ok(fs_err::read(self.0.join(name))?)
    }

    fn tls(&self, certificate: Option<&str>) -> Outcome<ClientTlsConfig> {
        let authority = Certificate::from_pem(self.read("ca.pem")?);
        let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        let Some(certificate) = certificate else { return Ok(tls) };
        let identity = Identity::from_pem(self.read(certificate)?, self.read("client.key")?);
        Ok(tls.identity(identity))
    }
}

fn whoever_shows_a_certificate_is_served_over_tcp(world: &mut World) -> Outcome {
    let certificates = Certificates::make(world.daemon.home())?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let folder = certificates.0.display();
    let keys = format!(
        "[grpc]\n  tcp_address = \"127.0.0.1:{port}\"\n  tcp_tls_cert = \"{folder}/server.pem\"\n  \
         tcp_tls_key = \"{folder}/server.key\"\n  tcp_tls_ca = \"{folder}/ca.pem\"\n"
    );
    change_config(world, |text| text.replacen("[grpc]\n", &keys, 1))?;
    // Go's containerd serves CRI alone over TCP: of others it says that it does not have them.
    let is_served = |endpoint: Endpoint| -> bool {
        let Ok(wire) = Wire::over(world, "version.v1.Version", endpoint) else { return false };
        let answer = wire.ask::<(), ()>("Version", (), Duration::from_secs(5));
        answer.map_or_else(|status| status.code() == Code::Unimplemented, |()| true)
    };
    let encrypted = |certificate: Option<&str>| -> Outcome<Endpoint> {
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?;
        Ok(endpoint.tls_config(certificates.tls(certificate)?)?)
    };
    ensure!(is_served(encrypted(Some("client.pem"))?), "a client with a certificate is not served");
    for certificate in [None, Some("stranger.pem")] {
        ensure!(!is_served(encrypted(certificate)?), "served with {certificate:?}");
    }
    let plain = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
    ensure!(!is_served(plain), "served in the clear");
    Ok(())
}
