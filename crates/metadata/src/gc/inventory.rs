// SPDX-License-Identifier: Apache-2.0
//! Everything that the collector reads of the database.
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use ::records::Resource;
use rusqlite::{Connection, OptionalExtension, Params, Row};
use types::Labels;

use super::{
    link::PREFIX,
    node::{Kind, Node},
};
use crate::db::{Json, Outcome, Time};

/// Something that exists, and what it says of others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) node: Node,
    /// The collector's labels; others are left out.
    pub(super) labels: Labels,
    /// What it refers to without a label: a parent, a target, what a lease holds.
    pub(super) refs: Vec<Node>,
    /// Whether it stays on its own account.
    pub(super) stay: Stay,
}

/// Whether something stays on its own account, beyond what its kind and its labels say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    No,
    Until(SystemTime),
    Yes,
}

/// How one kind is read: what is asked for, and where it is found by name and by row.
struct Table {
    name: &'static str,
    select: &'static str,
    by_node: &'static str,
    read: fn(&Row<'_>, &mut Names) -> rusqlite::Result<Entry>,
}

/// Namespaces and snapshotters are few, so their names are shared.
#[derive(Default)]
struct Names {
    known: HashSet<Arc<str>>,
}

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.known.insert(Arc::clone(&new));
        new
    }
}

/// In all of these, the first column is the namespace, the second the key, and the third the labels
/// if the collector has any business with them.
const TABLES: &[Table] = &[
    Table {
        name: "containers",
        select: "SELECT namespace, id, LABELS, snapshotter, snapshot_key FROM containers",
        by_node: "namespace = ?1 AND id = ?2",
        read: |row, names| {
            let mut entry = entry(row, names, Kind::Container)?;
            let (snapshotter, key): (String, String) = (row.get(3)?, row.get(4)?);
            if !snapshotter.is_empty() {
                let kind = Kind::Snapshot(names.shared(&snapshotter));
                entry.refs.push(Node::new(&entry.node.namespace, kind, key));
            }
            entry.stay = Stay::Yes;
            Ok(entry)
        },
    },
    Table {
        name: "images",
        select: "SELECT namespace, name, LABELS, digest FROM images",
        by_node: "namespace = ?1 AND name = ?2",
        read: |row, names| {
            let mut entry = entry(row, names, Kind::Image)?;
            entry.refs.push(Node::new(
                &entry.node.namespace,
                Kind::Content,
                row.get::<_, String>(3)?,
            ));
            Ok(entry)
        },
    },
    Table {
        name: "blobs",
        select: "SELECT namespace, digest, LABELS FROM blobs",
        by_node: "namespace = ?1 AND digest = ?2",
        read: |row, names| entry(row, names, Kind::Content),
    },
    Table {
        name: "ingests",
        select: "SELECT namespace, ref, NULL, expected, expires_at FROM ingests",
        by_node: "namespace = ?1 AND ref = ?2",
        read: |row, names| {
            let mut entry = entry(row, names, Kind::Ingest)?;
            if let Some(expected) = row.get::<_, Option<String>>(3)? {
                entry.refs.push(Node::new(&entry.node.namespace, Kind::Content, expected));
            }
            let expires: Option<Time> = row.get(4)?;
            entry.stay = expires.map_or(Stay::No, |time| Stay::Until(time.0));
            Ok(entry)
        },
    },
    Table {
        name: "leases",
        select: "SELECT namespace, id, LABELS FROM leases",
        by_node: "namespace = ?1 AND id = ?2",
        read: |row, names| entry(row, names, Kind::Lease),
    },
    Table {
        name: "mounts",
        select: "SELECT namespace, name, LABELS, active IS NULL FROM mounts",
        by_node: "namespace = ?1 AND name = ?2",
        read: |row, names| {
            let mut entry = entry(row, names, Kind::Mount)?;
            // Nobody can refer to it before it is made, and its maker is not done with it.
            if row.get(3)? {
                entry.stay = Stay::Yes;
            }
            Ok(entry)
        },
    },
    Table {
        name: "sandboxes",
        select: "SELECT namespace, id, LABELS FROM sandboxes",
        by_node: "namespace = ?1 AND id = ?2",
        read: |row, names| {
            let entry = entry(row, names, Kind::Sandbox)?;
            Ok(Entry { stay: Stay::Yes, ..entry })
        },
    },
    Table {
        name: "snapshots",
        select: "SELECT namespace, name, LABELS, snapshotter, parent,
            EXISTS (SELECT 1 FROM commits WHERE commits.namespace = snapshots.namespace
                AND commits.snapshotter = snapshots.snapshotter AND key = snapshots.name)
            FROM snapshots",
        by_node: "namespace = ?1 AND name = ?2 AND snapshotter = ?3",
        read: |row, names| {
            let kind = Kind::Snapshot(names.shared(row.get_ref(3)?.as_str()?));
            let mut entry = entry(row, names, kind)?;
            if let Some(parent) = row.get::<_, Option<String>>(4)? {
                let (namespace, kind) = (&entry.node.namespace, entry.node.kind.clone());
                entry.refs.push(Node::new(namespace, kind, parent));
            }
            if row.get(5)? {
                entry.stay = Stay::Yes;
            }
            Ok(entry)
        },
    },
];

/// What leases hold, with the mounts that were activated under them.
const RESOURCES: &str = "SELECT namespace, kind, id, lease FROM (
    SELECT namespace, kind, id, lease FROM resources UNION ALL
    SELECT namespace, 'mounts', name, lease FROM mounts WHERE lease <> '')";

/// One thing that a lease holds.
const RESOURCE: &str = "SELECT namespace, kind, id, lease FROM resources WHERE rowid = ?";

fn entry(row: &Row<'_>, names: &mut Names, kind: Kind) -> rusqlite::Result<Entry> {
    let namespace = names.shared(row.get_ref(0)?.as_str()?);
    let labels = row.get::<_, Option<Json>>(2)?.map_or_else(Labels::new, |json| json.0);
    let node = Node { namespace, kind, key: row.get(1)? };
    Ok(Entry { node, labels, refs: Vec::new(), stay: Stay::No })
}

/// The statement that reads a table, without the labels that are none of the collector's business.
fn select(table: &Table) -> String {
    let labels = format!("CASE WHEN instr(labels, '{PREFIX}') THEN labels END");
    table.select.replace("LABELS", &labels.replace("labels", &format!("{}.labels", table.name)))
}

/// Reads everything there is.
pub(super) fn all(connection: &Connection) -> Outcome<Vec<Entry>> {
    let mut names = Names::default();
    let mut entries = Vec::new();
    for table in TABLES {
        read_into(&mut entries, connection, table, "", [], &mut names)?;
    }
    let mut held = HashMap::<Node, Vec<Node>>::new();
    let mut resources = connection.prepare_cached(RESOURCES)?;
    let mut rows = resources.query([])?;
    while let Some(row) = rows.next()? {
        let namespace = names.shared(&row.get::<_, String>(0)?);
        let lease = Node::new(&namespace, Kind::Lease, row.get::<_, String>(3)?);
        held.entry(lease).or_default().extend(resource(row, &namespace)?);
    }
    for entry in entries.iter_mut().filter(|entry| entry.node.kind == Kind::Lease) {
        entry.refs = held.remove(&entry.node).unwrap_or_default();
    }
    Ok(entries)
}

fn resource(row: &Row<'_>, namespace: &Arc<str>) -> rusqlite::Result<Option<Node>> {
    let resource = Resource { kind: row.get(1)?, id: row.get(2)? };
    Ok(Node::resource(namespace, resource))
}

/// Reads one thing, if it exists.
pub(super) fn one(connection: &Connection, node: &Node) -> Outcome<Option<Entry>> {
    let table = table_of(node);
    let (namespace, key) = (&*node.namespace, &*node.key);
    let mut found = Vec::new();
    let mut names = Names::default();
    let by = format!(" WHERE {}", table.by_node);
    match &node.kind {
        Kind::Snapshot(of) => {
            read_into(&mut found, connection, table, &by, [namespace, key, &**of], &mut names)?;
        }
        _ => read_into(&mut found, connection, table, &by, [namespace, key], &mut names)?,
    }
    let Some(mut entry) = found.pop() else { return Ok(None) };
    if node.kind == Kind::Lease {
        let select = format!("{RESOURCES} WHERE namespace = ? AND lease = ?");
        let mut held = connection.prepare_cached(&select)?;
        let mut rows = held.query([namespace, key])?;
        while let Some(row) = rows.next()? {
            entry.refs.extend(resource(row, &node.namespace)?);
        }
    }
    Ok(Some(entry))
}

/// The things that a row of the database is about, by table and row.
pub(super) fn at_row(connection: &Connection, table: &str, row: i64) -> Outcome<Vec<Node>> {
    let mut names = Names::default();
    if let Some(known) = TABLES.iter().find(|known| known.name == table) {
        let mut found = Vec::new();
        let by = format!(" WHERE {}.rowid = ?1", known.name);
        read_into(&mut found, connection, known, &by, [row], &mut names)?;
        return Ok(found.into_iter().map(|entry| entry.node).collect());
    }
    if table == "commits" {
        return committing(connection, row, &mut names);
    }
    if table != "resources" {
        return Ok(Vec::new());
    }
    let mut held = connection.prepare_cached(RESOURCE)?;
    let read = |row: &Row<'_>| resource(row, &names.shared(row.get_ref(0)?.as_str()?));
    Ok(held.query_row([row], read).optional()?.flatten().into_iter().collect())
}

/// The snapshot whose commit was begun in a row of `commits`.
fn committing(connection: &Connection, row: i64, names: &mut Names) -> Outcome<Vec<Node>> {
    let select = "SELECT namespace, snapshotter, key FROM commits WHERE rowid = ?";
    let read = |row: &Row<'_>| {
        let namespace = names.shared(row.get_ref(0)?.as_str()?);
        let kind = Kind::Snapshot(names.shared(row.get_ref(1)?.as_str()?));
        Ok(Node::new(&namespace, kind, row.get::<_, String>(2)?))
    };
    let found = connection.prepare_cached(select)?.query_row([row], read).optional()?;
    Ok(found.into_iter().collect())
}

fn read_into(
    entries: &mut Vec<Entry>,
    connection: &Connection,
    table: &Table,
    condition: &str,
    params: impl Params,
    names: &mut Names,
) -> Outcome<()> {
    let mut statement = connection.prepare_cached(&(select(table) + condition))?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        entries.push((table.read)(row, names)?);
    }
    Ok(())
}

fn table_of(node: &Node) -> &'static Table {
    let name = match node.kind {
        Kind::Container => "containers",
        Kind::Content => "blobs",
        Kind::Image => "images",
        Kind::Ingest => "ingests",
        Kind::Lease => "leases",
        Kind::Mount => "mounts",
        Kind::Sandbox => "sandboxes",
        Kind::Snapshot(_) => "snapshots",
    };
    TABLES.iter().find(|table| table.name == name).expect("every kind has a table")
}
