// SPDX-License-Identifier: Apache-2.0
//! Reading the databases that Go's containerd keeps: bbolt files, and the values in them.
//!
//! Nothing here writes. A file is locked, as bbolt locks it, read whole and checked as it is walked:
//! whatever is in it, the outcome is a tree or an error.
//!
//! ```text
//! page:   id u64, flags u16, count u16, overflow u32, then elements, then what they point at
//! meta:   the first two pages; the newer whose checksum holds says where the root is
//! branch: (pos u32, key length u32, page u64)...           -> further pages
//! leaf:   (flags u32, pos u32, key length u32, value length u32)...
//!         a value with flag 1 is a bucket: root page u64, sequence u64; with root 0, a page follows
//! ```
//!
//! All numbers are little endian; `pos` counts from the element itself. The format is that of
//! <https://github.com/etcd-io/bbolt>, `internal/common/{page,meta,inode,bucket}.go`.
mod meta;
mod page;
pub mod value;

use std::path::Path;

use fs_err as fs;
use types::{Context, Error, Kind, Result};

use self::page::{Leaf, Page};

/// How deep a tree of pages may be, and how deep buckets may lie in each other: far more than any
/// real one, and an end to circles.
const DEEPEST: usize = 64;

/// A database, as it was when it was opened.
#[derive(Debug)]
pub struct Db {
    bytes: Vec<u8>,
    meta: meta::Meta,
}

/// Something in a bucket.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A value.
    Value(&'a [u8]),
    /// A bucket in the bucket.
    Bucket(Bucket<'a>),
}

/// Keys and what they stand for.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    db: &'a Db,
    root: u64,
    /// The page of a bucket that is small enough to have none of its own.
    inline: Option<Page<'a>>,
    sequence: u64,
    depth: usize,
}

impl Db {
    /// Reads the database at `path`.
    ///
    /// Errors: `Unavailable` while another process has it open for writing; `DataLoss` when it is no
    /// such database, or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let context = || format!("read {}", path.display());
        let file = fs::File::open(path).map_err(Error::from).context(context)?;
        if !sys::lock::shared(file.file())? {
            let what = format!("{} is in use by another process", path.display());
            return Err(Error::unavailable(what));
        }
        // While `file` lives, it is locked.
        let bytes = fs::read(path).map_err(Error::from).context(context)?;
        drop(file);
        Self::read(bytes).context(context)
    }

    /// Takes the bytes of a file for a database. Errors: `DataLoss`.
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        let meta = meta::newest(&bytes).ok_or_else(|| damaged("no valid meta page"))?;
        Ok(Self { bytes, meta })
    }

    /// The bucket that all others are in.
    pub fn root(&self) -> Bucket<'_> {
        Bucket {
            db: self,
            root: self.meta.root,
            inline: None,
            sequence: self.meta.sequence,
            depth: 0,
        }
    }

    fn page(&self, id: u64) -> Result<Page<'_>> {
        let missing = || damaged(format!("page {id} is missing"));
        let size = self.meta.page_size;
        let begin = usize::try_from(id).ok().and_then(|id| id.checked_mul(size));
        let rest = begin.and_then(|begin| self.bytes.get(begin..)).ok_or_else(missing)?;
        let page = Page::first(rest, size).ok_or_else(missing)?;
        if page.id() != id {
            return Err(damaged(format!("page {id} says that it is page {}", page.id())));
        }
        Ok(page)
    }
}

impl<'a> Bucket<'a> {
    /// The last number that was taken from the bucket's own sequence.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The value of `key`; nothing when there is none, or a bucket.
    pub fn value(&self, key: &str) -> Result<Option<&'a [u8]>> {
        match self.find(key.as_bytes())? {
            Some(Item::Value(value)) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// The bucket called `key`, if there is one.
    pub fn bucket(&self, key: &str) -> Result<Option<Bucket<'a>>> {
        match self.find(key.as_bytes())? {
            Some(Item::Bucket(bucket)) => Ok(Some(bucket)),
            _ => Ok(None),
        }
    }

    /// Everything in the bucket, by key.
    pub fn items(&self) -> Result<Vec<(&'a [u8], Item<'a>)>> {
        let mut items = Vec::new();
        self.collect(self.page()?, 0, &mut items)?;
        Ok(items)
    }

    /// The buckets in the bucket, by name. A name that is no text is `DataLoss`.
    pub fn buckets(&self) -> Result<Vec<(&'a str, Bucket<'a>)>> {
        let mut buckets = Vec::new();
        for (key, item) in self.items()? {
            if let Item::Bucket(bucket) = item {
                buckets.push((value::text(key)?, bucket));
            }
        }
        Ok(buckets)
    }

    fn page(&self) -> Result<Page<'a>> {
        match self.inline {
            Some(page) => Ok(page),
            None => self.db.page(self.root),
        }
    }

    fn find(&self, key: &[u8]) -> Result<Option<Item<'a>>> {
        let mut page = self.page()?;
        for _ in 0..DEEPEST {
            if page.is_leaf() {
                let leaves = page.leaves()?;
                let found = leaves.binary_search_by(|leaf| leaf.key.cmp(key));
                return found.ok().map(|at| self.item(&leaves[at])).transpose();
            }
            let branches = page.branches()?;
            let below = branches.partition_point(|(first, _)| *first <= key);
            let Some((_, id)) = branches.get(below.saturating_sub(1)) else { return Ok(None) };
            page = self.db.page(*id)?;
        }
        Err(damaged("pages lie in a circle"))
    }

    fn collect(
        &self,
        page: Page<'a>,
        depth: usize,
        items: &mut Vec<(&'a [u8], Item<'a>)>,
    ) -> Result<()> {
        if depth > DEEPEST || items.len() > self.db.bytes.len() {
            return Err(damaged("pages lie in a circle"));
        }
        if page.is_leaf() {
            for leaf in page.leaves()? {
                items.push((leaf.key, self.item(&leaf)?));
            }
            return Ok(());
        }
        for (_, id) in page.branches()? {
            self.collect(self.db.page(id)?, depth + 1, items)?;
        }
        Ok(())
    }

    fn item(&self, leaf: &Leaf<'a>) -> Result<Item<'a>> {
        if !leaf.is_bucket {
            return Ok(Item::Value(leaf.value));
        }
        let depth = self.depth + 1;
        let head = leaf.value.split_first_chunk::<8>().and_then(|(root, rest)| {
            let (sequence, rest) = rest.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*root), u64::from_le_bytes(*sequence), rest))
        });
        let (root, sequence, rest) = head.ok_or_else(|| damaged("a bucket has no header"))?;
        if depth > DEEPEST {
            return Err(damaged("buckets lie in a circle"));
        }
        let inline = match root {
            0 => Some(Page::whole(rest).ok_or_else(|| damaged("a bucket has no page"))?),
            _ => None,
        };
        Ok(Item::Bucket(Bucket { db: self.db, root, inline, sequence, depth }))
    }
}

fn damaged(what: impl Into<String>) -> Error {
    Error::new(Kind::DataLoss, format!("bolt database is damaged: {}", what.into()))
}

#[cfg(test)]
mod tests;
