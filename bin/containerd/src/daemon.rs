// SPDX-License-Identifier: Apache-2.0
//! A daemon from its parts to its last answer.
//!
//! ```text
//! claim root --> parts --> metadata --> shims (found in the background) --> listen --> serve
//!                                                               signal --> answer what is open --> end
//! ```
use std::{
    future::Future,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use client::{Client, KeptCheckpoints, Under};
use content::Store;
use diff::{Differ, Processor};
use events::{Bus, Exchange};
use images::Flights;
use metadata::{Backends, Collector, Db, Options, Scoped, Sharing};
use mount::Activator;
use runtime::{Shims, Tasks};
use serde::Deserialize;
use services::{introspection::Plugin, metrics::Calls, transfer::Registries};
use snapshots::Snapshotter;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use types::{Context, Error, Platform, Result, Scope};

use crate::{
    Config, deprecations,
    differs::Differs,
    distribution, files,
    identity::{claim, identity},
    listeners::{listen, listen_tcp},
    metrics, notify,
    plugins::{self, kinds},
    proxies::Proxies,
    registry::{Part, Registry},
    rest, restarts, rim,
    sandboxes::Sandboxers,
    state_dump,
    store::{
        self, Overview, Places,
        rebuild::{self, Rebuilt},
    },
    trusted::Trust,
};

/// How long requests that are under way may take once the daemon is told to end.
const GRACE: Duration = Duration::from_secs(1);

/// A daemon that has not started yet.
pub struct Daemon {
    registry: Registry,
}

/// The parts of a daemon that serves.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) shims: Arc<Shims>,
    pub(crate) differs: Arc<Differs>,
    pub(crate) sandboxers: Arc<Sandboxers>,
    pub(crate) proxies: Arc<Proxies>,
    /// What is being unpacked, by whomever it was asked for.
    pub(crate) flights: Flights,
    /// How registries are reached.
    pub(crate) registries: Registries,
    /// Which images are taken.
    pub(crate) trust: Arc<Trust>,
}

impl Daemon {
    /// A daemon of the default parts.
    pub fn new(config: Config) -> Self {
        let mut registry = Registry::new(config);
        plugins::add_defaults(&mut registry);
        Self { registry }
    }

    /// The same daemon with another part, or with one in place of a default of the same name.
    pub fn with<T: ?Sized + Send + Sync + 'static>(
        mut self,
        kind: &'static str,
        id: &'static str,
        make: impl Fn(&Part<'_>) -> Result<Arc<T>> + Send + Sync + 'static,
    ) -> Self {
        self.registry.add(kind, id, make);
        self
    }

    /// Serves until `shutdown`.
    ///
    /// Errors: `AlreadyExists` when another daemon has the root or a socket; what a part said that
    /// there is no doing without.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let config = self.registry.config();
        make_directory(&config.root)?;
        make_directory(&config.state)?;
        let _claim = claim(&config.root)?;
        set_oom_score(config.oom_score);
        join_cgroup(&config.cgroup)?;
        self.warn_of_unknown_plugins();
        let parts = self.parts().await?;
        self.refuse_without_required(&parts)?;
        let collector = self.collector(&parts.db)?;
        let background = self.background(&parts)?;
        let outcome = self.serve(&parts, shutdown).await;
        drop(background);
        collector.stop().await;
        outcome
    }

    /// What goes on beside requests. It ends when the set is dropped.
    fn background(&self, parts: &Parts) -> Result<JoinSet<()>> {
        let mut background = JoinSet::new();
        let sandboxers = parts.sandboxers.clone();
        background.spawn(async move {
            if let Err(error) = sandboxers.follow().await {
                tracing::warn!(%error, "failed to follow the sandboxes that were there before");
            }
        });
        let config = self.registry.config();
        background.spawn(rebuild::copies(parts.db.clone(), store::database(&config.root)));
        if !config.is_disabled(restarts::SECTION) {
            let section: restarts::Section = config.section(restarts::SECTION)?;
            background.spawn(restarts::monitor(parts.clone(), section.interval()?));
        }
        Ok(background)
    }

    /// Refuses to start without what the config says is needed (the text is that of containerd
    /// `cmd/containerd/server/server.go`).
    fn refuse_without_required(&self, parts: &Parts) -> Result<()> {
        let plugins = self.inspect(parts);
        let is_there = |uri: &str| {
            let found = plugins.iter().find(|it| format!("{}.{}", it.kind, it.id) == uri);
            found.is_some_and(|plugin| plugin.fault.is_none())
        };
        let required = &self.registry.config().required;
        let missing: Vec<_> = required.iter().filter(|uri| !is_there(uri)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("required plugins [{}] not included", missing.join(" "));
        Err(Error::failed_precondition(what))
    }

    /// Makes the metadata anew, without serving. No other daemon may have the root.
    pub async fn rebuild(self) -> Result<Rebuilt> {
        let config = self.registry.config();
        let _claim = claim(&config.root)?;
        let path = store::database(&config.root);
        rebuild::ask(&path)?;
        let backends = self.backends(&Proxies::open(config)?)?;
        let options = Options { sharing: self.sharing()?, ..Options::default() };
        let (_db, rebuilt) = rebuild::open(&path, backends, options).await?;
        rebuilt.ok_or_else(|| Error::internal("the metadata was not made anew"))
    }

    fn backends(&self, proxies: &Proxies) -> Result<Backends> {
        let content = match self.registry.get::<dyn Store>("content") {
            // Whoever keeps content elsewhere disables the daemon's own.
            Err(error) => proxies.content.clone().ok_or(error)?,
            content => content?,
        };
        let mut snapshotters = self.registry.all::<dyn Snapshotter>();
        snapshotters.extend(proxies.snapshotters.clone());
        Ok(Backends { content, snapshotters })
    }

    async fn parts(&self) -> Result<Parts> {
        let config = self.registry.config();
        let exchange = self.registry.get::<Exchange>("exchange")?;
        let proxies = Arc::new(Proxies::open(config)?);
        let backends = self.backends(&proxies)?;
        let publisher = Some(exchange.clone() as _);
        // Where Go's containerd has it (`plugins/metadata/plugin.go`).
        let take_over = Some(config.root.join(format!("{}.bolt", kinds::METADATA)).join("meta.db"));
        let options =
            Options { sharing: self.sharing()?, publisher, take_over, ..Options::default() };
        let path = store::database(&config.root);
        let opening = rebuild::open(&path, backends, options);
        let (db, _rebuilt) = within(config.open_timeout, opening).await.context(|| "metadata")?;
        self.manage_mounts(&db).await;
        let shims = Shims::open(self.shims()?, exchange.clone())?;
        let scratch = if config.temp.as_os_str().is_empty() { &config.state } else { &config.temp };
        let scratch = scratch.join(format!("{}.walking", kinds::DIFFER));
        empty_directory(&scratch)?;
        let differs = Arc::new(Differs::read(config, &proxies, processors(config), scratch)?);
        let remote = proxies.sandboxers.clone();
        let sandboxers = Sandboxers::open(config, &db, &exchange, &shims, remote)?;
        let flights = Flights::default();
        let mut registries = distribution::registries(config)?;
        registries.unpacks.remote = plugins::bringing_layers(config, &proxies)?;
        let trust = Arc::new(Trust::read(config, registries.clone())?);
        Ok(Parts { db, exchange, shims, differs, sandboxers, proxies, flights, registries, trust })
    }

    /// Mounts that were left are taken away before anything else can ask for them. What goes wrong
    /// here is no reason not to serve the rest.
    async fn manage_mounts(&self, db: &Db) {
        let (config, uri) = (self.registry.config(), plugins::MOUNT_MANAGER);
        if config.is_disabled(uri) {
            return;
        }
        let handlers = self.registry.all::<dyn mount::Handler>();
        let targets = config.state.join(uri).join("t");
        let managed = match Activator::open(targets, [config.root.clone()], handlers) {
            Ok(activator) => db.manage_mounts(Arc::new(activator)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = managed {
            tracing::error!(%error, "mounts that were left behind could not be taken away");
        }
    }

    /// The metadata's policy keeps the name of Go's section.
    fn sharing(&self) -> Result<Sharing> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Section {
            content_sharing_policy: String,
        }
        let uri = format!("{}.bolt", kinds::METADATA);
        let section: Section = self.registry.config().section(&uri)?;
        match section.content_sharing_policy.as_str() {
            "" | "shared" => Ok(Sharing::Shared),
            "isolated" => Ok(Sharing::Isolated),
            other => Err(Error::invalid(format!("unknown content sharing policy: {other}"))),
        }
    }

    fn shims(&self) -> Result<runtime::Config> {
        let config = self.registry.config();
        let program = std::env::current_exe().context(|| "the daemon's own program")?;
        let directory = format!("{}.task", kinds::RUNTIME);
        let section: ShimSection = config.section(&format!("{}.manager", kinds::SHIM))?;
        Ok(runtime::Config {
            root: config.root.join(&directory),
            state: config.state.join(&directory),
            address: config.grpc.address.clone(),
            ttrpc_address: config.ttrpc_address(),
            beside: program.parent().map(Path::to_owned),
            publish_binary: program,
            debug: matches!(config.level.as_str(), "debug" | "trace"),
            version: crate::VERSION.to_owned(),
            boot_id: boot_id()?,
            env: section.env,
            grpc: Some(services::shims::grpc()),
            timeouts: config.timeouts,
        })
    }

    fn collector(&self, db: &Db) -> Result<Collector> {
        let uri = format!("{}.scheduler", kinds::GC);
        let section: crate::schedule::Section = self.registry.config().section(&uri)?;
        Ok(Collector::start(db.clone(), section.schedule()?))
    }

    async fn serve(&self, parts: &Parts, shutdown: impl Future<Output = ()>) -> Result<()> {
        let config = self.registry.config();
        // It ends a daemon that does not listen to it, so that comes before anybody is answered.
        let _dumping = state_dump::on_signal(config.state.clone());
        let grpc = listen(&config.grpc.address, &config.grpc).await?;
        let ttrpc = listen(&config.ttrpc_address(), &config.ttrpc).await?;
        let _files = files::hand_out(config, parts.db.clone()).await;
        let end = CancellationToken::new();
        let mut identity = identity(&config.root)?;
        identity.deprecations = deprecations::of(config);
        for warning in &identity.deprecations {
            tracing::warn!("{}: {}", warning.id, warning.message);
        }
        let address = PathBuf::from(&config.grpc.address);
        let (root, state) = (config.root.clone(), config.state.clone());
        let places = Places { root, state, address };
        let store = Arc::new(Overview::new(parts.db.clone(), places));
        let mut rim =
            rim::grpc(parts, identity, self.inspect(parts).into(), store, config.grpc.limits);
        if let Some(listener) = metrics::listen(&config.metrics).await? {
            let source = Arc::new(self.metrics(parts)?);
            rim = rim.counted_by(source.calls.clone());
            tokio::spawn(metrics::serve(listener, source, end.clone()));
        }
        let mut also = JoinSet::new();
        if !config.tcp.address.is_empty() {
            let tcp = listen_tcp(&config.tcp).await?;
            also.spawn(rim.clone().serve_tcp(tcp, end.clone().cancelled_owned()));
        }
        let mut grpc = tokio::spawn(rim.serve(grpc, end.clone().cancelled_owned()));
        let shims = rim::ttrpc(parts);
        let ttrpc_end = end.clone().cancelled_owned();
        let mut ttrpc = tokio::spawn(async move { shims.serve(ttrpc, ttrpc_end).await });
        tracing::info!(address = config.grpc.address, "containerd successfully booted");
        notify::send(notify::READY);
        tokio::select! {
            () = shutdown => {}
            never = rest::give_back_when_idle() => match never {},
            ended = &mut grpc => return Err(broken("gRPC", ended.map(Result::err))),
            Some(ended) = also.join_next() => {
                return Err(broken("gRPC over TCP", ended.map(Result::err)));
            }
            ended = &mut ttrpc => {
                let ended = ended.map(|served| served.err().map(Error::from));
                return Err(broken("ttrpc", ended));
            }
        }
        notify::send(notify::STOPPING);
        tracing::info!("containerd is ending");
        end.cancel();
        let both = async { drop(tokio::join!(&mut grpc, &mut ttrpc)) };
        if tokio::time::timeout(GRACE, both).await.is_err() {
            // Streams that clients keep open have no end of their own.
            grpc.abort();
            ttrpc.abort();
        }
        Ok(())
    }

    fn metrics(&self, parts: &Parts) -> Result<metrics::Source> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Section {
            no_prometheus: bool,
        }
        let config = self.registry.config();
        let section: Section = config.section(&format!("{}.cgroups", kinds::MONITOR))?;
        let calls = Arc::new(Calls::new(config.grpc_histogram));
        Ok(metrics::Source { shims: parts.shims.clone(), tasks: !section.no_prometheus, calls })
    }

    /// All parts, those that are built by name and those that are always there.
    fn inspect(&self, parts: &Parts) -> Vec<Plugin> {
        let config = self.registry.config();
        let fixed = plugins::FIXED.iter().map(|&(kind, id)| Plugin {
            kind: kind.to_owned(),
            id: id.to_owned(),
            platforms: vec![Platform::host()],
            exports: [("root".to_owned(), config.root.join(format!("{kind}.{id}")))]
                .into_iter()
                .filter(|_| kind == kinds::METADATA)
                .map(|(name, path)| (name, path.display().to_string()))
                .collect(),
            ..Plugin::default()
        });
        let fixed = fixed.map(|plugin| self.as_configured(plugin));
        let proxies = parts.proxies.plugins.iter().cloned();
        let own = self.registry.inspect().into_iter();
        let mut plugins: Vec<_> = own.chain(fixed).chain(proxies).collect();
        plugins.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
        plugins
    }

    /// A part that is always there, with what it can do, unless the config disables it.
    fn as_configured(&self, mut plugin: Plugin) -> Plugin {
        let uri = format!("{}.{}", plugin.kind, plugin.id);
        if uri == files::SECTION {
            files::describe(&mut plugin, self.registry.config());
        }
        if uri == restarts::SECTION {
            let policies = client::RESTART_POLICIES.iter().map(|&name| name.to_owned());
            plugin.capabilities = policies.collect();
            if self.registry.config().is_disabled(&uri) {
                let what = format!("{uri} is disabled by the config");
                plugin.fault = Some((types::Kind::Unimplemented, what));
            }
        }
        plugin
    }

    fn warn_of_unknown_plugins(&self) {
        let config = self.registry.config();
        let fixed = plugins::FIXED.iter().map(|(kind, id)| format!("{kind}.{id}"));
        let known: Vec<String> = self.registry.uris().chain(fixed).collect();
        for name in config.plugins.keys().chain(&config.disabled) {
            if !known.contains(name) {
                tracing::warn!("unknown plugin in config: {name}");
            }
        }
    }
}

/// What the config may tell shims (containerd `core/runtime/v2/shim_manager.go`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShimSection {
    env: Vec<String>,
}

/// Which boot of the machine this is: the kernel draws a new id each time.
fn boot_id() -> Result<String> {
    Ok(fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Parts {
    /// The daemon's own parts on behalf of `scope`, for the flows that run inside it.
    pub(crate) fn client(&self, scope: &Scope) -> Client {
        let scoped = self.db.scope(scope.clone());
        let under = scope.lease().is_none().then(|| {
            let (parts, scope) = (self.clone(), scope.clone());
            Arc::new(move |lease: &str| Ok(parts.client(&scope.clone().with_lease(lease))))
                as Arc<Under>
        });
        Client {
            content: scoped.content(),
            snapshotters: {
                let scoped = scoped.clone();
                Arc::new(move |name| snapshotter(&scoped, name))
            },
            differ: self.differ(&scoped),
            images: self.trust.images(&self.db, scope),
            containers: self.trust.containers(&self.db, scope),
            leases: scoped.leases(),
            namespaces: self.db.namespaces(),
            mounts: scoped.mounts(),
            tasks: self.tasks(scope, &scoped),
            events: self.exchange.clone() as Arc<dyn Bus>,
            under,
            flights: self.flights.clone(),
        }
    }

    /// The tasks of a scope, whose checkpoints are content that it may see.
    pub(crate) fn tasks(&self, scope: &Scope, scoped: &Scoped) -> Arc<dyn Tasks> {
        let checkpoints = Arc::new(KeptCheckpoints::new(scoped.content()));
        self.shims.tasks(scope, scoped.containers(), scoped.mounts(), checkpoints)
    }

    /// Layers over the content that a scope may see.
    pub(crate) fn differ(&self, scoped: &Scoped) -> Arc<dyn Differ> {
        self.differs.of(scoped)
    }
}

pub(crate) fn snapshotter(scoped: &Scoped, name: &str) -> Result<Arc<dyn Snapshotter>> {
    if name.is_empty() {
        return Err(Error::invalid("snapshotter argument missing"));
    }
    // Compat: Go answers InvalidArgument (containerd `plugins/services/snapshots/service.go`).
    let missing = || Error::invalid(format!("snapshotter not loaded: {name}"));
    scoped.snapshotter(name).ok_or_else(missing)
}

fn make_directory(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.context(|| format!("create {}", path.display()))
}

/// Makes a directory, or takes away what a daemon that went down left mounted and lying there.
fn empty_directory(path: &Path) -> Result<()> {
    make_directory(path)?;
    for entry in fs_err::read_dir(path)?.flatten() {
        mount::unmount_recursive(&entry.path(), mount::UnmountFlags::DETACH)?;
        fs_err::remove_dir(entry.path())?;
    }
    Ok(())
}

/// Waits for what is being opened, for as long as that may take; zero is for ever.
async fn within<T>(limit: Duration, opening: impl Future<Output = Result<T>>) -> Result<T> {
    if limit.is_zero() {
        return opening.await;
    }
    tokio::time::timeout(limit, opening)
        .await
        .unwrap_or_else(|_| Err(Error::deadline("timeout waiting for the database")))
}

/// What is not permitted is not done: containers go before the daemon either way.
fn set_oom_score(score: i32) {
    if score == 0 {
        return;
    }
    if let Err(error) = sys::oom_score::set(std::process::id(), score) {
        tracing::warn!(%error, score, "failed to set the daemon's OOM score");
    }
}

/// Programs that turn layers into others, in the differ's words.
fn processors(config: &Config) -> Vec<Processor> {
    let of = |(id, it): (&String, &crate::config::Processor)| Processor {
        id: id.clone(),
        accepts: it.accepts.clone(),
        returns: it.returns.clone(),
        path: it.path.clone(),
        args: it.args.clone(),
        env: it.env.clone(),
        patience: None,
    };
    config.processors.iter().map(of).collect()
}

/// Puts the daemon into a control group of its own, in every hierarchy that has one.
fn join_cgroup(path: &str) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let joined = cgroups::Cgroup::create(path).and_then(|it| it.add(std::process::id()));
    joined.context(|| format!("join control group {path}"))
}

fn broken(what: &str, ended: Result<Option<Error>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Some(error)) => error.context(format!("{what} server")),
        Ok(None) => Error::internal(format!("{what} server ended")),
        Err(error) => Error::internal(format!("{what} server: {error}")),
    }
}
