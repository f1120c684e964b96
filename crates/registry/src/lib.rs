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
mod fetch;
mod host;
mod push;
mod reference;
mod refusal;
mod request;
mod resolve;
mod retry;
mod source;
mod transport;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header};
use types::{Context as _, Descriptor, Error, Result};

use crate::{auth::Authorizer, request::Repository, transport::Transport};
pub use crate::{
    auth::{Credential, Credentials},
    host::{Capabilities, Host, Hosts, Identity, Scheme, Tls, standard},
    reference::Reference,
    retry::Retry,
    source::distribution_source,
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
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("user_agent", &self.user_agent)
            .field("timeouts", &self.timeouts)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// How long to wait for a registry. What takes longer is `DeadlineExceeded`, or goes to the next host.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For a connection: the name looked up, TCP and TLS.
    pub connect: Duration,
    /// For the start of a reply.
    pub reply: Duration,
    /// For the next byte, in either direction.
    pub idle: Duration,
    /// For the reply to a finished upload, which a registry may spend hashing all of it.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            reply: Duration::from_mins(1),
            idle: Duration::from_mins(1),
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
    transport: Transport,
    auth: Authorizer,
}

impl Registry {
    /// A client that reaches registries as `options` say. It connects to nothing yet.
    pub fn new(options: Options) -> Self {
        let agent = [(header::USER_AGENT, options.user_agent.clone())].into_iter().collect();
        let auth = Authorizer::new(Arc::clone(&options.credentials), agent);
        let transport = Transport::new(options.timeouts.clone());
        Self { shared: Arc::new(Shared { options, transport, auth }) }
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
