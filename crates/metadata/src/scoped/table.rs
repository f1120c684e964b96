// SPDX-License-Identifier: Apache-2.0
//! One implementation of the five verbs over the records of a namespace.
use std::{marker::PhantomData, sync::Arc, time::SystemTime};

use ::records::{Delete, Record, Records};
use async_trait::async_trait;
use rusqlite::Connection;
use types::{Error, FieldMask, Filters, Result, Scope};

use super::Scoped;
use crate::{
    Db,
    db::{Outcome, Tx},
};

/// A record that has a table: how it is read and written, and what is its own about it.
pub(super) trait Row: Record {
    /// The field of filters that is the name.
    const NAME_FIELD: &'static str;

    /// The record called `name`.
    fn one(connection: &Connection, namespace: &str, name: &str) -> Outcome<Option<Self>>;

    /// All records, by name.
    fn all(connection: &Connection, namespace: &str) -> Outcome<Vec<Self>>;

    /// Writes the record, in place of the one of the same name.
    fn put(&self, tx: &Tx<'_>, namespace: &str) -> Outcome<()>;

    /// Removes the record, which exists.
    fn remove(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()>;

    /// Sets the times, both of a new record or that of its last change, and drops what has no
    /// column.
    fn stamp(&mut self, now: SystemTime, is_new: bool);

    /// What is said of a record that does not exist.
    fn missing(namespace: &str, name: &str) -> Error;

    /// Refuses a new record that makes no sense.
    fn check_new(&self) -> Result<()> {
        self.validate()
    }

    /// Refuses to delete the record, if it is not what was meant.
    fn check_delete(&self, _options: &Delete) -> Result<()> {
        Ok(())
    }

    /// What else happens in the transaction that creates the record.
    fn created(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()>;

    /// What else happens in the transaction that updates the record.
    fn updated(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()>;
}

/// The records of one sort in one namespace.
pub(super) struct Table<T> {
    pub(super) db: Db,
    pub(super) scope: Arc<Scope>,
    sort: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    pub(super) fn new(scoped: &Scoped) -> Self {
        let Scoped { db, scope } = scoped.clone();
        Self { db, scope, sort: PhantomData }
    }
}

#[async_trait]
impl<T: Row> Records<T> for Table<T> {
    async fn get(&self, name: &str) -> Result<T> {
        let (scope, name) = (Arc::clone(&self.scope), name.to_owned());
        self.db.read(move |connection| existing(connection, &scope, &name)).await
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<T>> {
        let (scope, filters) = (Arc::clone(&self.scope), filters.clone());
        self.db
            .read(move |connection| {
                let mut records = candidates::<T>(connection, scope.namespace(), &filters)?;
                records.retain(|record| filters.matches(record));
                Ok(records)
            })
            .await
    }

    async fn create(&self, mut record: T) -> Result<T> {
        record.check_new()?;
        // What a change of everything leaves is what is kept: labels without a value are not.
        record.change(record.clone(), &FieldMask::default())?;
        let scope = Arc::clone(&self.scope);
        self.db
            .write(move |tx| {
                if T::one(tx, scope.namespace(), record.name())?.is_some() {
                    return Err(taken(&record).into());
                }
                super::enter(tx, &scope)?;
                record.stamp(SystemTime::now(), true);
                record.put(tx, scope.namespace())?;
                record.created(tx, &scope)?;
                Ok(record)
            })
            .await
    }

    async fn update(&self, record: T, mask: &FieldMask) -> Result<T> {
        let (scope, mask) = (Arc::clone(&self.scope), mask.clone());
        if record.name().is_empty() {
            return Err(Error::invalid(format!("must specify a {} name", T::KIND)));
        }
        self.db
            .write(move |tx| {
                let mut kept: T = existing(tx, &scope, record.name())?;
                kept.change(record, &mask)?;
                kept.stamp(SystemTime::now(), false);
                kept.put(tx, scope.namespace())?;
                kept.updated(tx, &scope)?;
                Ok(kept)
            })
            .await
    }

    async fn delete(&self, name: &str, options: Delete) -> Result<()> {
        let (scope, name, sync) = (Arc::clone(&self.scope), name.to_owned(), options.sync);
        self.db
            .write(move |tx| {
                let kept: T = existing(tx, &scope, &name)?;
                kept.check_delete(&options)?;
                kept.remove(tx, &scope)?;
                tx.deleted();
                Ok(())
            })
            .await?;
        if sync {
            self.db.collect().await?;
        }
        Ok(())
    }
}

fn existing<T: Row>(connection: &Connection, scope: &Scope, name: &str) -> Outcome<T> {
    let found = T::one(connection, scope.namespace(), name)?;
    found.ok_or_else(|| T::missing(scope.namespace(), name).into())
}

/// Those that may match: the ones called by name, if every filter names one, or else all.
fn candidates<T: Row>(
    connection: &Connection,
    namespace: &str,
    filters: &Filters,
) -> Outcome<Vec<T>> {
    let Some(mut names) = demanded(filters, T::NAME_FIELD) else {
        return T::all(connection, namespace);
    };
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        found.extend(T::one(connection, namespace, name)?);
    }
    Ok(found)
}

fn demanded<'a>(filters: &'a Filters, field: &str) -> Option<Vec<&'a str>> {
    if filters.is_empty() {
        return None;
    }
    let name = |filter: &'a types::Filter| {
        filter.equalities().find(|(path, _)| *path == [field]).map(|(_, value)| value)
    };
    filters.iter().map(name).collect()
}

fn taken<T: Row>(record: &T) -> Error {
    Error::already_exists(format!("{} {:?}", T::KIND, record.name()))
}
