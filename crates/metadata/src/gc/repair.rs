// SPDX-License-Identifier: Apache-2.0
//! Making right what an audit finds wrong, as far as that can be done without losing anything.
//!
//! ```text
//! nobody knows it                --> removed
//! blob, not what its name says   --> quarantined; its record stays, so it is fetched again
//! layer without data             --> renamed with all layers over it, so it is unpacked again;
//!                                    collected once no container is over it
//! writable snapshot without data --> made anew, empty
//! ```
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ::content::blob;
use ::records::audit::Repaired;
use ::snapshots::{Kind, Snapshotter};
use futures_util::TryStreamExt;
use rusqlite::Connection;
use types::{Digest, Filters, Result};

use crate::{
    Db,
    db::{Backend, Outcome, Tx},
};

/// What a layer is called that was put aside: this, a number, and its name.
const ASIDE: &str = "broken";

/// Repairs what can be repaired.
pub(crate) async fn repair(db: &Db) -> Result<Repaired> {
    let mut done = Repaired::default();
    let stats = super::prune(db).await?;
    let removed = stats.removed.total();
    if removed > 0 {
        done.deeds.push(format!("removed {removed} records that nothing referred to"));
    }
    done.failures.extend(stats.failures);
    blobs(db, &mut done).await?;
    for name in db.shared.backends.snapshotters.keys().cloned().collect::<Vec<_>>() {
        if let Err(error) = snapshots(db, &name, &mut done).await {
            done.failures.push(format!("snapshotter {name}: {error}"));
        }
    }
    // What was put aside and is under no container goes now.
    done.failures.extend(super::prune(db).await?.failures);
    Ok(done)
}

async fn blobs(db: &Db, done: &mut Repaired) -> Result<()> {
    let store = &db.shared.backends.content;
    let infos = store.walk(Filters::default()).map_ok(|info| info.digest);
    let all: Vec<Digest> = infos.try_collect().await?;
    for digest in all {
        match blob::digest_now(&**store, &digest).await {
            Ok(now) if now == digest => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                done.failures.push(format!("blob {digest}: {error}"));
                continue;
            }
            Ok(_) => {}
        }
        match store.quarantine(&digest).await {
            Ok(()) => done.deeds.push(format!("quarantined blob {digest}: fetch it again")),
            Err(error) if error.is_not_found() => {}
            Err(error) => done.failures.push(format!("blob {digest}: {error}")),
        }
    }
    Ok(())
}

async fn snapshots(db: &Db, of: &str, done: &mut Repaired) -> Result<()> {
    let backend = Arc::clone(&db.shared.backends.snapshotters[of]);
    let infos = backend.walk(Filters::default()).map_ok(|info| (info.name, info.kind));
    let kinds: HashMap<String, Kind> = infos.try_collect().await?;
    let mut lost = BTreeSet::new();
    for key in without_data(&*backend).await? {
        match kinds.get(&key) {
            Some(Kind::Committed) => drop(lost.insert(key)),
            Some(Kind::Active | Kind::View) => match backend.mend(&key).await {
                Ok(()) => done.deeds.push(format!("made snapshot {of}/{key} anew, empty")),
                Err(error) => done.failures.push(format!("snapshot {of}/{key}: {error}")),
            },
            None => {}
        }
    }
    lost.extend(without_record(db, &*backend, of, &kinds).await?);
    if lost.is_empty() {
        return Ok(());
    }
    let name = of.to_owned();
    let aside = db.write(move |tx| set_aside(tx, &name, &lost, &kinds)).await?;
    done.deeds.extend(aside);
    Ok(())
}

/// The keys of the backend whose data is not where it should be.
async fn without_data(backend: &dyn Snapshotter) -> Result<Vec<String>> {
    let places = match backend.places().await {
        Err(error) if error.kind() == types::Kind::Unimplemented => return Ok(Vec::new()),
        places => places?,
    };
    let mut lost = Vec::new();
    for place in places.into_iter().filter(|place| place.changed_at.is_none()) {
        // What was removed meanwhile is not lost.
        if let Some(key) = place.key
            && backend.stat(&key).await.is_ok()
        {
            lost.push(key);
        }
    }
    Ok(lost)
}

/// The keys that the database knows and the backend does not, which nobody is working on.
async fn without_record(
    db: &Db,
    backend: &dyn Snapshotter,
    of: &str,
    kinds: &HashMap<String, Kind>,
) -> Result<Vec<String>> {
    let name = of.to_owned();
    let rows = db.read(move |connection| rows(connection, &name)).await?;
    let mut lost = Vec::new();
    for row in rows.into_iter().filter(|row| !kinds.contains_key(&row.backend_key)) {
        let thing = crate::holds::Thing::Name(of.into(), row.namespace, row.name);
        let is_gone = matches!(backend.stat(&row.backend_key).await, Err(e) if e.is_not_found());
        if is_gone && !db.shared.holds.is_held(&thing) {
            lost.push(row.backend_key);
        }
    }
    Ok(lost)
}

/// A snapshot as the database knows it.
#[derive(Clone, Debug)]
struct Row {
    namespace: String,
    name: String,
    backend_key: String,
    parent: Option<String>,
}

fn rows(connection: &Connection, of: &str) -> Outcome<Vec<Row>> {
    let select = "SELECT namespace, name, backend_key, parent FROM snapshots WHERE snapshotter = ?";
    let mut select = connection.prepare_cached(select)?;
    let rows = select.query_map([of], |row| {
        Ok(Row {
            namespace: row.get(0)?,
            name: row.get(1)?,
            backend_key: row.get(2)?,
            parent: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What becomes of a row over data that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing is left of it, and nothing is over it.
    Forgotten,
    /// It gets another name, so that its own is free.
    Aside,
    /// Somebody may have written to it: it stays as it is, over layers that are lost.
    Bereft,
}

/// What becomes of the rows of one namespace, by name: those whose data is `lost`, and all over them.
fn plan(
    rows: &[Row],
    lost: &BTreeSet<String>,
    kinds: &HashMap<String, Kind>,
) -> BTreeMap<String, Fate> {
    let mut children = HashMap::<&str, Vec<&Row>>::new();
    for row in rows {
        children.entry(row.parent.as_deref().unwrap_or_default()).or_default().push(row);
    }
    let over = |row: &Row| children.get(row.name.as_str()).cloned().unwrap_or_default();
    let mut fates = BTreeMap::new();
    let mut queue: Vec<&Row> = rows.iter().filter(|row| lost.contains(&row.backend_key)).collect();
    while let Some(row) = queue.pop() {
        let above = over(row);
        let fate = match kinds.get(&row.backend_key) {
            Some(Kind::Committed) => Fate::Aside,
            Some(Kind::Active | Kind::View) => Fate::Bereft,
            None if above.is_empty() => Fate::Forgotten,
            None => Fate::Aside,
        };
        if fates.insert(row.name.clone(), fate).is_none() {
            queue.extend(above);
        }
    }
    fates
}

fn set_aside(
    tx: &Tx<'_>,
    of: &str,
    lost: &BTreeSet<String>,
    kinds: &HashMap<String, Kind>,
) -> Outcome<Vec<String>> {
    let mut spaces = BTreeMap::<String, Vec<Row>>::new();
    for row in rows(tx, of)? {
        spaces.entry(row.namespace.clone()).or_default().push(row);
    }
    let next = "UPDATE state SET value = value + 1 WHERE name = 'sequence' RETURNING value";
    let number: i64 = tx.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    let mut deeds = Vec::new();
    for (namespace, rows) in spaces {
        for (name, fate) in plan(&rows, lost, kinds) {
            match fate {
                Fate::Forgotten => forget(tx, [&namespace, of, &name])?,
                Fate::Aside => rename(tx, [&namespace, of, &name], number)?,
                Fate::Bereft => {}
            }
            deeds.push(told(&namespace, &format!("{of}/{name}"), &fate));
        }
    }
    tx.deleted();
    tx.orphaned(Backend::Snapshotter(of.to_owned()));
    Ok(deeds)
}

fn told(namespace: &str, name: &str, fate: &Fate) -> String {
    match fate {
        Fate::Forgotten => {
            format!("forgot snapshot {name} in {namespace}, of which nothing is left")
        }
        Fate::Aside => format!("put snapshot {name} in {namespace} aside: unpack its image again"),
        Fate::Bereft => format!("snapshot {name} in {namespace} is over layers that are lost"),
    }
}

fn forget(tx: &Tx<'_>, row: [&str; 3]) -> Outcome<()> {
    let delete = "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?";
    tx.prepare_cached(delete)?.execute(row)?;
    Ok(())
}

/// Without its labels: nothing but what is over it keeps it.
fn rename(tx: &Tx<'_>, [namespace, of, name]: [&str; 3], number: i64) -> Outcome<()> {
    let aside = format!("{ASIDE}-{number}/{name}");
    tx.prepare_cached(
        "UPDATE snapshots SET name = ?4, labels = '{}'
        WHERE namespace = ?1 AND snapshotter = ?2 AND name = ?3",
    )?
    .execute([namespace, of, name, &aside])?;
    tx.prepare_cached(
        "UPDATE snapshots SET parent = ?4
        WHERE namespace = ?1 AND snapshotter = ?2 AND parent = ?3",
    )?
    .execute([namespace, of, name, &aside])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, parent: &str) -> Row {
        let parent = Some(parent.to_owned()).filter(|parent| !parent.is_empty());
        Row { namespace: "n".into(), name: name.into(), backend_key: format!("k-{name}"), parent }
    }

    #[test]
    fn what_is_over_a_lost_layer_goes_aside_and_what_was_written_stays() {
        let rows = [
            row("base", ""),
            row("middle", "base"),
            row("top", "middle"),
            row("container", "top"),
            row("other", "base"),
            row("ghost", ""),
        ];
        let kind = |name: &str| match name {
            "container" => Some(Kind::Active),
            "ghost" => None,
            _ => Some(Kind::Committed),
        };
        let kinds = rows.iter().filter_map(|row| Some((row.backend_key.clone(), kind(&row.name)?)));
        let lost = ["k-middle", "k-ghost"].map(str::to_owned).into();
        let fates = plan(&rows, &lost, &kinds.collect());
        let want = [
            ("container", Fate::Bereft),
            ("ghost", Fate::Forgotten),
            ("middle", Fate::Aside),
            ("top", Fate::Aside),
        ];
        assert_eq!(fates, want.map(|(name, fate)| (name.to_owned(), fate)).into());
    }
}
