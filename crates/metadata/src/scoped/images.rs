// SPDX-License-Identifier: Apache-2.0
use std::time::SystemTime;

use ::events::Event;
use ::records::{Delete, Image, Resource};
use rusqlite::{Connection, OptionalExtension, named_params};
use types::{Descriptor, Error, Result, Scope, labels::GC_EXPIRE};

use super::{leases, table::Row};
use crate::{
    db::{Digest, Json, Outcome, Time, Tx, json},
    gc::expiry,
};

const SELECT: &str = "SELECT name, labels, media_type, digest, size, annotations, created_at,
    updated_at FROM images WHERE namespace = ?1";

const PUT: &str = "INSERT INTO images VALUES (:namespace, :name, :labels, :media_type, :digest,
    :size, :annotations, :created_at, :updated_at) ON CONFLICT DO UPDATE SET labels = :labels,
    media_type = :media_type, digest = :digest, size = :size, annotations = :annotations,
    updated_at = :updated_at";

/// Of a target are kept its type, digest, size and annotations, as in containerd
/// (`core/metadata/images.go`, `writeImage`): there are no others on the wire.
impl Row for Image {
    const NAME_FIELD: &'static str = "name";

    fn one(connection: &Connection, namespace: &str, name: &str) -> Outcome<Option<Self>> {
        let mut select = connection.prepare_cached(&format!("{SELECT} AND name = ?2"))?;
        Ok(select.query_row([namespace, name], read).optional()?)
    }

    fn all(connection: &Connection, namespace: &str) -> Outcome<Vec<Self>> {
        let mut select = connection.prepare_cached(&format!("{SELECT} ORDER BY name"))?;
        Ok(select.query_map([namespace], read)?.collect::<Result<_, _>>()?)
    }

    fn put(&self, tx: &Tx<'_>, namespace: &str) -> Outcome<()> {
        tx.prepare_cached(PUT)?.execute(named_params! {
            ":namespace": namespace, ":name": self.name, ":labels": json(&self.labels),
            ":media_type": self.target.media_type, ":digest": self.target.digest.as_str(),
            ":size": self.target.size as i64, ":annotations": json(&self.target.annotations),
            ":created_at": Time(self.created_at), ":updated_at": Time(self.updated_at),
        })?;
        Ok(())
    }

    fn remove(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        tx.prepare_cached("DELETE FROM images WHERE namespace = ? AND name = ?")?
            .execute([scope.namespace(), &self.name])?;
        leases::let_go(tx, scope, &Resource::image(&*self.name))?;
        tx.tell(scope.namespace(), Event::image_deleted(&self.name));
        Ok(())
    }

    fn stamp(&mut self, now: SystemTime, is_new: bool) {
        self.updated_at = now;
        if is_new {
            self.created_at = now;
        }
        let Descriptor { media_type, digest, size, annotations, .. } = self.target.clone();
        self.target = Descriptor { annotations, ..Descriptor::new(media_type, digest, size) };
    }

    fn missing(_namespace: &str, name: &str) -> Error {
        Error::not_found(format!("image {name:?}"))
    }

    fn check_delete(&self, options: &Delete) -> Result<()> {
        match &options.target {
            Some(meant) if *meant != self.target.digest => Err(Error::not_found(format!(
                "image {:?} has target {}, not {meant}",
                self.name, self.target.digest
            ))),
            _ => Ok(()),
        }
    }

    fn created(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        lease(self, tx, scope)?;
        tx.tell(scope.namespace(), Event::image_created(&self.name, &self.labels));
        Ok(())
    }

    fn updated(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        lease(self, tx, scope)?;
        tx.tell(scope.namespace(), Event::image_updated(&self.name, &self.labels));
        Ok(())
    }
}

/// An image that never expires needs no lease (containerd `core/metadata/leases.go`,
/// `addImageLease`).
fn lease(image: &Image, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
    if !image.labels.contains_key(GC_EXPIRE) {
        return Ok(());
    }
    if let Some(time) = expiry(&image.labels) {
        tx.expires(time);
    }
    leases::hold(tx, scope, &Resource::image(&*image.name))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Image> {
    let digest = row.get::<_, Digest>(3)?.0;
    let mut target =
        Descriptor::new(row.get::<_, String>(2)?, digest, row.get::<_, i64>(4)? as u64);
    target.annotations = row.get::<_, Json>(5)?.0;
    Ok(Image {
        name: row.get(0)?,
        labels: row.get::<_, Json>(1)?.0,
        target,
        created_at: row.get::<_, Time>(6)?.0,
        updated_at: row.get::<_, Time>(7)?.0,
    })
}
