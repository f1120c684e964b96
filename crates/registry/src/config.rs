// SPDX-License-Identifier: Apache-2.0
//! Where registries are, as folders on this machine say: `hosts.toml`, or certificates alone.
//!
//! ```text
//!  /etc/containerd/certs.d/docker.io/hosts.toml         server, mirrors, what each may do
//!                         /r.example_5000_/hosts.toml   the same for r.example:5000
//!                         /r.example:5000/ca.crt        Docker's layout: certificates by suffix
//!                         /_default/hosts.toml          everything else
//! ```
//!
//! Everything is read anew for each operation, so that a change needs no restart
//! (containerd `docs/hosts.md`, `core/remotes/docker/config/hosts.go`).
mod file;

use std::{
    ffi::OsStr,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use types::{Error, Kind, Result};

use self::file::{Place, Section};
use crate::{
    Capabilities, Host, Hosts, Identity, Scheme, Tls,
    host::{is_loopback, loopback_scheme},
    reference::split_port,
};

/// Folders that say where registries are, and what holds for hosts that say nothing.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    /// The folders, in order: the first one that has something for a name is the one.
    pub roots: Vec<PathBuf>,
    /// How hosts without a scheme are spoken to; over TLS where nothing is said, except loopback.
    pub default_scheme: Option<Scheme>,
    /// Who hosts are trusted to be, beside what the folders say.
    pub tls: Tls,
}

/// What is known of where a registry is, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The folder that was read; none when no folder has anything for the name.
    pub folder: Option<PathBuf>,
    /// The hosts, in the order to try them.
    pub hosts: Vec<Host>,
    /// What was found wrong with the folder, each as `file:line: what`.
    pub complaints: Vec<String>,
}

impl Directories {
    /// The folders of a setting such as `/etc/containerd/certs.d:/etc/docker/certs.d`.
    pub fn split(setting: &str) -> Vec<PathBuf> {
        std::env::split_paths(setting).filter(|path| !path.as_os_str().is_empty()).collect()
    }

    /// The function from names to hosts that asks the folders each time.
    pub fn hosts(self) -> Hosts {
        Arc::new(move |name| Ok(self.find(name)?.hosts))
    }

    /// Finds out where the registry called `name` is.
    ///
    /// Errors: what names a certificate that cannot be read. Compat: a `hosts.toml` that makes no
    /// sense is as good as none, as in Go; it is complained about.
    pub fn find(&self, name: &str) -> Result<Found> {
        let folder = self.folder(name)?;
        let mut complaints = Vec::new();
        let mut sections = match &folder {
            Some(folder) => sections(folder, &mut complaints)?,
            None => Vec::new(),
        };
        if sections.is_empty() {
            sections.push(Section::default());
        }
        let hosts = sections.iter().map(|section| self.host(section, name));
        Ok(Found { hosts: hosts.collect::<Result<_>>()?, folder, complaints })
    }

    /// The folder for `name`: its own in one of the roots, or that root's `_default`.
    fn folder(&self, name: &str) -> Result<Option<PathBuf>> {
        for root in &self.roots {
            for folder in folder_names(name) {
                let path = root.join(folder);
                match fs_err::metadata(&path) {
                    Ok(_) => return Ok(Some(path)),
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(unreadable(error)),
                }
            }
        }
        Ok(None)
    }

    fn host(&self, section: &Section, name: &str) -> Result<Host> {
        let mut skip_verify = section.skip_verify;
        let place = section.place.clone().unwrap_or_else(|| {
            let (place, is_trusted) = self.upstream(name);
            skip_verify = skip_verify.or(is_trusted.then_some(true));
            place
        });
        let capabilities =
            if section.place.is_some() { section.capabilities } else { Capabilities::ALL };
        let tls = self.tls(section, skip_verify)?;
        let says_tls = self.tls != Tls::default() || section.says_tls() || skip_verify.is_some();
        let is_ambiguous = says_tls && split_port(&place.host).1 != Some("80");
        let scheme = match place.scheme {
            // Who configures TLS for a host of plain text means to prefer TLS.
            Scheme::Http if is_ambiguous => Scheme::Either,
            scheme => scheme,
        };
        Ok(Host {
            scheme,
            host: place.host,
            path: place.path,
            capabilities,
            headers: section.headers.clone(),
            tls,
            connect_timeout: section.connect_timeout,
            socket: section.socket.clone(),
        })
    }

    /// Where a registry is that nobody says anything of, and whether it need not prove who it is:
    /// loopback may speak plain text, or TLS that nobody signed.
    fn upstream(&self, name: &str) -> (Place, bool) {
        let place = |scheme, host: &str| Place { scheme, host: host.into(), path: "/v2".into() };
        match (name, self.default_scheme) {
            ("docker.io", _) => (place(Scheme::Https, "registry-1.docker.io"), false),
            (_, Some(scheme)) => (place(scheme, name), false),
            _ if is_loopback(name) => {
                (place(loopback_scheme(name), name), split_port(name).1 != Some("80"))
            }
            _ => (place(Scheme::Https, name), false),
        }
    }

    fn tls(&self, section: &Section, skip_verify: Option<bool>) -> Result<Tls> {
        let mut tls = self.tls.clone();
        tls.skip_verify = skip_verify.unwrap_or(tls.skip_verify);
        for path in &section.authorities {
            tls.authorities.push(read(path, "unable to read CA cert")?);
        }
        for (certificate, key) in &section.identities {
            let what = "unable to read CERT file";
            let certificate = read(certificate, what)?;
            let key = key.as_ref().map_or(Ok(certificate.clone()), |path| read(path, what))?;
            tls.identities.push(Identity { certificate, key });
        }
        Ok(tls)
    }
}

/// The folders for a name, best first (containerd `core/remotes/docker/config/config_unix.go`).
/// Where files may not have colons in their names, the port stands between underscores.
fn folder_names(name: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let (host, Some(port)) = split_port(name) {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([name.to_owned(), "_default".to_owned()]);
    names
}

fn sections(folder: &Path, complaints: &mut Vec<String>) -> Result<Vec<Section>> {
    let path = folder.join("hosts.toml");
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_absent(&error) => String::new(),
        Err(error) => return Err(unreadable(error)),
    };
    if text.is_empty() {
        return certificates(folder).map(|section| vec![section]);
    }
    match file::parse(&text, &path, complaints) {
        Ok(sections) => Ok(sections),
        Err(error) => {
            tracing::error!(%error, "failed to decode hosts.toml: it is left out");
            complaints.push(error.to_string());
            certificates(folder).map(|section| vec![section])
        }
    }
}

/// Docker's layout: `*.crt` are authorities, `*.cert` are certificates of ours, whose keys are in
/// `*.key` or with them.
fn certificates(folder: &Path) -> Result<Section> {
    let mut section = Section::default();
    let entries = fs_err::read_dir(folder).map_err(unreadable)?;
    let entries: Result<Vec<_>, _> = entries.collect();
    let mut paths: Vec<_> =
        entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.into_iter().filter(|path| !path.is_dir()) {
        match path.extension().and_then(OsStr::to_str) {
            Some("crt") => section.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let key = key.exists().then_some(key);
                section.identities.push((path, key));
            }
            _ => {}
        }
    }
    Ok(section)
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::caused(Kind::Unknown, "registry hosts", error)
}

fn read(path: &Path, what: &str) -> Result<Bytes> {
    let error = |error| Error::caused(Kind::Unknown, format!("{what} {:?}", path.display()), error);
    fs_err::read(path).map(Bytes::from).map_err(error)
}

#[cfg(test)]
mod tests;
