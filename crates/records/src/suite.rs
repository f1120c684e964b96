// SPDX-License-Identifier: Apache-2.0
//! The claims that every keeper of records is held to.
//!
//! Run it over whatever implements or forwards the contracts: [`run`] is given a way to make an
//! empty keeper, and panics at the first claim that does not hold.
#![allow(
    clippy::unwrap_used,
    reason = "this is a test, kept in the library for other crates' tests"
)]
use std::{sync::Arc, time::SystemTime};

use types::{Any, Descriptor, Digest, FieldMask, Filters, Kind, Labels, Result, media_types};

use crate::{
    Container, Delete, Image, Lease, Leases, Namespace, Record, Records, Resource, Runtime, Sandbox,
};

/// The records of one namespace, and the namespaces, of an empty keeper.
#[derive(Clone)]
pub struct Keeper {
    /// All namespaces.
    pub namespaces: Arc<dyn Records<Namespace>>,
    /// The containers of a namespace.
    pub containers: Arc<dyn Records<Container>>,
    /// The images of the same namespace.
    pub images: Arc<dyn Records<Image>>,
    /// The leases of the same namespace.
    pub leases: Arc<dyn Leases>,
    /// The sandboxes of the same namespace.
    pub sandboxes: Arc<dyn Records<Sandbox>>,
}

/// Holds the keepers that `fresh` makes to every claim.
pub async fn run(mut fresh: impl AsyncFnMut() -> Keeper) {
    a_record_is_kept_as_created(&fresh().await).await;
    a_name_is_taken_once(&fresh().await).await;
    what_is_missing_is_not_found(&fresh().await).await;
    what_makes_no_sense_is_refused(&fresh().await).await;
    lists_are_by_name_and_filtered(&fresh().await).await;
    an_update_changes_what_the_mask_names(&fresh().await).await;
    an_image_is_deleted_only_if_it_names_what_was_said(&fresh().await).await;
    a_namespace_with_records_cannot_be_deleted(&fresh().await).await;
    a_lease_holds_what_it_was_given(&fresh().await).await;
    a_sandbox_is_a_record_like_others(&fresh().await).await;
}

async fn a_record_is_kept_as_created(keeper: &Keeper) {
    let before = SystemTime::now();
    let created = keeper.containers.create(container("c")).await.unwrap();
    let later = SystemTime::now();
    assert!(before <= created.created_at && created.created_at <= later);
    assert_eq!(created.created_at, created.updated_at);
    let want = Container {
        created_at: created.created_at,
        updated_at: created.updated_at,
        ..container("c")
    };
    assert_eq!(created, want);
    assert_eq!(keeper.containers.get("c").await.unwrap(), want);

    let created = keeper.images.create(image("i")).await.unwrap();
    let want =
        Image { created_at: created.created_at, updated_at: created.updated_at, ..image("i") };
    assert_eq!(keeper.images.get("i").await.unwrap(), want);
    assert_eq!(created, want);

    let created = keeper.namespaces.create(namespace("n")).await.unwrap();
    assert_eq!(created, namespace("n"));
    assert_eq!(keeper.namespaces.get("n").await.unwrap(), namespace("n"));

    let created = keeper.leases.create(lease("l")).await.unwrap();
    assert_eq!(created, Lease { created_at: created.created_at, ..lease("l") });
    let all = keeper.leases.list(&Filters::default()).await.unwrap();
    assert_eq!(all, [created]);
}

async fn a_name_is_taken_once(keeper: &Keeper) {
    async fn check<T: Record>(records: &(impl Records<T> + ?Sized), record: T) {
        records.create(record.clone()).await.unwrap();
        is(records.create(record).await, Kind::AlreadyExists);
    }
    check(&*keeper.containers, container("c")).await;
    check(&*keeper.images, image("i")).await;
    check(&*keeper.namespaces, namespace("n")).await;
    check(&*keeper.leases, lease("l")).await;
}

async fn what_is_missing_is_not_found(keeper: &Keeper) {
    async fn check<T: Record>(records: &(impl Records<T> + ?Sized)) {
        is(records.delete("missing", Delete::default()).await, Kind::NotFound);
    }
    let labels = FieldMask::new(["labels"]);
    check(&*keeper.containers).await;
    check(&*keeper.images).await;
    check(&*keeper.namespaces).await;
    check(&*keeper.leases).await;
    is(keeper.containers.get("missing").await, Kind::NotFound);
    is(keeper.images.get("missing").await, Kind::NotFound);
    is(keeper.containers.update(container("missing"), &labels).await, Kind::NotFound);
    is(keeper.images.update(image("missing"), &labels).await, Kind::NotFound);
    let held = Resource::image("i");
    is(keeper.leases.resources("missing").await, Kind::NotFound);
    is(keeper.leases.add("missing", held.clone()).await, Kind::NotFound);
    is(keeper.leases.remove("missing", &held).await, Kind::NotFound);
}

async fn what_makes_no_sense_is_refused(keeper: &Keeper) {
    async fn check<T: Record>(records: &(impl Records<T> + ?Sized), record: T) {
        is(records.create(record).await, Kind::InvalidArgument);
    }
    let too_long = Labels::from([("k".to_owned(), "v".repeat(4096))]);
    check(&*keeper.containers, container("not/an/id")).await;
    check(&*keeper.containers, Container { runtime: Runtime::default(), ..container("c") }).await;
    check(&*keeper.containers, Container { snapshotter: String::new(), ..container("c") }).await;
    check(&*keeper.containers, Container { labels: too_long.clone(), ..container("c") }).await;
    check(&*keeper.images, image("")).await;
    check(&*keeper.images, Image { labels: too_long.clone(), ..image("i") }).await;
    check(&*keeper.namespaces, namespace("not a name")).await;
    check(&*keeper.namespaces, Namespace { labels: too_long, ..namespace("n") }).await;
    assert_eq!(keeper.containers.list(&Filters::default()).await.unwrap(), []);
    assert_eq!(keeper.images.list(&Filters::default()).await.unwrap(), []);
}

async fn lists_are_by_name_and_filtered(keeper: &Keeper) {
    async fn check<T: Record>(
        records: &(impl Records<T> + ?Sized),
        filters: &[&str],
        want: &[&str],
    ) {
        let found = records.list(&Filters::parse(filters).unwrap()).await.unwrap();
        let names: Vec<_> = found.iter().map(Record::name).collect();
        assert_eq!(names, want, "{filters:?}");
    }
    for name in ["b", "a", "c"] {
        keeper.containers.create(container(name)).await.unwrap();
        keeper.images.create(image(name)).await.unwrap();
        keeper.leases.create(lease(name)).await.unwrap();
    }
    let other = Container { image: "other".into(), labels: Labels::new(), ..container("d") };
    keeper.containers.create(other).await.unwrap();
    check(&*keeper.containers, &[], &["a", "b", "c", "d"]).await;
    check(&*keeper.containers, &["id==b"], &["b"]).await;
    check(&*keeper.containers, &["id==b", "image==other"], &["b", "d"]).await;
    check(&*keeper.containers, &["labels.\"some.key/of\"==value,id!=a"], &["b", "c"]).await;
    check(&*keeper.containers, &["runtime.name~=runc"], &["a", "b", "c", "d"]).await;
    check(&*keeper.images, &[], &["a", "b", "c"]).await;
    check(&*keeper.images, &["name==c"], &["c"]).await;
    let digest = format!("target.digest==\"{}\"", Digest::of("b"));
    check(&*keeper.images, &[&digest], &["b"]).await;
    check(&*keeper.images, &["target.mediatype~=manifest,name~=^a"], &["a"]).await;
    check(&*keeper.leases, &["id==a", "id==b"], &["a", "b"]).await;
}

async fn an_update_changes_what_the_mask_names(keeper: &Keeper) {
    let kept = keeper.containers.create(container("c")).await.unwrap();
    let change = Container {
        labels: [("x".to_owned(), "1".to_owned())].into(),
        image: "other".into(),
        ..container("c")
    };
    let updated =
        keeper.containers.update(change.clone(), &FieldMask::new(["labels.x"])).await.unwrap();
    assert_eq!(updated.labels["x"], "1");
    assert_eq!(updated.labels["some.key/of"], "value");
    assert_eq!((&updated.image, updated.created_at), (&kept.image, kept.created_at));
    assert!(updated.updated_at > kept.updated_at);
    assert_eq!(keeper.containers.get("c").await.unwrap(), updated);

    let updated = keeper.containers.update(change.clone(), &FieldMask::default()).await.unwrap();
    assert_eq!((updated.labels, updated.image), (change.labels.clone(), change.image.clone()));
    let removed = Container { labels: Labels::new(), ..change };
    let updated = keeper.containers.update(removed, &FieldMask::new(["labels.x"])).await.unwrap();
    assert_eq!(updated.labels, Labels::new());
    let runtime = FieldMask::new(["runtime"]);
    is(keeper.containers.update(container("c"), &runtime).await, Kind::InvalidArgument);
    let moved = Container { snapshotter: "other".into(), ..container("c") };
    is(keeper.containers.update(moved, &FieldMask::default()).await, Kind::InvalidArgument);

    keeper.images.create(image("i")).await.unwrap();
    let target = image("other").target;
    let change = Image { target: target.clone(), labels: Labels::new(), ..image("i") };
    let updated = keeper.images.update(change, &FieldMask::new(["target"])).await.unwrap();
    assert_eq!((updated.target, updated.labels), (target, image("i").labels));
    is(keeper.images.update(image("i"), &FieldMask::new(["name"])).await, Kind::InvalidArgument);

    keeper.namespaces.create(namespace("n")).await.unwrap();
    let change = Namespace { name: "n".into(), labels: [("x".into(), "1".into())].into() };
    keeper.namespaces.update(change.clone(), &FieldMask::new(["labels.x"])).await.unwrap();
    assert_eq!(keeper.namespaces.get("n").await.unwrap().labels.len(), 2);
    keeper.namespaces.update(change.clone(), &FieldMask::default()).await.unwrap();
    assert_eq!(keeper.namespaces.get("n").await.unwrap(), change);
}

async fn an_image_is_deleted_only_if_it_names_what_was_said(keeper: &Keeper) {
    keeper.images.create(image("i")).await.unwrap();
    let other = Delete { target: Some(Digest::of("other")), ..Delete::default() };
    is(keeper.images.delete("i", other).await, Kind::NotFound);
    let same = Delete { target: Some(image("i").target.digest), sync: true };
    keeper.images.delete("i", same).await.unwrap();
    is(keeper.images.get("i").await, Kind::NotFound);
}

async fn a_namespace_with_records_cannot_be_deleted(keeper: &Keeper) {
    keeper.images.create(image("i")).await.unwrap();
    keeper.containers.create(container("c")).await.unwrap();
    let namespaces = keeper.namespaces.list(&Filters::default()).await.unwrap();
    let [namespace] = namespaces.as_slice() else {
        unreachable!("the namespace of what was created exists, alone: {namespaces:?}")
    };
    let error = keeper.namespaces.delete(&namespace.name, Delete::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let want = "must be empty, but it still has images, containers: failed precondition";
    assert!(error.to_string().ends_with(want), "{error}");
    keeper.images.delete("i", Delete::default()).await.unwrap();
    keeper.containers.delete("c", Delete::default()).await.unwrap();
    keeper.namespaces.delete(&namespace.name, Delete::default()).await.unwrap();
    is(keeper.namespaces.delete(&namespace.name, Delete::default()).await, Kind::NotFound);
}

async fn a_lease_holds_what_it_was_given(keeper: &Keeper) {
    let mut held = [
        Resource::content(&Digest::of("x")),
        Resource::image("i"),
        Resource::ingest("layer"),
        Resource::snapshot("overlayfs", "key"),
    ];
    held.sort();
    keeper.leases.create(lease("l")).await.unwrap();
    for resource in held.iter().chain(&held) {
        keeper.leases.add("l", resource.clone()).await.unwrap();
    }
    let mut found = keeper.leases.resources("l").await.unwrap();
    found.sort();
    assert_eq!(found, held);
    for resource in &held {
        keeper.leases.remove("l", resource).await.unwrap();
    }
    assert_eq!(keeper.leases.resources("l").await.unwrap(), []);
    keeper.leases.remove("l", &held[0]).await.unwrap();
    let beef = Resource { id: "sha256:beef".into(), kind: "content".into() };
    is(keeper.leases.add("l", beef).await, Kind::InvalidArgument);
    let volume = Resource { id: "v".into(), kind: "volumes".into() };
    is(keeper.leases.add("l", volume).await, Kind::Unimplemented);
    keeper.leases.delete("l", Delete { sync: true, target: None }).await.unwrap();
    is(keeper.leases.resources("l").await, Kind::NotFound);
}

async fn a_sandbox_is_a_record_like_others(keeper: &Keeper) {
    let sandboxes = &*keeper.sandboxes;
    is(sandboxes.get("s").await, Kind::NotFound);
    is(sandboxes.delete("s", Delete::default()).await, Kind::NotFound);
    is(sandboxes.create(sandbox("not/an/id")).await, Kind::InvalidArgument);
    let created = sandboxes.create(sandbox("s")).await.unwrap();
    let want =
        Sandbox { created_at: created.created_at, updated_at: created.updated_at, ..sandbox("s") };
    assert_eq!(created, want);
    assert_eq!(sandboxes.get("s").await.unwrap(), want);
    is(sandboxes.create(sandbox("s")).await, Kind::AlreadyExists);

    let bare = Sandbox {
        runtime: Runtime::default(),
        spec: None,
        labels: Labels::new(),
        extensions: [].into(),
        sandboxer: String::new(),
        ..sandbox("bare")
    };
    sandboxes.create(bare).await.unwrap();
    let found = sandboxes.list(&Filters::default()).await.unwrap();
    assert_eq!(found.iter().map(Record::name).collect::<Vec<_>>(), ["bare", "s"]);
    let filter = Filters::parse(["labels.\"some.key/of\"==value"]).unwrap();
    let found = sandboxes.list(&filter).await.unwrap();
    assert_eq!(found.iter().map(Record::name).collect::<Vec<_>>(), ["s"]);

    let change = Sandbox { spec: Some(Any::new("spec", "other")), ..sandbox("s") };
    let updated = sandboxes.update(change.clone(), &FieldMask::new(["spec"])).await.unwrap();
    assert_eq!(updated.spec, change.spec);
    assert_eq!((updated.created_at, &updated.extensions), (created.created_at, &want.extensions));
    is(sandboxes.update(change, &FieldMask::new(["sandboxer"])).await, Kind::InvalidArgument);
    is(sandboxes.update(sandbox("missing"), &FieldMask::new(["labels"])).await, Kind::NotFound);
    sandboxes.delete("s", Delete::default()).await.unwrap();
    is(sandboxes.get("s").await, Kind::NotFound);
}

#[track_caller]
fn is<T>(outcome: Result<T>, want: Kind) {
    assert_eq!(outcome.map(drop).unwrap_err().kind(), want);
}

fn some_labels() -> Labels {
    [("some.key/of".to_owned(), "value".to_owned())].into()
}

fn namespace(name: &str) -> Namespace {
    Namespace { name: name.into(), labels: some_labels() }
}

fn container(id: &str) -> Container {
    let now = SystemTime::now();
    Container {
        id: id.into(),
        labels: some_labels(),
        image: "busybox".into(),
        runtime: Runtime {
            name: "io.containerd.runc.v2".into(),
            options: Some(Any::new("options", "o")),
        },
        spec: Some(Any::new("types.containerd.io/opencontainers/runtime-spec/1/Spec", "{}")),
        snapshotter: "overlayfs".into(),
        snapshot_key: id.into(),
        created_at: now,
        updated_at: now,
        extensions: [("x".to_owned(), Any::new("extension", vec![0, 1, 255]))].into(),
        sandbox: "pod".into(),
    }
}

fn image(name: &str) -> Image {
    let now = SystemTime::now();
    let mut target = Descriptor::new(media_types::MANIFEST, Digest::of(name), 7);
    target.annotations = some_labels();
    Image { name: name.into(), labels: some_labels(), target, created_at: now, updated_at: now }
}

fn lease(id: &str) -> Lease {
    Lease { id: id.into(), created_at: SystemTime::now(), labels: some_labels() }
}

fn sandbox(id: &str) -> Sandbox {
    let now = SystemTime::now();
    Sandbox {
        id: id.into(),
        runtime: Runtime {
            name: "io.containerd.runc.v2".into(),
            options: Some(Any::new("options", "o")),
        },
        spec: Some(Any::new("types.containerd.io/opencontainers/runtime-spec/1/Spec", "{}")),
        labels: some_labels(),
        created_at: now,
        updated_at: now,
        extensions: [("x".to_owned(), Any::new("extension", vec![0, 1, 255]))].into(),
        sandboxer: "shim".into(),
    }
}
