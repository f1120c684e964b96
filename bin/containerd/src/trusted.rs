// SPDX-License-Identifier: Apache-2.0
//! Which images the daemon takes, and which containers of them.
//!
//! ```text
//! pull ------> verifier programs --> policy, by the source's name and the new one
//! any way an image gets a name ----> policy, by the name and what it stands for
//! a container of an image ---------> the same again, as things are now
//! ```
//!
//! Pull, import, tag and the raw API all keep images through [`Images`], so there is no way around it.
//! Signatures that a pull has found are kept beside the image, and are all that is asked later.
mod found;
mod records;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ::records::{Container, Image, Records};
use ::registry::{Behalf, Directories, Reference, Registry};
use async_trait::async_trait;
use metadata::{Db, Scoped};
use serde::Deserialize;
use services::transfer::{Gate, Registries, Resolved};
use trust::{Action, Evidence, Policy, PolicyFile, Programs};
use types::{Context as _, Digest, Error, Result, Scope};

use crate::{Config, config::duration};
use found::Found;

/// The section of the policy.
pub(crate) const POLICY: &str = "io.containerd.trust.v1.policy";
/// The section of verifier programs.
pub(crate) const PROGRAMS: &str = "io.containerd.image-verifier.v1.bindir";
/// How long a registry may take to tell what signatures there are of an image that came another way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Decides on images.
pub(crate) struct Trust {
    policy: Option<Arc<PolicyFile>>,
    programs: Option<Programs>,
    registries: Registries,
    found: Found,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PolicySection {
    path: PathBuf,
}

/// As in containerd `plugins/imageverifier/plugin.go`.
#[derive(Deserialize)]
#[serde(default)]
struct ProgramsSection {
    bin_dir: PathBuf,
    max_verifiers: i64,
    per_verifier_timeout: String,
}

impl Default for ProgramsSection {
    fn default() -> Self {
        Self {
            bin_dir: "/opt/containerd/image-verifier/bin".into(),
            max_verifiers: 10,
            per_verifier_timeout: "10s".into(),
        }
    }
}

impl Trust {
    /// What the config says of trust.
    ///
    /// Errors: whatever is wrong with the policy, so that a daemon does not start without the one that
    /// it was given.
    pub(crate) fn read(config: &Config, registries: Registries) -> Result<Self> {
        let PolicySection { path } = config.section(POLICY)?;
        let is_wanted = !path.as_os_str().is_empty() && !config.is_disabled(POLICY);
        let policy = is_wanted.then(|| Arc::new(PolicyFile::new(path)));
        if let Some(policy) = &policy {
            policy.current()?;
        }
        let section: ProgramsSection = config.section(PROGRAMS)?;
        let programs = (!config.is_disabled(PROGRAMS)).then(|| section.programs()).transpose()?;
        Ok(Self { policy, programs, registries, found: Found::default() })
    }

    /// The images of a scope, as clients may change them.
    pub(crate) fn images(self: &Arc<Self>, db: &Db, scope: &Scope) -> Arc<dyn Records<Image>> {
        let inner = db.scope(scope.clone()).images();
        match self.policy {
            None => inner,
            Some(_) => Arc::new(records::Images { inner, judge: self.judge(db, scope) }),
        }
    }

    /// The containers of a scope, as clients may change them.
    pub(crate) fn containers(
        self: &Arc<Self>,
        db: &Db,
        scope: &Scope,
    ) -> Arc<dyn Records<Container>> {
        let inner = db.scope(scope.clone()).containers();
        match self.policy {
            None => inner,
            Some(_) => Arc::new(records::Containers { inner, judge: self.judge(db, scope) }),
        }
    }

    fn judge(self: &Arc<Self>, db: &Db, scope: &Scope) -> Judge {
        Judge { trust: Arc::clone(self), db: db.clone(), scope: scope.clone() }
    }

    /// The policy as it is now, if there is one.
    async fn policy(&self) -> Result<Option<Arc<Policy>>> {
        let Some(file) = self.policy.clone() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || file.current()).await;
        let read = read.map_err(|e| Error::caused(types::Kind::Internal, "policy", e))?;
        // Compat: none. What the policy says is not known, so nothing is taken.
        read.map(Some).map_err(|error| error.with_kind(types::Kind::FailedPrecondition))
    }

    async fn ask_programs(&self, image: &Resolved<'_>) -> Result<()> {
        let Some(programs) = &self.programs else { return Ok(()) };
        let (name, digest) = (image.source, &image.target.digest);
        // The texts are those of containerd `core/transfer/local/pull.go`.
        let judged = programs.judge(name, image.target).await.context(|| {
            format!(
                "blocking pull of {name} with digest {digest}: image verifier bindir returned error"
            )
        })?;
        if judged.is_accepted {
            return Ok(());
        }
        let reason = judged.reason;
        let what = format!(
            "image verifier bindir blocked pull of {name} with digest {digest} for reason: {reason}"
        );
        Err(Error::said(types::Kind::Unknown, what))
    }

    /// The signatures that the registry of an image's name has, asked as the daemon itself. What
    /// cannot be asked has none.
    async fn fetch(&self, name: &str, image: &Digest) -> Vec<Evidence> {
        let Ok(reference) = name.parse::<Reference>() else { return Vec::new() };
        let Registries { shared, directories, credentials, .. } = &self.registries;
        let behalf = Behalf {
            hosts: Directories { roots: directories.clone(), ..Directories::default() }.hosts(),
            credentials: Arc::clone(credentials),
            headers: Default::default(),
            listener: None,
        };
        let registry = shared.on_behalf(behalf);
        let asked = tokio::time::timeout(PATIENCE, fetch(&registry, &reference, image)).await;
        match asked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "no signatures from the registry");
                Vec::new()
            }
            Err(late) => {
                tracing::debug!(name, error = %late, "no signatures from the registry");
                Vec::new()
            }
        }
    }
}

#[async_trait]
impl Gate for Trust {
    async fn admit(&self, scope: &Scope, image: &Resolved<'_>) -> Result<()> {
        self.ask_programs(image).await?;
        let Some(policy) = self.policy().await? else { return Ok(()) };
        let (namespace, digest) = (scope.namespace(), &image.target.digest);
        let names = [image.source, image.name];
        let rules = names.map(|name| policy.rule(namespace, name).action);
        let mut found = Vec::new();
        if rules.contains(&Action::Require) && !rules.contains(&Action::Reject) {
            found = fetch(image.registry, image.reference, digest)
                .await
                .context(|| format!("signatures of {}", image.source))?;
        }
        for name in names {
            policy.judge(namespace, name, digest, &found)?;
        }
        self.found.remember(namespace, digest, found);
        Ok(())
    }
}

async fn fetch(registry: &Registry, of: &Reference, image: &Digest) -> Result<Vec<Evidence>> {
    let candidates = registry.signatures(of, image).await?;
    Ok(trust::gather(&*registry.fetcher(of)?, &candidates).await)
}

/// Decides for one scope.
struct Judge {
    trust: Arc<Trust>,
    db: Db,
    scope: Scope,
}

impl Judge {
    /// Refuses to let `name` stand for `image`, or a container to be made of it.
    async fn image(&self, name: &str, image: &Digest) -> Result<()> {
        let Some(policy) = self.trust.policy().await? else { return Ok(()) };
        let namespace = self.scope.namespace();
        if policy.rule(namespace, name).action != Action::Require {
            return policy.judge(namespace, name, image, &[]);
        }
        let content = self.scoped().content();
        let mut evidence = trust::kept(&*content, image).await?;
        let Err(refusal) = policy.judge(namespace, name, image, &evidence) else { return Ok(()) };
        if content.info(image).await.is_err_and(|error| error.is_not_found()) {
            // What is not there has no place where signatures could be kept.
            return Err(refusal);
        }
        let mut more = self.trust.found.of(namespace, image);
        if more.is_empty() {
            more = self.trust.fetch(name, image).await;
        }
        evidence.extend(more.iter().cloned());
        policy.judge(namespace, name, image, &evidence)?;
        self.keep(image, &more).await
    }

    /// Refuses a container by the image that it names.
    async fn container(&self, name: &str) -> Result<()> {
        let Some(policy) = self.trust.policy().await? else { return Ok(()) };
        let rule = policy.rule(self.scope.namespace(), name);
        match self.scoped().images().get(name).await {
            Ok(image) => self.image(name, &image.target.digest).await,
            Err(_) if rule.action == Action::Accept => Ok(()),
            Err(error) if error.is_not_found() => {
                let what = format!(
                    "image {name:?} is refused by the {}: it is not there to be checked",
                    rule.name()
                );
                Err(Error::said(types::Kind::PermissionDenied, what))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps signatures beside an image, held by a lease until they are.
    async fn keep(&self, image: &Digest, evidence: &[Evidence]) -> Result<()> {
        if self.scope.lease().is_some() {
            return keep(&self.scoped(), image, evidence).await;
        }
        let leases = self.scoped().leases();
        let id = format!("signatures-{}", uuid::Uuid::new_v4());
        let now = std::time::SystemTime::now();
        let labels = Default::default();
        leases.create(::records::Lease { id: id.clone(), created_at: now, labels }).await?;
        let held = self.db.scope(self.scope.clone().with_lease(&*id));
        let kept = keep(&held, image, evidence).await;
        leases.delete(&id, ::records::Delete::default()).await?;
        kept
    }

    fn scoped(&self) -> Scoped {
        self.db.scope(self.scope.clone())
    }
}

async fn keep(scoped: &Scoped, image: &Digest, evidence: &[Evidence]) -> Result<()> {
    let content = scoped.content();
    for evidence in evidence {
        trust::keep(&*content, image, evidence).await.context(|| "keep signatures")?;
    }
    Ok(())
}

impl ProgramsSection {
    fn programs(self) -> Result<Programs> {
        let Self { bin_dir, max_verifiers, per_verifier_timeout } = self;
        let bad = || Error::invalid(format!("{PROGRAMS}: no duration: {per_verifier_timeout:?}"));
        let patience = duration(&per_verifier_timeout).ok_or_else(bad)?;
        // A negative number is no limit.
        Ok(Programs { folder: bin_dir, limit: usize::try_from(max_verifiers).ok(), patience })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trust> {
        Trust::read(&Config::parse(text).unwrap().0, Registries::default())
    }

    #[test]
    fn without_a_section_there_is_no_policy_and_gos_programs() {
        let trust = read("version = 3").unwrap();
        assert!(trust.policy.is_none());
        let programs = trust.programs.unwrap();
        assert_eq!(programs.folder, PathBuf::from("/opt/containerd/image-verifier/bin"));
        assert_eq!((programs.limit, programs.patience), (Some(10), Duration::from_secs(10)));
    }

    #[test]
    fn a_policy_that_is_not_there_is_no_reason_to_do_without() {
        let text = format!("version = 3\n[plugins.\"{POLICY}\"]\npath = \"/nowhere/policy.toml\"");
        let error = read(&text).err().unwrap().to_string();
        assert!(error.contains("/nowhere/policy.toml"), "{error}");
    }

    #[test]
    fn programs_are_limited_as_the_config_says() {
        let text = format!(
            "version = 3\n[plugins.\"{PROGRAMS}\"]\nbin_dir = \"/b\"\nmax_verifiers = -1\n\
             per_verifier_timeout = \"2m\""
        );
        let programs = read(&text).unwrap().programs.unwrap();
        assert_eq!((programs.limit, programs.patience), (None, Duration::from_mins(2)));
        let none = format!("version = 3\ndisabled_plugins = [\"{PROGRAMS}\"]");
        assert!(read(&none).unwrap().programs.is_none());
    }
}
