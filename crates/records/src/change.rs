// SPDX-License-Identifier: Apache-2.0
//! What an update may change, record by record (containerd `core/metadata/{containers,images,sandbox}.go`,
//! `plugins/services/namespaces/local.go`).
use std::collections::BTreeMap;

use types::{Any, Error, FieldMask, Labels, Result};

use crate::{Container, Image, Lease, Namespace, Sandbox};

pub(crate) fn namespace(kept: &mut Namespace, change: &Namespace, mask: &FieldMask) -> Result<()> {
    only_labels(&mut kept.labels, &change.labels, mask, |path| {
        format!("cannot update {path:?} field")
    })
}

/// Compat: no client of containerd can update a lease, so this is beyond it: it lets a lease be
/// extended.
pub(crate) fn lease(kept: &mut Lease, change: &Lease, mask: &FieldMask) -> Result<()> {
    let id = kept.id.clone();
    let refused = |path: &str| format!("cannot update {path:?} field on lease {id:?}");
    only_labels(&mut kept.labels, &change.labels, mask, refused)
}

pub(crate) fn image(kept: &mut Image, change: &Image, mask: &FieldMask) -> Result<()> {
    if mask.is_empty() {
        (kept.labels, kept.target) = (change.labels.clone(), change.target.clone());
    }
    for path in mask.paths() {
        match part(path) {
            ("labels", key) => set(&mut kept.labels, &change.labels, key),
            ("annotations", key) => {
                set(&mut kept.target.annotations, &change.target.annotations, key);
            }
            ("target", None) => kept.target = change.target.clone(),
            _ => return Err(refused(path, &format!("image {:?}", kept.name))),
        }
    }
    drop_empty(&mut kept.labels);
    drop_empty(&mut kept.target.annotations);
    Ok(())
}

pub(crate) fn container(kept: &mut Container, change: &Container, mask: &FieldMask) -> Result<()> {
    if mask.is_empty() {
        return replace(kept, change);
    }
    for path in mask.paths() {
        match part(path) {
            ("labels", key) => set(&mut kept.labels, &change.labels, key),
            ("extensions", key) => extend(&mut kept.extensions, &change.extensions, key),
            ("spec", None) => kept.spec.clone_from(&change.spec),
            ("image", None) => kept.image.clone_from(&change.image),
            ("snapshotkey", None) => kept.snapshot_key.clone_from(&change.snapshot_key),
            _ => return Err(refused(path, &format!("{:?}", kept.id))),
        }
    }
    drop_empty(&mut kept.labels);
    Ok(())
}

/// A mask may name the runtime; without one it has to stay what it is.
pub(crate) fn sandbox(kept: &mut Sandbox, change: &Sandbox, mask: &FieldMask) -> Result<()> {
    if mask.is_empty() {
        if kept.runtime.name != change.runtime.name {
            return Err(Error::invalid("sandbox.Runtime.Name field is immutable"));
        }
        kept.labels.clone_from(&change.labels);
        kept.extensions.clone_from(&change.extensions);
        kept.spec.clone_from(&change.spec);
        kept.runtime.clone_from(&change.runtime);
    }
    for path in mask.paths() {
        match part(path) {
            ("labels", key) => set(&mut kept.labels, &change.labels, key),
            ("extensions", key) => extend(&mut kept.extensions, &change.extensions, key),
            ("runtime", None) => kept.runtime.clone_from(&change.runtime),
            ("spec", None) => kept.spec.clone_from(&change.spec),
            _ => return Err(refused(path, &format!("sandbox {:?}", kept.id))),
        }
    }
    drop_empty(&mut kept.labels);
    Ok(())
}

/// Replaces everything that may change. What may not change must be the same, so that it can be
/// allowed to one day.
fn replace(kept: &mut Container, change: &Container) -> Result<()> {
    let immutable = |field| Err(Error::invalid(format!("container.{field} field is immutable")));
    if kept.snapshotter != change.snapshotter {
        return immutable("Snapshotter");
    }
    if kept.runtime.name != change.runtime.name {
        return immutable("Runtime.Name");
    }
    kept.labels.clone_from(&change.labels);
    kept.spec.clone_from(&change.spec);
    kept.extensions.clone_from(&change.extensions);
    kept.image.clone_from(&change.image);
    kept.snapshot_key.clone_from(&change.snapshot_key);
    drop_empty(&mut kept.labels);
    Ok(())
}

fn only_labels(
    kept: &mut Labels,
    change: &Labels,
    mask: &FieldMask,
    refused: impl Fn(&str) -> String,
) -> Result<()> {
    for path in mask.paths() {
        match part(path) {
            ("labels", key) => set(kept, change, key),
            _ => return Err(Error::invalid(refused(path))),
        }
    }
    if mask.is_empty() {
        kept.clone_from(change);
    }
    drop_empty(kept);
    Ok(())
}

/// A field, and the key of its entry. All after the first dot is the key.
fn part(path: &str) -> (&str, Option<&str>) {
    match path.split_once('.') {
        Some((field, key)) => (field, Some(key)),
        None => (path, None),
    }
}

fn set(kept: &mut Labels, change: &Labels, key: Option<&str>) {
    match key {
        Some(key) => {
            kept.insert(key.to_owned(), change.get(key).cloned().unwrap_or_default());
        }
        None => kept.clone_from(change),
    }
}

/// An extension that the change lacks is removed.
fn extend(kept: &mut BTreeMap<String, Any>, change: &BTreeMap<String, Any>, key: Option<&str>) {
    match key.map(|key| (key, change.get(key))) {
        Some((key, Some(value))) => {
            kept.insert(key.to_owned(), value.clone());
        }
        Some((key, None)) => {
            kept.remove(key);
        }
        None => kept.clone_from(change),
    }
}

/// A label with an empty value is no label (containerd `core/metadata/boltutil`, `writeMap`).
fn drop_empty(labels: &mut Labels) {
    labels.retain(|_, value| !value.is_empty());
}

fn refused(path: &str, what: &str) -> Error {
    Error::invalid(format!("cannot update {path:?} field on {what}"))
}

#[cfg(test)]
mod tests {
    use types::{Digest, Kind};

    use super::*;
    use crate::{
        Record, Runtime,
        validate::tests::{a_container, a_sandbox, an_image},
    };

    fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask::new(paths.iter().copied())
    }

    #[test]
    fn a_path_changes_its_field_alone() {
        let mut kept = Container { labels: labels([("a", "1"), ("b", "2")]), ..a_container() };
        let change = Container {
            labels: labels([("a", "9")]),
            image: "other".into(),
            spec: Some(Any::new("spec", "new")),
            snapshot_key: "other".into(),
            extensions: [("x".into(), Any::new("t", "v"))].into(),
            ..a_container()
        };
        kept.change(change.clone(), &mask(&["labels.a", "labels.b", "image"])).unwrap();
        assert_eq!((&kept.labels, kept.image.as_str()), (&labels([("a", "9")]), "other"));
        assert_eq!((&kept.spec, kept.snapshot_key.as_str()), (&a_container().spec, "c"));
        kept.change(change.clone(), &mask(&["spec", "snapshotkey", "extensions.x"])).unwrap();
        assert_eq!(kept, change);
        kept.change(a_container(), &mask(&["extensions.x"])).unwrap();
        assert!(kept.extensions.is_empty());
    }

    #[test]
    fn what_is_immutable_must_be_the_same_or_not_be_meant() {
        let change = Container { snapshotter: "native".into(), ..a_container() };
        let error = a_container().change(change.clone(), &mask(&[])).unwrap_err();
        assert_eq!(error.to_string(), "container.Snapshotter field is immutable: invalid argument");
        let mut kept = a_container();
        kept.change(change, &mask(&["labels"])).unwrap();
        assert_eq!(kept.snapshotter, "overlayfs");
        for path in
            ["id", "runtime", "runtime.name", "snapshotter", "sandbox", "image.x", "created_at"]
        {
            let error = kept.change(a_container(), &mask(&[path])).unwrap_err();
            let want = format!("cannot update {path:?} field on \"c\": invalid argument");
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn an_outcome_that_makes_no_sense_is_refused() {
        let labels = [("k".to_owned(), "v".repeat(4096))].into();
        let change = Container { labels, ..a_container() };
        let error = a_container().change(change, &mask(&["labels"])).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }

    #[test]
    fn an_image_gets_another_target_as_a_whole() {
        let mut kept = an_image();
        let mut change = an_image();
        change.target.digest = Digest::of("other");
        change.target.annotations = labels([("a", "1"), ("empty", "")]);
        kept.change(change.clone(), &mask(&["annotations.a"])).unwrap();
        assert_eq!(kept.target.digest, Digest::of(""));
        assert_eq!(kept.target.annotations, labels([("a", "1")]));
        kept.change(change, &mask(&["target"])).unwrap();
        assert_eq!(kept.target.digest, Digest::of("other"));
        assert_eq!(kept.target.annotations, labels([("a", "1")]));
        assert!(kept.change(an_image(), &mask(&["name"])).is_err());
    }

    #[test]
    fn a_sandbox_keeps_its_runtime_unless_that_is_named() {
        let change = Sandbox {
            runtime: Runtime { name: "other".into(), options: None },
            spec: Some(Any::new("spec", "new")),
            labels: labels([("a", "1"), ("empty", "")]),
            extensions: [("x".into(), Any::new("t", "v"))].into(),
            ..a_sandbox()
        };
        let error = a_sandbox().change(change.clone(), &mask(&[])).unwrap_err();
        let want = "sandbox.Runtime.Name field is immutable: invalid argument";
        assert_eq!(error.to_string(), want);

        let mut kept = a_sandbox();
        kept.change(change.clone(), &mask(&["labels", "spec", "extensions.x"])).unwrap();
        assert_eq!(kept.labels, labels([("a", "1")]));
        assert_eq!(kept.runtime, a_sandbox().runtime);
        kept.change(change.clone(), &mask(&["runtime"])).unwrap();
        assert_eq!(kept, Sandbox { labels: labels([("a", "1")]), ..change.clone() });
        let error = kept.change(change, &mask(&["sandboxer"])).unwrap_err();
        let want = "cannot update \"sandboxer\" field on sandbox \"s\": invalid argument";
        assert_eq!(error.to_string(), want);
    }
}
