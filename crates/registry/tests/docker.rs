// SPDX-License-Identifier: Apache-2.0
//! Round trips with Debian's docker-registry, in plain text and over TLS with HTTP/2.
use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use content::Expected;
use registry::{Host, Options, Registry, Scheme, Tls, standard};
use tempfile::TempDir;
use types::{Descriptor, Digest, Kind, Labels, media_types};

use crate::{bytes, client, fetch, layer, options, reference};

const REGISTRY: &str = "/usr/bin/docker-registry";

/// A real registry. It ends with its owner.
pub(crate) struct Docker {
    pub(crate) host: String,
    pub(crate) folder: TempDir,
    child: Child,
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn docker(tls: bool) -> Option<Docker> {
    docker_with(tls, "")
}

/// A registry with further sections in its config, in which `FOLDER` is a folder of its own that
/// has a certificate and its key.
pub(crate) fn docker_with(tls: bool, sections: &str) -> Option<Docker> {
    if !Path::new(REGISTRY).exists() {
        eprintln!("SKIPPED: {REGISTRY} is not installed");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let path = folder.path().display();
    let mut secure = String::new();
    if tls || !sections.is_empty() {
        certificate(folder.path())?;
    }
    if tls {
        secure = format!("  tls: {{certificate: {path}/cert.pem, key: {path}/key.pem}}\n");
    }
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
         http:\n  addr: {host}\n{secure}{}",
        sections.replace("FOLDER", &path.to_string())
    );
    let file = folder.path().join("config.yml");
    fs_err::write(&file, config).unwrap();
    let child = Command::new(REGISTRY)
        .args(["serve".as_ref(), file.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let docker = Docker { host, folder, child };
    let begun = Instant::now();
    while TcpStream::connect(&docker.host).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the registry does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(docker)
}

/// A certificate for loopback, signed by itself.
pub(crate) fn certificate(folder: &Path) -> Option<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"])
        .args(["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: openssl cannot make a certificate");
        return None;
    }
    Some(())
}

async fn push(registry: &Registry, name: &str, what: &Descriptor, data: &[u8]) {
    let mut ingest = registry.pusher(&reference(name)).unwrap().push(what).await.unwrap();
    for chunk in data.chunks(64 << 10) {
        ingest.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    ingest.commit(Expected::from(what), Labels::new()).await.unwrap();
}

/// Pushes an image of one layer and returns its manifest and the layer.
pub(crate) async fn push_image(
    registry: &Registry,
    name: &str,
    data: &[u8],
) -> (Descriptor, String) {
    let (config, what) = (b"{}", layer(data));
    push(registry, name, &what, data).await;
    push(registry, name, &Descriptor::new(media_types::CONFIG, Digest::of(config), 2), config)
        .await;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        media_types::MANIFEST,
        media_types::CONFIG,
        Digest::of(config),
        what.media_type,
        what.digest,
        what.size
    );
    let size = manifest.len() as u64;
    let descriptor = Descriptor::new(media_types::MANIFEST, Digest::of(&manifest), size);
    push(registry, name, &descriptor, manifest.as_bytes()).await;
    (descriptor, manifest)
}

async fn round_trip(registry: &Registry, name: &str) {
    let data = bytes(5_000_000);
    let (descriptor, manifest) = push_image(registry, name, &data).await;
    let resolved = registry.resolve(&reference(name)).await.unwrap();
    assert_eq!(resolved, descriptor);
    assert_eq!(fetch(registry, name, &resolved, 0).await.unwrap(), manifest.as_bytes());
    assert_eq!(fetch(registry, name, &layer(&data), 0).await.unwrap(), data);
    let rest = fetch(registry, name, &layer(&data), 4_000_000).await.unwrap();
    assert_eq!(rest, data[4_000_000..]);
    let again = registry.pusher(&reference(name)).unwrap().push(&layer(&data)).await;
    assert_eq!(again.err().unwrap().kind(), Kind::AlreadyExists);
}

#[tokio::test]
async fn an_image_goes_there_and_back() {
    let Some(docker) = docker(false) else { return };
    round_trip(&client(), &format!("{}/some/image:1", docker.host)).await;
    let missing = reference(&format!("{}/some/image:2", docker.host));
    assert!(client().resolve(&missing).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_image_goes_there_and_back_over_tls() {
    let Some(docker) = docker(true) else { return };
    let name = format!("{}/some/image:1", docker.host);
    // Loopback need not be signed for.
    round_trip(&client(), &name).await;
    // Elsewhere it must be.
    let at = docker.host.clone();
    let with = |tls: Tls| {
        let host = Host { tls, ..Host::new(Scheme::Https, &at) };
        let hosts = Arc::new(move |_: &str| Ok(vec![host.clone()]));
        Registry::new(Options { hosts, ..options() })
    };
    let error = with(Tls::default()).resolve(&reference(&name)).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    let pem = fs_err::read(docker.folder.path().join("cert.pem")).unwrap();
    let trusted = Tls { authorities: vec![pem.into()], ..Tls::default() };
    with(trusted).resolve(&reference(&name)).await.unwrap();
}

#[tokio::test]
async fn a_layer_is_mounted_across_repositories() {
    let Some(docker) = docker(false) else { return };
    let (base, target) = (format!("{}/base:1", docker.host), format!("{}/new:1", docker.host));
    let data = bytes(1_000_000);
    push_image(&client(), &base, &data).await;
    let mut what = layer(&data);
    what.annotations.extend([registry::distribution_source(&reference(&base), None)]);
    let mounted = client().pusher(&reference(&target)).unwrap().push(&what).await;
    assert_eq!(mounted.err().unwrap().kind(), Kind::AlreadyExists);
    assert_eq!(fetch(&client(), &target, &what, 0).await.unwrap(), data);
}

#[tokio::test]
async fn another_client_understands_what_was_pushed() {
    let Some(docker) = docker(false) else { return };
    let hosts = standard(true, Tls::default());
    let registry = Registry::new(Options { hosts, ..options() });
    let name = format!("{}/some/image:1", docker.host);
    let (_, manifest) = push_image(&registry, &name, &bytes(1000)).await;
    let skopeo = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
        .output();
    let Ok(skopeo) = skopeo else {
        eprintln!("SKIPPED: skopeo is not installed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&skopeo.stdout), manifest);
}
