// SPDX-License-Identifier: Apache-2.0
//! How a registry is reached, as it is said on the command line.
use std::{
    io::{BufRead as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use clap::Args;
use registry::{
    Credential, Credentials, Directories, DockerConfig, Heard, Host, Hosts, Identity, Listener,
    Options, Proxies, Registry, Scheme, Tls,
};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use types::{Context as _, Error, Result};

/// How to reach the registry.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct Access {
    /// Do not verify the registry's certificate
    #[arg(long, short = 'k')]
    skip_verify: bool,
    /// Speak plain HTTP
    #[arg(long)]
    plain_http: bool,
    /// Who we are; the password is asked for where it is not given
    #[arg(long, short, value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
    /// A refresh token for the registry's authorization server
    #[arg(long, value_name = "TOKEN", conflicts_with = "user")]
    refresh: Option<String>,
    /// The folder that says where registries are, with a hosts.toml for each
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<String>,
    /// Where Docker keeps credentials: its folder or its config.json
    #[arg(long, value_name = "PATH", conflicts_with_all = ["user", "refresh"])]
    docker_config: Option<PathBuf>,
    /// Print each request to the registry and its answer, without secrets
    #[arg(long)]
    http_dump: bool,
    /// Accepted for scripts: times are part of --http-dump
    #[arg(long, hide = true)]
    http_trace: bool,
    /// An authority to trust, in PEM
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Our certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tlskey")]
    tlscert: Option<PathBuf>,
    /// The key of our certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tlscert")]
    tlskey: Option<PathBuf>,
}

impl Access {
    /// A client of the registry.
    pub(crate) fn registry(&self) -> Result<Registry> {
        Ok(Registry::new(self.options(None)?))
    }

    /// How the registry is reached; `found` instead of where the folders say that it is.
    pub(crate) fn options(&self, found: Option<Host>) -> Result<Options> {
        let proxies = Proxies::new(|name| std::env::var(name).ok())?;
        let hosts: Hosts = match found {
            Some(host) => Arc::new(move |_| Ok(vec![host.clone()])),
            None => self.directories(None)?.hosts(),
        };
        let listener = self.is_dumped().then(|| Arc::new(dump) as Listener);
        let options = Options { hosts, proxies, listener, ..Options::default() };
        Ok(match self.credentials()? {
            Some(credentials) => Options { credentials, ..options },
            None => options,
        })
    }

    /// Where registries are: as the folder says that was given, or the one that is `usual`.
    pub(crate) fn directories(&self, usual: Option<&str>) -> Result<Directories> {
        let folder = self.hosts_dir.as_deref().or(usual).unwrap_or_default();
        Ok(Directories {
            roots: Directories::split(folder),
            default_scheme: self.plain_http.then_some(Scheme::Http),
            tls: self.tls()?,
        })
    }

    /// The folder on the daemon's side that says where registries are.
    pub(crate) fn hosts_dir(&self) -> String {
        self.hosts_dir.clone().unwrap_or_default()
    }

    /// Whether requests are printed.
    pub(crate) fn is_dumped(&self) -> bool {
        self.http_dump || self.http_trace
    }

    /// Who we are, to whoever asks the registry for us.
    pub(crate) fn credentials(&self) -> Result<Option<Arc<dyn Credentials>>> {
        if let Some(path) = &self.docker_config {
            return Ok(Some(Arc::new(DockerConfig::new(path))));
        }
        let Some(credential) = self.credential()? else { return Ok(None) };
        let credential = credential.from_source("the command line");
        Ok(Some(Arc::new(move |_: &str| Some(credential.clone()))))
    }

    /// Whether to speak plain HTTP.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain_http
    }

    /// Whether the registry can only be asked from here: a daemon trusts whom it was configured to.
    pub(crate) fn is_only_ours(&self) -> bool {
        self.skip_verify || self.tlscacert.is_some() || self.tlscert.is_some()
    }

    fn tls(&self) -> Result<Tls> {
        let authorities = self.tlscacert.iter().map(|path| read(path)).collect::<Result<_>>()?;
        let identities = match (&self.tlscert, &self.tlskey) {
            (Some(certificate), Some(key)) => {
                vec![Identity { certificate: read(certificate)?, key: read(key)? }]
            }
            _ => Vec::new(),
        };
        Ok(Tls { skip_verify: self.skip_verify, authorities, identities })
    }

    fn credential(&self) -> Result<Option<Credential>> {
        let Some(user) = &self.user else {
            return Ok(self.refresh.clone().map(Credential::identity_token));
        };
        let (name, password) = match user.split_once(':') {
            Some((name, password)) => (name, password.to_owned()),
            None => (user.as_str(), ask("Password: ").context(|| "read the password")?),
        };
        Ok(Some(Credential::new(name, password)))
    }
}

fn dump(heard: &Heard<'_>) {
    eprint!("{}", heard.dump());
}

fn read(path: &Path) -> Result<Bytes> {
    Ok(fs_err::read(path)?.into())
}

/// Reads a line that is not shown, from the terminal if there is one.
pub(crate) fn ask(question: &str) -> Result<String> {
    let input = rustix::stdio::stdin();
    let shown =
        if isatty(input) { Some(tcgetattr(input).map_err(std::io::Error::from)?) } else { None };
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(input, OptionalActions::Now, &hidden).map_err(std::io::Error::from)?;
        eprint!("{question}");
        std::io::stderr().flush()?;
    }
    let mut line = String::new();
    let outcome = std::io::stdin().lock().read_line(&mut line);
    if let Some(shown) = &shown {
        tcsetattr(input, OptionalActions::Now, shown).map_err(std::io::Error::from)?;
        eprintln!();
    }
    match outcome? {
        0 => Err(Error::invalid("nothing was entered")),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(access: &Access) -> Option<Credential> {
        access.credential().unwrap()
    }

    #[test]
    fn a_password_may_have_colons_and_a_token_has_no_name() {
        let access = Access { user: Some("alice:a:b".into()), ..Access::default() };
        assert_eq!(credential(&access), Some(Credential::new("alice", "a:b")));
        let access = Access { refresh: Some("t".into()), ..Access::default() };
        assert_eq!(credential(&access), Some(Credential::identity_token("t")));
        assert_eq!(credential(&Access::default()), None);
    }

    #[test]
    fn a_certificate_that_does_not_exist_is_named() {
        let access = Access { tlscacert: Some("/nowhere/ca.pem".into()), ..Access::default() };
        let error = access.registry().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }
}
