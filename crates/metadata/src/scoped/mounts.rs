// SPDX-License-Identifier: Apache-2.0
//! The mount manager: records of what an [`Activator`] mounted.
//!
//! A record is written before anything is mounted and removed after all of it is unmounted. While it
//! is in the making it has no mounts to tell of, and nobody sees it. So whatever is on disk without a
//! record, or in the database without being mounted, was left by a crash or by somebody else.
use std::{collections::HashSet, sync::Arc, time::SystemTime};

use ::mount::{Activate, ActivationInfo, Activator, ActiveMount, Manager, Mount, Performed, Plan};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, named_params};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use types::{Error, FieldMask, Filters, Kind, Labels, Result, Scope};

use super::Scoped;
use crate::{
    Db,
    db::{Backend, Json, Outcome, Time, Tx, json as labels_json},
    holds::{Hold, Thing},
    labels,
};

const SELECT: &str = "SELECT name, labels, id, active, system FROM mounts
    WHERE namespace = ?1 AND active IS NOT NULL";

const INSERT: &str =
    "INSERT INTO mounts VALUES (:namespace, :name, :labels, :lease, :id, NULL, NULL,
    :now, :now)";

const COMPLETE: &str = "UPDATE mounts SET active = ?2, system = ?3, updated_at = ?4 WHERE id = ?1";

/// The mounts of one namespace.
pub(super) struct Mounts {
    db: Db,
    scope: Arc<Scope>,
    activator: Arc<Activator>,
}

/// A record, with the number of its directory.
struct Record {
    id: u64,
    info: ActivationInfo,
}

impl Mounts {
    pub(super) fn new(scoped: &Scoped, activator: Arc<Activator>) -> Self {
        let Scoped { db, scope } = scoped.clone();
        Self { db, scope, activator }
    }

    async fn find(&self, name: &str) -> Result<Record> {
        let (scope, name) = (Arc::clone(&self.scope), name.to_owned());
        self.db.read(move |connection| existing(connection, scope.namespace(), &name)).await
    }

    /// Owns a name, so that it is activated or deactivated by one at a time.
    async fn own(&self, name: &str) -> Hold {
        let thing = Thing::Activation(self.scope.namespace().to_owned(), name.to_owned());
        self.db.shared.holds.own(thing).await
    }

    /// Frees a name whose mounts are gone already, by whosever doing.
    async fn free(&self, name: &str) -> Result<()> {
        let record = match self.find(name).await {
            Err(error) if error.is_not_found() => return Ok(()),
            record => record?,
        };
        let (id, active) = (record.id, record.info.active);
        let activator = Arc::clone(&self.activator);
        let dead = blocking(move || activator.dead([(id, &*active)])).await?;
        if dead.is_empty() { Ok(()) } else { undo(&self.db, &self.activator, id).await }
    }

    async fn reserve(&self, name: &str, labels: Labels) -> Result<u64> {
        let (scope, name) = (Arc::clone(&self.scope), name.to_owned());
        self.db
            .write(move |tx| {
                let taken = "SELECT 1 FROM mounts WHERE namespace = ? AND name = ?";
                if tx.prepare_cached(taken)?.exists([scope.namespace(), &name])? {
                    return Err(Error::already_exists(format!("mount {name:?}")).into());
                }
                super::enter(tx, &scope)?;
                let id = next_id(tx)?;
                tx.prepare_cached(INSERT)?.execute(named_params! {
                    ":namespace": scope.namespace(), ":name": name,
                    ":labels": labels_json(&labels), ":lease": scope.lease().unwrap_or_default(),
                    ":id": id as i64, ":now": Time(SystemTime::now()),
                })?;
                Ok(id)
            })
            .await
    }

    async fn make(
        &self,
        name: &str,
        plan: Plan,
        mounts: Vec<Mount>,
        options: Activate,
    ) -> Result<ActivationInfo> {
        let _owned = self.own(name).await;
        self.free(name).await?;
        let id = self.reserve(name, options.labels.clone()).await?;
        let made = self.perform(id, plan, mounts, options.clone()).await;
        let Performed { active, system } = match made {
            Ok(performed) => performed,
            Err(error) => {
                undo(&self.db, &self.activator, id).await.unwrap_or_else(|leftover| {
                    tracing::warn!(name, error = %leftover, "failed to clean up after mounts");
                });
                return Err(error);
            }
        };
        Ok(ActivationInfo { name: name.to_owned(), active, system, labels: options.labels })
    }

    async fn perform(
        &self,
        id: u64,
        plan: Plan,
        mounts: Vec<Mount>,
        options: Activate,
    ) -> Result<Performed> {
        let activator = Arc::clone(&self.activator);
        let performed = blocking(move || activator.perform(id, &plan, &mounts, &options)).await?;
        let (active, system) = (active_json(&performed.active), mounts_json(&performed.system));
        self.db
            .write(move |tx| {
                let texts = (active.to_string(), system.to_string());
                tx.prepare_cached(COMPLETE)?.execute((
                    id as i64,
                    texts.0,
                    texts.1,
                    Time(SystemTime::now()),
                ))?;
                Ok(())
            })
            .await?;
        Ok(performed)
    }

    async fn unmake(&self, name: &str) -> Result<()> {
        let _owned = self.own(name).await;
        let id = self.find(name).await?.id;
        self.db
            .write(move |tx| {
                tx.prepare_cached("UPDATE mounts SET active = NULL WHERE id = ?")?
                    .execute([id as i64])?;
                Ok(())
            })
            .await?;
        undo(&self.db, &self.activator, id).await
    }
}

#[async_trait]
impl Manager for Mounts {
    async fn activate(
        &self,
        name: &str,
        mounts: &[Mount],
        mut options: Activate,
    ) -> Result<ActivationInfo> {
        let plan = self.activator.plan(mounts, &options)?;
        if name.is_empty() {
            return Err(Error::invalid("mount name must not be empty"));
        }
        labels::drop_empty(&mut options.labels);
        labels::check(&options.labels)?;
        let (own, name, mounts) = (self.again(), name.to_owned(), mounts.to_vec());
        Db::carry_out(async move { own.make(&name, plan, mounts, options).await }).await
    }

    async fn deactivate(&self, name: &str) -> Result<()> {
        let (own, name) = (self.again(), name.to_owned());
        Db::carry_out(async move { own.unmake(&name).await }).await
    }

    async fn info(&self, name: &str) -> Result<ActivationInfo> {
        Ok(self.find(name).await?.info)
    }

    async fn update(&self, info: ActivationInfo, mask: &FieldMask) -> Result<ActivationInfo> {
        let (scope, mask) = (Arc::clone(&self.scope), mask.clone());
        self.db
            .write(move |tx| {
                let mut kept = existing(tx, scope.namespace(), &info.name)?.info;
                let what = || format!("mount {:?}", info.name);
                labels::change(&mut kept.labels, &info.labels, &mask, what)?;
                let update = "UPDATE mounts SET labels = ?, updated_at = ?
                    WHERE namespace = ? AND name = ?";
                let labels = labels_json(&kept.labels);
                let now = Time(SystemTime::now());
                let params = (labels, now, scope.namespace(), &kept.name);
                tx.prepare_cached(update)?.execute(params)?;
                Ok(kept)
            })
            .await
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<ActivationInfo>> {
        let (scope, filters) = (Arc::clone(&self.scope), filters.clone());
        self.db
            .read(move |connection| {
                let mut select = connection.prepare_cached(&format!("{SELECT} ORDER BY name"))?;
                let rows = select.query_map([scope.namespace()], read)?;
                let mut infos = Vec::new();
                for record in rows {
                    infos.push(record?.info);
                }
                infos.retain(|info| filters.matches(info));
                Ok(infos)
            })
            .await
    }
}

impl Mounts {
    fn again(&self) -> Self {
        let Self { db, scope, activator } = self;
        Self { db: db.clone(), scope: Arc::clone(scope), activator: Arc::clone(activator) }
    }
}

/// Unmounts, and forgets. What could not be unmounted has no record then, and is tried again by the
/// collector.
async fn undo(db: &Db, activator: &Arc<Activator>, id: u64) -> Result<()> {
    let own = Arc::clone(activator);
    let undone = blocking(move || own.undo(id)).await;
    let is_undone = undone.is_ok();
    db.write(move |tx| {
        if !is_undone {
            tx.orphaned(Backend::Mounts);
        }
        tx.prepare_cached("DELETE FROM mounts WHERE id = ?")?.execute([id as i64])?;
        Ok(())
    })
    .await?;
    undone
}

/// A number that no activation ever had.
fn next_id(tx: &Tx<'_>) -> Outcome<u64> {
    let next = "UPDATE state SET value = value + 1 WHERE name = 'activation' RETURNING value";
    let id: i64 = tx.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    Ok(id as u64)
}

/// Takes away what a crash left: activations that were being made or undone, and then what
/// [`sweep`] finds. What fails is left to the collector.
pub(crate) async fn recover(db: &Db) -> Result<()> {
    db.write(|tx| {
        tx.execute("DELETE FROM mounts WHERE active IS NULL", [])?;
        tx.orphaned(Backend::Mounts);
        Ok(())
    })
    .await?;
    sweep(db, &mut Vec::new()).await
}

/// Unmounts what has no record, and forgets what is not mounted any more.
pub(crate) async fn sweep(db: &Db, failures: &mut Vec<String>) -> Result<()> {
    let Some(activator) = db.shared.mounts.get() else { return Ok(()) };
    // What is there is listed first: a directory is made after its record.
    let own = Arc::clone(activator);
    let there = blocking(move || own.ids()).await?;
    let known = db.read(all_ids).await?;
    for id in there.into_iter().filter(|id| !known.contains(id)) {
        let own = Arc::clone(activator);
        report(failures, id, blocking(move || own.undo(id)).await);
    }
    forget_dead(db, activator, failures).await
}

async fn forget_dead(
    db: &Db,
    activator: &Arc<Activator>,
    failures: &mut Vec<String>,
) -> Result<()> {
    let records = db.read(complete).await?;
    let own = Arc::clone(activator);
    let all = Arc::new(records);
    let looked = Arc::clone(&all);
    let dead = blocking(move || {
        own.dead(looked.iter().map(|(_, record)| (record.id, &*record.info.active)))
    })
    .await?;
    for (namespace, record) in all.iter().filter(|(_, record)| dead.contains(&record.id)) {
        let thing = Thing::Activation(namespace.clone(), record.info.name.clone());
        let Some(_owned) = db.shared.holds.try_own(thing) else { continue };
        let (id, name) = (record.id, &record.info.name);
        tracing::warn!(namespace, name, "mounts are gone that were not deactivated");
        report(failures, id, undo(db, activator, id).await);
    }
    Ok(())
}

fn report(failures: &mut Vec<String>, id: u64, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, id, "mounts could not be taken away");
        failures.push(format!("mounts {id}: {error}"));
    }
}

fn all_ids(connection: &Connection) -> Outcome<HashSet<u64>> {
    let mut select = connection.prepare_cached("SELECT id FROM mounts")?;
    Ok(select
        .query_map([], |row| row.get::<_, i64>(0).map(|id| id as u64))?
        .collect::<Result<_, _>>()?)
}

/// The activations that are complete, with their namespaces.
fn complete(connection: &Connection) -> Outcome<Vec<(String, Record)>> {
    let all = "SELECT name, labels, id, active, system, namespace FROM mounts
        WHERE active IS NOT NULL";
    let mut select = connection.prepare_cached(all)?;
    Ok(select.query_map([], |row| Ok((row.get(5)?, read(row)?)))?.collect::<Result<_, _>>()?)
}

fn existing(connection: &Connection, namespace: &str, name: &str) -> Outcome<Record> {
    let mut select = connection.prepare_cached(&format!("{SELECT} AND name = ?2"))?;
    let found = select.query_row([namespace, name], read).optional()?;
    found.ok_or_else(|| Error::not_found(format!("mount {name:?}")).into())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Record> {
    let parse = |at: usize| -> rusqlite::Result<Value> {
        let text = row.get::<_, Option<String>>(at)?.unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into())
        })
    };
    let info = ActivationInfo {
        name: row.get(0)?,
        labels: row.get::<_, Json>(1)?.0,
        active: items(&parse(3)?).map(active).collect(),
        system: items(&parse(4)?).map(mount).collect(),
    };
    Ok(Record { id: row.get::<_, i64>(2)? as u64, info })
}

fn mounts_json(mounts: &[Mount]) -> Value {
    mounts.iter().map(mount_json).collect()
}

fn mount_json(mount: &Mount) -> Value {
    let Mount { kind, source, target, options } = mount;
    json!({ "type": kind, "source": source, "target": target, "options": options })
}

fn active_json(all: &[ActiveMount]) -> Value {
    let one = |active: &ActiveMount| {
        let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        json!({
            "mount": mount_json(&active.mount),
            "mounted_at": active.mounted_at.and_then(since).map(|age| age.as_nanos() as u64),
            "mount_point": active.mount_point,
            "data": active.data,
        })
    };
    all.iter().map(one).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn mount(value: &Value) -> Mount {
    Mount {
        kind: text(&value["type"]),
        source: text(&value["source"]),
        target: text(&value["target"]),
        options: items(&value["options"]).map(text).collect(),
    }
}

fn active(value: &Value) -> ActiveMount {
    let data = value["data"].as_object().into_iter().flatten();
    ActiveMount {
        mount: mount(&value["mount"]),
        mounted_at: value["mounted_at"]
            .as_u64()
            .map(|age| SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(age)),
        mount_point: text(&value["mount_point"]),
        data: data.map(|(key, value)| (key.clone(), text(value))).collect(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work)
        .await
        .map_err(|error| Error::caused(Kind::Internal, "mounts", error))
        .and_then(|outcome| outcome)
}
