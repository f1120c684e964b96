// SPDX-License-Identifier: Apache-2.0
//! Labels of blobs, for stores that do not keep them themselves.
//!
//! A file has no room for labels. Under the daemon they live in its database, per namespace; a
//! [`Local`](crate::Local) store that is used alone is given a [`LabelStore`].
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use types::{Digest, Error, FieldMask, Labels, Result, labels};

use crate::Info;

/// Keeps the labels of blobs.
pub trait LabelStore: Send + Sync + 'static {
    /// The labels of `digest`; none when nothing was ever said of it.
    fn labels(&self, digest: &Digest) -> Result<Labels>;

    /// Lets `change` at the labels of `digest`, atomically, and returns the outcome.
    fn change(&self, digest: &Digest, change: &mut dyn FnMut(&mut Labels)) -> Result<Labels>;
}

/// Labels in memory, for tests and for stores that live as long as a process.
#[derive(Debug, Default)]
pub struct MemoryLabels {
    labels: Mutex<HashMap<Digest, Labels>>,
}

impl LabelStore for MemoryLabels {
    fn labels(&self, digest: &Digest) -> Result<Labels> {
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(labels.get(digest).cloned().unwrap_or_default())
    }

    fn change(&self, digest: &Digest, change: &mut dyn FnMut(&mut Labels)) -> Result<Labels> {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = labels.get(digest).cloned().unwrap_or_default();
        change(&mut changed);
        if changed.is_empty() {
            labels.remove(digest);
        } else {
            labels.insert(digest.clone(), changed.clone());
        }
        Ok(changed)
    }
}

/// What an update does to labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These take the place of all there were.
    Replace(Labels),
    /// These are set; those with an empty value are removed.
    Merge(Labels),
}

impl Change {
    /// Reads what [`Store::update`](crate::Store::update) was asked for.
    ///
    /// Only labels may change: any other path is `InvalidArgument` (containerd
    /// `plugins/content/local/store.go`, `Update`). A label too long is one, too.
    pub fn read(info: &Info, mask: &FieldMask) -> Result<Self> {
        labels::validate_all(&info.labels)?;
        if mask.is_empty() {
            return Ok(Self::Replace(info.labels.clone()));
        }
        let mut merged = Labels::new();
        let mut all = false;
        for path in mask.paths() {
            match path.strip_prefix("labels.") {
                Some(key) => {
                    let value = info.labels.get(key).cloned().unwrap_or_default();
                    merged.insert(key.to_owned(), value);
                }
                None if path == "labels" => all = true,
                None => return Err(refused(path, info)),
            }
        }
        Ok(if all { Self::Replace(info.labels.clone()) } else { Self::Merge(merged) })
    }

    /// Carries it out. A label with an empty value is no label.
    pub fn apply(&self, labels: &mut Labels) {
        match self {
            Self::Replace(new) => *labels = new.clone(),
            Self::Merge(new) => labels.extend(new.clone()),
        }
        labels.retain(|_, value| !value.is_empty());
    }
}

fn refused(path: &str, info: &Info) -> Error {
    Error::invalid(format!(
        "cannot update {path:?} field on content info {:?}",
        info.digest.as_str()
    ))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use types::Kind;

    use super::*;

    fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn info(labels: Labels) -> Info {
        let now = SystemTime::now();
        Info { digest: Digest::of(""), size: 0, created_at: now, updated_at: now, labels }
    }

    #[track_caller]
    fn check(new: Labels, paths: &[&str], want: &Labels) {
        let mut now = labels([("a", "1"), ("b.c", "2")]);
        Change::read(&info(new), &FieldMask::new(paths.iter().copied())).unwrap().apply(&mut now);
        assert_eq!(now, *want);
    }

    #[test]
    fn no_mask_and_the_mask_labels_replace_all() {
        check(labels([("x", "9")]), &[], &labels([("x", "9")]));
        check(labels([("x", "9")]), &["labels"], &labels([("x", "9")]));
        check(labels([("x", "9")]), &["labels.a", "labels"], &labels([("x", "9")]));
    }

    #[test]
    fn a_path_sets_one_label_and_an_empty_value_removes_it() {
        check(
            labels([("x", "9"), ("y", "8")]),
            &["labels.x"],
            &labels([("a", "1"), ("b.c", "2"), ("x", "9")]),
        );
        check(labels([("b.c", "")]), &["labels.b.c"], &labels([("a", "1")]));
        check(labels([]), &["labels.a"], &labels([("b.c", "2")]));
    }

    #[test]
    fn nothing_but_labels_may_change() {
        let error = Change::read(&info(labels([])), &FieldMask::new(["size"])).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().starts_with("cannot update \"size\" field on content info"));
    }
}
