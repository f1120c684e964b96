// SPDX-License-Identifier: Apache-2.0
//! A real registry, on a free port of the loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::estate::Estate;
use crate::http::{Answer, ask};
use crate::image::{Blob, Packed};
use crate::wait::{PATIENCE, until};
use crate::{Context, Failure, Outcome, ensure, parts, process};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// Debian's `docker-registry` with storage of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    child: Child,
    estate: Estate,
}

impl Registry {
    /// Starts one and waits until it answers.
    pub fn start() -> Outcome<Self> {
        let program = parts::tool("docker-registry")?;
        // Between finding a free port and taking it, somebody else may: then take another.
        let mut last = Failure::new("no attempt was made");
        for _ in 0..5 {
            match Self::attempt(Command::new(&program), free_address()?) {
                Ok(registry) => return Ok(registry),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Starts one at an address of the network namespace of process `holder`, and waits until it
    /// answers here.
    pub fn start_within(holder: i32, address: SocketAddr) -> Outcome<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{holder}/ns/net"));
        command.arg(parts::tool("docker-registry")?);
        Self::attempt(command, address)
    }

    fn attempt(mut program: Command, address: SocketAddr) -> Outcome<Self> {
        let estate = Estate::new()?;
        let config = estate.home().join("registry.yml");
        fs_err::write(&config, settings(&estate, address))?;
        let log = fs_err::File::create(estate.home().join("log"))?;
        let child = program
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0))
            .process_group(0)
            .spawn()
            .context("start docker-registry")?;
        let mut registry = Self { address, child, estate };
        registry.wait_until_it_answers()?;
        Ok(registry)
    }

    fn wait_until_it_answers(&mut self) -> Outcome {
        let home = self.estate.home().to_owned();
        until("an answer from docker-registry", PATIENCE, || {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "docker-registry ended: {}", read(&home.join("log")));
            Ok(ask(self.address, "GET", "/v2/", &[], b"")
                .ok()
                .filter(|answer| answer.status == 200))
        })
        .map(drop)
    }

    /// `127.0.0.1:<port>`: what an image's name begins with.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Stores an image under `name:tag`; gives the reference to pull it by.
    pub fn push(&self, image: &Packed, name_and_tag: &str) -> Outcome<String> {
        let (name, tag) = name_and_tag.split_once(':').context("a name and a tag")?;
        image.blobs().try_for_each(|blob| self.push_blob(name, blob))?;
        for manifest in &image.manifests {
            self.push_manifest(name, &manifest.digest, manifest)?;
        }
        self.push_manifest(name, tag, &image.root)?;
        Ok(format!("{}/{name_and_tag}", self.address))
    }

    /// Stores blobs, and then manifests under their tags or digests.
    pub fn push_parts(&self, name: &str, blobs: &[Blob], manifests: &[(&str, &Blob)]) -> Outcome {
        blobs.iter().try_for_each(|blob| self.push_blob(name, blob))?;
        let mut manifests = manifests.iter();
        manifests.try_for_each(|(reference, it)| self.push_manifest(name, reference, it))
    }

    /// Fetches a manifest as it was stored.
    pub fn manifest(&self, name: &str, reference: &str) -> Outcome<Vec<u8>> {
        self.manifest_of(name, reference, OCI)
    }

    /// Fetches a document of a media type as it was stored.
    pub fn manifest_of(&self, name: &str, reference: &str, kind: &str) -> Outcome<Vec<u8>> {
        let target = format!("/v2/{name}/manifests/{reference}");
        // Without an Accept header the registry hides what a client of old would not know.
        let answer = ask(self.address, "GET", &target, &[("Accept", kind)], b"")?;
        Ok(expect(answer, 200)?.body)
    }

    /// Removes a manifest, and with it the tags that it has.
    pub fn delete_manifest(&self, name: &str, digest: &str) -> Outcome {
        let target = format!("/v2/{name}/manifests/{digest}");
        expect(ask(self.address, "DELETE", &target, &[], b"")?, 202).map(drop)
    }

    /// Two calls: the first opens an upload, the second ends it with all of the bytes
    /// (OCI distribution spec, "Pushing a blob monolithically").
    fn push_blob(&self, name: &str, blob: &Blob) -> Outcome {
        let opened = ask(self.address, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"")?;
        let opened = expect(opened, 202)?;
        let place = opened.headers.first("location").context("an upload has a location")?;
        let path = place.trim_start_matches("http://").trim_start_matches(&self.host());
        let joint = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{joint}digest={}", blob.digest);
        let octets = [("Content-Type", "application/octet-stream")];
        let done = ask(self.address, "PUT", &target, &octets, &blob.bytes)?;
        expect(done, 201).map(drop)
    }

    fn push_manifest(&self, name: &str, reference: &str, manifest: &Blob) -> Outcome {
        let target = format!("/v2/{name}/manifests/{reference}");
        let kind = [("Content-Type", manifest.media_type.as_str())];
        let done = ask(self.address, "PUT", &target, &kind, &manifest.bytes)?;
        expect(done, 201).map(drop)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

fn expect(answer: Answer, status: u16) -> Outcome<Answer> {
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == status, "the registry answered {}: {body}", answer.status);
    Ok(answer)
}

pub(crate) fn free_address() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

fn settings(estate: &Estate, address: SocketAddr) -> String {
    let storage = estate.home().join("storage");
    format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n",
        storage.display()
    )
}

fn read(path: &std::path::Path) -> String {
    fs_err::read_to_string(path).unwrap_or_default()
}
