// SPDX-License-Identifier: Apache-2.0
//! From flags to a container. The snapshot comes before the spec, because users and groups are looked
//! up in its files; a lease holds it until the record does.
use std::{path::Path, time::SystemTime};

use client::{Client, Unpack};
use mount::Mount;
use records::{Container, Image};
use services::introspection;
use snapshots::Snapshotter;
use spec::{ImageConfig, Spec, Users};
use types::{Context as _, Error, Filters, Labels, Platform, Result};

use super::{Named, apparmor, flags::Flags, remap};
use crate::{connection::Connection, images::mount::GC_BREF_SNAPSHOT, network};

/// Says which users a snapshot's files are to belong to (containerd `core/snapshots/snapshotter.go`).
const UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
const GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// Makes the container that the flags ask for.
pub(super) async fn container(
    connection: &Connection,
    flags: &Flags,
    named: &Named,
    no_pivot: bool,
) -> Result<Container> {
    let (from, id) = named.parts(flags.config.is_some())?;
    let client = connection.client().await?;
    let maker = Maker { connection, flags, args: &named.args, id, no_pivot };
    let record = maker.record()?;
    match from {
        None => {
            let spec = flags.spec()?.unwrap_or_default();
            let image = String::new();
            client.containers.create(Container { spec: Some(spec.to_any()), image, ..record }).await
        }
        Some(path) if flags.rootfs => maker.over_directory(&client, record, path).await,
        Some(image) => {
            maker.check_mapping().await?;
            let image = client.images.get(image).await?;
            let held = client.hold().await?;
            let made = maker.over_image(held.client(), record, image).await;
            held.release().await;
            made
        }
    }
}

struct Maker<'a> {
    connection: &'a Connection,
    flags: &'a Flags,
    args: &'a [String],
    id: &'a str,
    no_pivot: bool,
}

impl Maker<'_> {
    /// The record, but for what depends on where the root filesystem comes from.
    fn record(&self) -> Result<Container> {
        let now = SystemTime::now();
        Ok(Container {
            id: self.id.to_owned(),
            labels: self.flags.labels(),
            image: String::new(),
            runtime: self.flags.runtime(self.no_pivot)?,
            spec: None,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: now,
            updated_at: now,
            extensions: self.flags.isolation.cni.then(network::extension).into_iter().collect(),
            sandbox: self.flags.sandbox.clone(),
        })
    }

    async fn over_directory(
        &self,
        client: &Client,
        record: Container,
        path: &str,
    ) -> Result<Container> {
        let root = std::path::absolute(path)?;
        let users = Users::read(&root)?;
        let root = root.to_string_lossy().into_owned();
        let spec = self.plan(Some(root), None, &users).await?;
        client.containers.create(Container { spec: Some(spec.to_any()), ..record }).await
    }

    /// Prepares the snapshot, and removes it again if there will be no container.
    async fn over_image(
        &self,
        client: &Client,
        record: Container,
        image: Image,
    ) -> Result<Container> {
        let Flags { chosen, platform, .. } = self.flags;
        let platform = match platform {
            Some(platform) => platform.clone(),
            None => chosen.platform_of(self.connection, client, &image.target).await?,
        };
        let config = client.image_config(&image, &platform).await?;
        self.unpack(client, &image, &platform).await?;
        let find = &client.snapshotters;
        let snapshots = find(chosen.name())?;
        let top = ::images::chain_id(&config.root_fs.diff_ids).map(|top| top.to_string());
        let mounts = self.prepare(&*snapshots, top.as_deref()).await?;
        let mut labels = ::images::labels::of_container(&config);
        labels.append(&mut self.flags.labels());
        let record = Container {
            labels,
            image: image.name,
            snapshotter: chosen.name().to_owned(),
            snapshot_key: self.id.to_owned(),
            ..record
        };
        let made = self.over_mounts(client, record, &config.run, mounts).await;
        if made.is_err() {
            // The error tells more than that nobody could clean up: the lease lets go of it.
            drop(snapshots.remove(self.id).await);
        }
        made
    }

    async fn over_mounts(
        &self,
        client: &Client,
        record: Container,
        run: &::images::Run,
        mounts: Vec<Mount>,
    ) -> Result<Container> {
        let image = ImageConfig {
            entrypoint: run.entrypoint.clone(),
            cmd: run.cmd.clone(),
            env: run.env.clone(),
            working_dir: run.working_dir.clone(),
            user: run.user.clone(),
        };
        let users = users_of(client, &record, mounts).await?;
        let spec = self.plan(None, Some(&image), &users).await?;
        client.containers.create(Container { spec: Some(spec.to_any()), ..record }).await
    }

    async fn plan(
        &self,
        rootfs: Option<String>,
        image: Option<&ImageConfig>,
        users: &Users,
    ) -> Result<Spec> {
        let options = self.flags.options(self.args, rootfs)?;
        if let Some(name) = &self.flags.isolation.apparmor_default_profile {
            apparmor::load(name).await?;
        }
        let container = spec::Container { image, ..self.container() };
        let mut spec = options.plan(&container, users, &self.flags.host()?)?;
        self.flags.inject(&mut spec)?;
        Ok(spec)
    }

    fn container(&self) -> spec::Container<'_> {
        spec::Container::new(self.connection.namespace(), self.id)
    }

    async fn unpack(&self, client: &Client, image: &Image, platform: &Platform) -> Result<()> {
        let snapshotter = self.flags.chosen.name();
        if client.is_unpacked(&image.target, snapshotter, platform).await? {
            return Ok(());
        }
        let (snapshotter, platform) = (snapshotter.to_owned(), platform.clone());
        let unpack = Unpack { snapshotter, platform, ..Unpack::default() };
        let unpacked = client.unpack(&image.target, &unpack).await;
        unpacked.map(drop).context(|| format!("error unpacking image {:?}", image.name))
    }

    fn snapshot_labels(&self) -> Labels {
        let isolation = &self.flags.isolation;
        let mut labels = crate::labels::parse(&self.flags.snapshotter_label);
        if isolation.remap_labels {
            labels.insert(UID_MAPPING.to_owned(), mapping(&isolation.uidmap));
            labels.insert(GID_MAPPING.to_owned(), mapping(&isolation.gidmap));
        }
        labels
    }

    /// Prepares the snapshot of the container. Where users are mapped, and not by the snapshotter, its
    /// files are given away first: the container could not use them otherwise.
    async fn prepare(&self, snapshots: &dyn Snapshotter, top: Option<&str>) -> Result<Vec<Mount>> {
        let isolation = &self.flags.isolation;
        match top {
            Some(top) if !isolation.uidmap.is_empty() && !isolation.remap_labels => {
                let (uids, gids) = (mapping(&isolation.uidmap), mapping(&isolation.gidmap));
                let mapping = remap::Mapping { uids, gids };
                remap::prepare(snapshots, self.id, top, &mapping, self.snapshot_labels()).await
            }
            _ => snapshots.prepare(self.id, top, self.snapshot_labels()).await,
        }
    }

    /// Refuses to leave the owners of files to a snapshotter that does not know how to map them.
    async fn check_mapping(&self) -> Result<()> {
        let Flags { isolation, chosen, .. } = self.flags;
        let name = chosen.name();
        if isolation.remap_labels && !self.can_remap(name).await? {
            let what = format!("snapshotter {name} cannot map the owners of files");
            return Err(Error::invalid(what));
        }
        Ok(())
    }

    async fn can_remap(&self, snapshotter: &str) -> Result<bool> {
        let filter = format!("type==io.containerd.snapshotter.v1,id=={snapshotter}");
        let peer = self.connection.peer().await?;
        let plugins = introspection::plugins(peer, &Filters::parse([filter])?).await?;
        let can = snapshots::Capability::RemapIds.name();
        Ok(plugins.iter().any(|plugin| plugin.capabilities.iter().any(|it| it == can)))
    }
}

/// The users and groups of a container's root filesystem, which is mounted for as long as it takes to
/// read them.
async fn users_of(client: &Client, container: &Container, mounts: Vec<Mount>) -> Result<Users> {
    // What only the daemon can mount names something that was mounted before, or a transformation.
    let is_managed = mounts.len() > 1 || mounts.iter().any(|mount| mount.kind.contains('/'));
    if !is_managed {
        return read_users(mounts).await;
    }
    let name = format!("users-of-{}-{}", container.id, std::process::id());
    let label = format!("{GC_BREF_SNAPSHOT}{}", container.snapshotter);
    let labels = Labels::from([(label, container.snapshot_key.clone())]);
    let mounts = client.activate(&name, mounts, labels).await?;
    let users = read_users(mounts).await;
    client.deactivate(&name).await?;
    users
}

async fn read_users(mounts: Vec<Mount>) -> Result<Users> {
    let read = move || Users::read_mounts(&mounts, &std::env::temp_dir());
    tokio::task::spawn_blocking(read).await.expect("reading users does not panic")
}

/// The users and groups of a container that is there.
pub(crate) async fn users(client: &Client, container: &Container, spec: &Spec) -> Result<Users> {
    if container.snapshot_key.is_empty() {
        return Users::read(Path::new(&spec.root.path));
    }
    let find = &client.snapshotters;
    let mounts = find(&container.snapshotter)?.mounts(&container.snapshot_key).await?;
    users_of(client, container, mounts).await
}

/// Mappings in one label: `0:1000:10,10:2000:1`.
fn mapping(mappings: &[spec::IdMapping]) -> String {
    let one = |it: &spec::IdMapping| format!("{}:{}:{}", it.container_id, it.host_id, it.size);
    mappings.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_one_label() {
        let mappings = ["0:1000:10", "10:2000:1"].map(|text| text.parse().unwrap());
        assert_eq!(mapping(&mappings), "0:1000:10,10:2000:1");
    }
}
