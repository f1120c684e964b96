// SPDX-License-Identifier: Apache-2.0
//! The parts of a daemon, by what they are and by name: built when first asked for.
//!
//! A part is registered as a contract (`dyn Snapshotter`) under a name (`overlayfs`), and is asked
//! for in the same words. The strings of containerd's plugin types are for people, config sections
//! and `ctr plugins ls`; nothing is dispatched by them.
use std::{
    any::{Any, TypeId, type_name},
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use services::introspection::Plugin;
use types::{Error, Kind, Platform, Result};

use crate::Config;

type Key = (TypeId, &'static str);
type Built = Result<Box<dyn Any + Send + Sync>, (Kind, String)>;
type Make = Box<dyn Fn(&Part<'_>) -> Result<Box<dyn Any + Send + Sync>> + Send + Sync>;

/// The parts of a daemon.
pub struct Registry {
    config: Config,
    entries: Vec<Entry>,
    built: Mutex<BTreeMap<Key, Built>>,
    /// What is being built right now, outermost first: a part that is asked for while it is being
    /// built needs itself.
    building: Mutex<Vec<String>>,
}

struct Entry {
    key: Key,
    kind: &'static str,
    make: Make,
    facts: Mutex<Facts>,
}

/// What a part tells about itself.
#[derive(Clone, Default)]
struct Facts {
    exports: BTreeMap<String, String>,
    capabilities: Vec<String>,
    features: Vec<String>,
}

/// What the constructor of a part may use.
pub struct Part<'a> {
    registry: &'a Registry,
    kind: &'static str,
    id: &'static str,
    facts: &'a Mutex<Facts>,
}

impl Part<'_> {
    /// The daemon's config.
    pub fn config(&self) -> &Config {
        &self.registry.config
    }

    /// What this part is told in the config.
    pub fn section<T: Default + for<'de> Deserialize<'de>>(&self) -> Result<T> {
        self.registry.config.section(&self.uri())
    }

    /// The part's own directory below the daemon's root, which it makes if it needs it.
    pub fn root(&self) -> PathBuf {
        let root = self.registry.config.root.join(self.uri());
        self.export("root", root.display().to_string());
        root
    }

    /// The directory that the config gives this part in place of its own.
    pub fn root_at(&self, path: &str) -> PathBuf {
        self.export("root", path);
        PathBuf::from(path)
    }

    /// Tells `value` to whoever inspects the daemon.
    pub fn export(&self, name: &str, value: impl Into<String>) {
        lock(self.facts).exports.insert(name.to_owned(), value.into());
    }

    /// Tells what the part can do to whoever inspects the daemon.
    pub fn capabilities(&self, names: impl IntoIterator<Item = impl Into<String>>) {
        lock(self.facts).capabilities = names.into_iter().map(Into::into).collect();
    }

    /// Tells which features of an operating system images may ask for because of this part.
    pub fn os_features(&self, names: impl IntoIterator<Item = impl Into<String>>) {
        lock(self.facts).features = names.into_iter().map(Into::into).collect();
    }

    /// Another part, built now if it is not there yet.
    pub fn need<T: ?Sized + Send + Sync + 'static>(&self, id: &str) -> Result<Arc<T>> {
        self.registry.get(id)
    }

    /// The other parts of a sort that could be built, by name.
    pub fn need_all<T: ?Sized + Send + Sync + 'static>(&self) -> BTreeMap<String, Arc<T>> {
        self.registry.all()
    }

    fn uri(&self) -> String {
        format!("{}.{}", self.kind, self.id)
    }
}

impl Registry {
    /// A registry without parts.
    pub fn new(config: Config) -> Self {
        Self { config, entries: Vec::new(), built: Mutex::default(), building: Mutex::default() }
    }

    /// The daemon's config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds a part of containerd's plugin type `kind`, in place of one that is the same contract
    /// under the same name.
    pub fn add<T: ?Sized + Send + Sync + 'static>(
        &mut self,
        kind: &'static str,
        id: &'static str,
        make: impl Fn(&Part<'_>) -> Result<Arc<T>> + Send + Sync + 'static,
    ) {
        let key = (TypeId::of::<T>(), id);
        self.entries.retain(|entry| entry.key != key);
        let make: Make = Box::new(move |part| {
            make(part).map(|made| Box::new(made) as Box<dyn Any + Send + Sync>)
        });
        self.entries.push(Entry { key, kind, make, facts: Mutex::default() });
    }

    /// The part that is the contract `T` under the name `id`.
    ///
    /// Errors: `NotFound` when there is none; `Unimplemented` when the config disables it; what its
    /// constructor said when it could not be built.
    pub fn get<T: ?Sized + Send + Sync + 'static>(&self, id: &str) -> Result<Arc<T>> {
        let wanted = TypeId::of::<T>();
        let entry = self.entries.iter().find(|it| it.key.0 == wanted && it.key.1 == id);
        let entry =
            entry.ok_or_else(|| Error::not_found(format!("{} loaded: {id}", type_name::<T>())))?;
        self.build(entry)?;
        match lock(&self.built).get(&entry.key) {
            Some(Ok(part)) => Ok(part
                .downcast_ref::<Arc<T>>()
                .expect("a part is kept under the type that it was made as")
                .clone()),
            Some(Err((kind, message))) => Err(Error::said(*kind, message.clone())),
            None => Err(Error::internal(format!("plugin {}.{id}", entry.kind))),
        }
    }

    /// All parts that are the contract `T` and could be built, by name.
    pub fn all<T: ?Sized + Send + Sync + 'static>(&self) -> BTreeMap<String, Arc<T>> {
        let wanted = self.entries.iter().filter(|entry| entry.key.0 == TypeId::of::<T>());
        wanted.filter_map(|it| Some((it.key.1.to_owned(), self.get(it.key.1).ok()?))).collect()
    }

    /// Builds every part that is not there yet, and describes them all.
    pub fn inspect(&self) -> Vec<Plugin> {
        let mut plugins: Vec<_> = self.entries.iter().map(|entry| self.describe(entry)).collect();
        plugins.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
        plugins
    }

    fn describe(&self, entry: &Entry) -> Plugin {
        let fault = self.build(entry).err().map(|e| (e.kind(), e.to_string()));
        let fault = fault.or_else(|| match lock(&self.built).get(&entry.key) {
            Some(Err(fault)) => Some(fault.clone()),
            _ => None,
        });
        let Facts { exports, capabilities, features } = lock(&entry.facts).clone();
        Plugin {
            kind: entry.kind.to_owned(),
            id: entry.key.1.to_owned(),
            platforms: platforms(&features),
            exports,
            capabilities,
            fault,
            ..Plugin::default()
        }
    }

    fn build(&self, entry: &Entry) -> Result<()> {
        if lock(&self.built).contains_key(&entry.key) {
            return Ok(());
        }
        let uri = format!("{}.{}", entry.kind, entry.key.1);
        self.enter(&uri)?;
        let built = self.make(entry, &uri);
        lock(&self.building).pop();
        if let Err((kind, message)) = &built {
            tracing::warn!(plugin = uri, ?kind, "failed to load plugin: {message}");
        }
        lock(&self.built).insert(entry.key, built);
        Ok(())
    }

    fn make(&self, entry: &Entry, uri: &str) -> Built {
        if self.config.is_disabled(uri) {
            return Err((Kind::Unimplemented, format!("{uri} is disabled by the config")));
        }
        let part = Part { registry: self, kind: entry.kind, id: entry.key.1, facts: &entry.facts };
        (entry.make)(&part).map_err(|error| (error.kind(), error.to_string()))
    }

    fn enter(&self, uri: &str) -> Result<()> {
        let mut building = lock(&self.building);
        if building.iter().any(|outer| outer == uri) {
            let circle = [building.as_slice(), &[uri.to_owned()]].concat().join(" -> ");
            return Err(Error::internal(format!("plugins need each other: {circle}")));
        }
        building.push(uri.to_owned());
        Ok(())
    }

    /// The names of all parts, as config sections are named.
    pub(crate) fn uris(&self) -> impl Iterator<Item = String> {
        self.entries.iter().map(|entry| format!("{}.{}", entry.kind, entry.key.1))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This machine, and this machine with each of `features`.
fn platforms(features: &[String]) -> Vec<Platform> {
    let able = features.iter().map(|feature| Platform::host().with_feature(feature));
    std::iter::once(Platform::host()).chain(able).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    trait Word: Send + Sync {
        fn say(&self) -> String;
    }

    impl Word for String {
        fn say(&self) -> String {
            self.clone()
        }
    }

    fn word(text: impl Into<String>) -> Arc<dyn Word> {
        Arc::new(text.into())
    }

    fn registry(config: Config) -> Registry {
        let mut registry = Registry::new(config);
        registry.add::<dyn Word>("k.v1", "inner", |_| Ok(word("inner")));
        registry.add::<dyn Word>("k.v1", "outer", |part| {
            part.capabilities(["speak"]);
            part.os_features(["tongue"]);
            Ok(word(format!("outer({})", part.need::<dyn Word>("inner")?.say())))
        });
        registry
    }

    #[test]
    fn a_part_is_built_with_what_it_needs() {
        let registry = registry(Config::default());
        assert_eq!(registry.get::<dyn Word>("outer").unwrap().say(), "outer(inner)");
        assert_eq!(registry.all::<dyn Word>().len(), 2);
        assert!(registry.get::<dyn Word>("none").err().unwrap().is_not_found());
        let outer = registry.inspect().swap_remove(1);
        assert_eq!(outer.capabilities, ["speak"]);
        let able = Platform::host().with_feature("tongue");
        assert_eq!(outer.platforms, [Platform::host(), able]);
    }

    #[test]
    fn parts_that_need_each_other_are_reported() {
        let mut registry = registry(Config::default());
        registry.add::<dyn Word>("k.v1", "inner", |part| part.need::<dyn Word>("outer"));
        let error = registry.get::<dyn Word>("outer").err().unwrap();
        assert_eq!(
            error.to_string(),
            "plugins need each other: k.v1.outer -> k.v1.inner -> k.v1.outer: internal"
        );
    }

    #[test]
    fn a_disabled_part_is_listed_as_skipped() {
        let disabled = vec!["k.v1.inner".to_owned()];
        let registry = registry(Config { disabled, ..Config::default() });
        let plugins = registry.inspect();
        let kinds: Vec<_> = plugins.iter().map(|it| it.fault.as_ref().map(|f| f.0)).collect();
        assert_eq!(kinds, [Some(Kind::Unimplemented), Some(Kind::Unimplemented)]);
    }
}
