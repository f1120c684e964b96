// SPDX-License-Identifier: Apache-2.0
//! Registries: finding what a name means, fetching it, pushing it.
//!
//! The OCI distribution protocol, over [`content`]'s contracts: what [`Registry::fetcher`] gives goes
//! into a store, what comes out of a store goes into what [`Registry::pusher`] gives. Nothing fetched
//! has been verified, that is for whoever commits it; and nothing that identifies us is ever sent to
//! another host than the one that it is for, wherever redirects lead.
//!
//! ```text
//!  reference --resolve--> descriptor --fetch--> stream of bytes        (retry, resume, next host)
//!                         descriptor --push---> content::Ingest
//!      |                      |
//!      `-- Hosts: name -> [mirror, ..., upstream] -- auth -- transport (TLS, redirects, deadlines)
//! ```
//!
//! ```no_run
//! use content::Fetch as _;
//! use registry::{Options, Reference, Registry};
//!
//! # async fn pull() -> types::Result<()> {
//! let registry = Registry::new(Options::default());
//! let busybox: Reference = "docker.io/library/busybox:latest".parse()?;
//! let descriptor = registry.resolve(&busybox).await?;
//! let stream = registry.fetcher(&busybox)?.fetch(&descriptor, 0).await?;
//! # Ok(())
//! # }
//! ```
mod auth;
mod config;
mod fetch;
mod health;
mod heard;
mod host;
mod limits;
mod push;
mod reference;
mod referrers;
mod refusal;
mod request;
mod resolve;
mod retry;
mod source;
mod transport;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use types::{Context as _, Descriptor, Digest, Error, Result};

use crate::{
    auth::Authorizer, health::Health, limits::Limits, request::Repository, transport::Transport,
};
pub use crate::{
    auth::{Credential, Credentials, DockerConfig},
    config::{Directories, Found},
    heard::{Heard, Listener},
    host::{Capabilities, Host, Hosts, Identity, Scheme, Tls, standard},
    limits::Transfers,
    reference::Reference,
    retry::Retry,
    source::distribution_source,
    transport::Proxies,
};

/// How registries are reached. [`Options::default`] is for machines without configuration.
#[derive(Clone)]
pub struct Options {
    /// Where registries are.
    pub hosts: Hosts,
    /// Who we are.
    pub credentials: Arc<dyn Credentials>,
    /// Headers for each request to a registry. They never follow a redirect to another host.
    pub headers: HeaderMap,
    /// What we call ourselves.
    pub user_agent: HeaderValue,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often to try.
    pub retry: Retry,
    /// The proxies through which hosts are reached.
    pub proxies: Proxies,
    /// How blobs are moved.
    pub transfers: Transfers,
    /// Who hears of what passes.
    pub listener: Option<Listener>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hosts: standard(false, Tls::default()),
            credentials: Arc::new(|_: &str| None),
            headers: HeaderMap::new(),
            user_agent: HeaderValue::from_static(concat!("containerd/", env!("CARGO_PKG_VERSION"))),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            proxies: Proxies::default(),
            transfers: Transfers::default(),
            listener: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("user_agent", &self.user_agent)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .field("proxies", &self.proxies)
            .field("transfers", &self.transfers)
            .finish_non_exhaustive()
    }
}

/// How long to wait for a registry. What takes longer is `DeadlineExceeded`, or goes to the next host.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For a connection: the name looked up, TCP and TLS.
    pub connect: Duration,
    /// For a connection to a host that is not the last to ask, where its own limit is not given.
    pub detour: Duration,
    /// For the start of a reply.
    pub reply: Duration,
    /// Until the next host is asked as well for what a name stands for.
    pub hedge: Duration,
    /// For the next byte, in either direction.
    pub idle: Duration,
    /// How many bytes a second are progress, over each `idle` of waiting. What comes more slowly is
    /// as good as nothing.
    pub slowest: u64,
    /// For the reply to a finished upload, which a registry may spend hashing all of it.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            detour: Duration::from_secs(5),
            reply: Duration::from_mins(1),
            hedge: Duration::from_secs(2),
            idle: Duration::from_mins(1),
            slowest: 1 << 10,
            commit: Duration::from_mins(10),
        }
    }
}

/// A client of registries: connections, tokens and what hosts asked for are shared by all that it
/// gives out, and by its clones.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// What requests share.
struct Shared {
    options: Options,
    transport: Arc<Transport>,
    health: Arc<Health>,
    limits: Arc<Limits>,
    auth: Authorizer,
}

/// On whose behalf registries are asked: what one pull differs in from another.
#[derive(Clone)]
pub struct Behalf {
    /// Where registries are.
    pub hosts: Hosts,
    /// Who we are.
    pub credentials: Arc<dyn Credentials>,
    /// Headers for each request to a registry.
    pub headers: HeaderMap,
    /// Who hears of what passes.
    pub listener: Option<Listener>,
}

impl Registry {
    /// A client that reaches registries as `options` say. It connects to nothing yet.
    pub fn new(options: Options) -> Self {
        let transport = Transport::new(options.timeouts.clone(), options.proxies.clone());
        let limits = Limits::new(&options.transfers);
        Self::over(options, Arc::new(transport), Arc::default(), Arc::new(limits))
    }

    /// A client for somebody else. It shares connections, limits, and what is known of dead hosts
    /// with this one; but no credential, and no token.
    pub fn on_behalf(&self, behalf: Behalf) -> Self {
        let Behalf { hosts, credentials, headers, listener } = behalf;
        let Shared { options, transport, health, limits, .. } = &*self.shared;
        let options = Options { hosts, credentials, headers, listener, ..options.clone() };
        Self::over(options, Arc::clone(transport), Arc::clone(health), Arc::clone(limits))
    }

    fn over(
        options: Options,
        transport: Arc<Transport>,
        health: Arc<Health>,
        limits: Arc<Limits>,
    ) -> Self {
        let agent = [(header::USER_AGENT, options.user_agent.clone())].into_iter().collect();
        let credentials = Arc::clone(&options.credentials);
        let auth = Authorizer::new(credentials, agent, options.listener.clone());
        Self { shared: Arc::new(Shared { options, transport, health, limits, auth }) }
    }

    /// Finds out what `reference` means now.
    ///
    /// A digest in it is believed and only looked for; a tag is asked of hosts that may resolve.
    /// Errors: `NotFound`; `InvalidArgument` when the reference names no object.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor> {
        resolve::resolve(&self.repository(reference)?).await
    }

    /// Fetches from the repository of `reference`: whatever the reference's object, anything there.
    ///
    /// A stream that breaks goes on where it was, from the same host or the next.
    pub fn fetcher(&self, reference: &Reference) -> Result<Arc<dyn content::Fetch>> {
        fetch::fetcher(self.repository(reference)?)
    }

    /// Pushes to the repository of `reference`; manifests get its tag, if it has one.
    ///
    /// Blobs whose descriptor has annotations of [`distribution_source`] are taken from there. An
    /// upload that broke can be begun anew with [`content::Ingest::truncate`] to 0.
    pub fn pusher(&self, reference: &Reference) -> Result<Arc<dyn content::Push>> {
        push::pusher(self.repository(reference)?)
    }

    /// Lists what refers to `subject` in the repository of `reference`: signatures, attestations and
    /// the like, only those of `artifact_type` if one is given. None are no error.
    ///
    /// A registry that does not list them is asked for the tag under which clients do.
    /// Errors: `NotFound` when no host may be asked.
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        referrers::list(&self.repository(reference)?, subject, artifact_type).await
    }

    /// Lists what may hold signatures of `subject` in the repository of `reference`: what has cosign's
    /// tag for it, `sha256-<hex>.sig` (cosign `specs/SIGNATURE_SPEC.md`), and all that refers to it.
    pub async fn signatures(
        &self,
        reference: &Reference,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>> {
        let tag = subject.as_str().replacen(':', "-", 1);
        let tagged: Reference = format!("{}:{tag}.sig", reference.locator()).parse()?;
        let tagged = match self.resolve(&tagged).await {
            Err(error) if error.is_not_found() => None,
            tagged => Some(tagged?),
        };
        let referring = self.referrers(reference, subject, None).await?;
        Ok(tagged.into_iter().chain(referring).collect())
    }

    fn repository(&self, reference: &Reference) -> Result<Repository> {
        let hosts = (self.shared.options.hosts)(reference.host())
            .context(|| reference.host().to_owned())?;
        Ok(Repository { shared: Arc::clone(&self.shared), reference: reference.clone(), hosts })
    }
}

impl Repository {
    /// The hosts that may do something, or the error that there are none to `purpose`.
    fn hosts_for(&self, purpose: &str, may: impl Fn(&Capabilities) -> bool) -> Result<Vec<Host>> {
        let hosts: Vec<_> = self.hosts.iter().filter(|it| may(&it.capabilities)).cloned().collect();
        if hosts.is_empty() {
            return Err(Error::not_found(format!("no {purpose} hosts")));
        }
        Ok(hosts)
    }
}
