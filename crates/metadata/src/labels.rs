// SPDX-License-Identifier: Apache-2.0
//! Updating labels by mask, for what is no record.
use types::{Context, Error, FieldMask, Labels, Result, labels};

/// Takes from `change` the labels that `mask` names; none named means all. A label with an empty
/// value is removed. Any path but `labels` and `labels.<key>` is refused, as the update of `what`.
pub(crate) fn change(
    kept: &mut Labels,
    change: &Labels,
    mask: &FieldMask,
    what: impl Fn() -> String,
) -> Result<()> {
    if mask.is_empty() {
        kept.clone_from(change);
    }
    for path in mask.paths() {
        match path.strip_prefix("labels.") {
            Some(key) => {
                kept.insert(key.to_owned(), change.get(key).cloned().unwrap_or_default());
            }
            None if path == "labels" => kept.clone_from(change),
            None => {
                return Err(Error::invalid(format!("cannot update {path:?} field on {}", what())));
            }
        }
    }
    drop_empty(kept);
    check(kept)
}

/// Refuses a label that is too long.
pub(crate) fn check(labels: &Labels) -> Result<()> {
    labels::validate_all(labels).context(|| "info.Labels")
}

/// A label with an empty value is no label (containerd `core/metadata/boltutil`, `writeMap`).
pub(crate) fn drop_empty(labels: &mut Labels) {
    labels.retain(|_, value| !value.is_empty());
}
