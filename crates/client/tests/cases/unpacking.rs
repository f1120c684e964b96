// SPDX-License-Identifier: Apache-2.0
//! Layers on top of each other, in whatever order they are unpacked.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use client::Client;
use futures_util::stream::BoxStream;
use mount::Mount;
use records::Delete;
use snapshots::{Commit, Info, Native, Snapshotter, Usage};
use types::{Error, FieldMask, Filters, Kind, Labels, Result, labels::SNAPSHOT_REF};

use super::{
    image::{Layer, dir, file, image, layer, link, plain},
    remote::Remote,
    world::{World, pull},
};

/// Unpacks `layers` with 1 and with 4 at once, and by copying. All have to come out the same.
async fn check(layers: &[Layer], want_applied: usize) -> Vec<String> {
    let remote = Remote::default();
    let image = image(&remote, layers);
    let mut trees = Vec::new();
    for (snapshotter, parallel) in [("native", 4), ("overlay", 1), ("overlay", 4)] {
        let world = World::new().await;
        let mut pull = pull(&remote, &image.manifest, snapshotter);
        pull.unpack[0].parallel = parallel;
        world.client().pull(&pull).await.unwrap();
        let (chains, expected) = (world.snapshots(snapshotter).await, layers.len());
        assert_eq!(chains, (expected, 0), "{snapshotter} {parallel}");
        trees.push(world.files(snapshotter, &image.top()).await);
        let want = if parallel > 1 && snapshotter == "overlay" { want_applied } else { expected };
        assert_eq!(world.applied(), want, "{snapshotter} {parallel}");
    }
    assert_eq!(without_directories(&trees[1]), without_directories(&trees[0]), "as a copy");
    assert_eq!(trees[2], trees[1], "side by side looks like one by one");
    trees.remove(0).into_keys().collect()
}

/// All but directories: writing into one that is not an overlay changes its time.
fn without_directories(tree: &BTreeMap<String, String>) -> Vec<&String> {
    tree.values().filter(|line| !line.starts_with('4')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_describe_all_they_use_are_unpacked_side_by_side() {
    assert_eq!(check(&plain(), 3).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_hide_what_is_beneath() {
    let beneath = layer(&[
        dir("a", 0o755),
        file("a/gone", "1"),
        file("a/kept", "2"),
        dir("b", 0o755),
        file("b/old", "3"),
        file("c", "4"),
    ]);
    let above = layer(&[
        dir("a", 0o755),
        file("a/.wh.gone", ""),
        dir("b", 0o711),
        file("b/.wh..wh..opq", ""),
        file("b/new", "5"),
        file(".wh.c", ""),
    ]);
    let files = check(&[beneath, above, layer(&[file("d", "6")])], 3).await;
    assert_eq!(files, ["a", "a/kept", "b", "b/new", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_takes_a_directory_for_granted_gets_that_of_its_parent() {
    let beneath = layer(&[dir("private", 0o700), file("private/a", "1")]);
    let above = layer(&[file("private/b", "2")]);
    let files = check(&[beneath, above, layer(&[file("c", "3")])], 4).await;
    assert_eq!(files, ["c", "private", "private/a", "private/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_may_take_the_place_of_a_directory() {
    let beneath = layer(&[dir("a", 0o755), file("a/b", "1")]);
    let between = layer(&[file("a", "a file now")]);
    let above = layer(&[dir("a", 0o700), file("a/c", "2")]);
    assert_eq!(check(&[beneath, between, above], 3).await, ["a", "a/c"]);
}

#[tokio::test]
async fn a_link_to_a_file_of_another_layer_is_the_same_one_by_one_and_side_by_side() {
    let remote = Remote::default();
    let beneath = layer(&[file("a", "1")]);
    let image = image(&remote, &[beneath, layer(&[link("b", "a")]), layer(&[file("c", "3")])]);
    let mut outcomes = Vec::new();
    for parallel in [1, 4] {
        let world = World::new().await;
        let mut pull = pull(&remote, &image.manifest, "overlay");
        pull.unpack[0].parallel = parallel;
        let outcome = world.client().pull(&pull).await;
        outcomes.push(match outcome {
            Ok(_) => Ok(world.files("overlay", &image.top()).await),
            Err(error) => Err(error.kind()),
        });
        assert_eq!(world.snapshots("overlay").await.1, 0);
    }
    assert_eq!(outcomes[0], outcomes[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_unpacked_leaves_no_active_snapshot() {
    for parallel in [1, 4] {
        let (world, remote) = (World::new().await, Remote::default());
        let bad = layer(&[file("a/.wh..", "")]);
        let image = image(&remote, &[layer(&[file("a", "1")]), bad, layer(&[file("c", "3")])]);
        let mut pull = pull(&remote, &image.manifest, "overlay");
        pull.unpack[0].parallel = parallel;
        let error = world.client().pull(&pull).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        let start = format!(
            "failed to extract layer ({} {}) to overlay as \"extract-",
            image.layers[1].media_type, image.layers[1].digest
        );
        assert!(error.to_string().starts_with(&start), "{error}");
        assert_eq!(world.snapshots("overlay").await.1, 0);
        world.db.collect().await.unwrap();
        assert_eq!((world.blobs().await.len(), world.snapshots("overlay").await), (0, (0, 0)));
    }
}

#[tokio::test]
async fn a_diff_id_that_is_not_true_is_found_out() {
    let (world, remote) = (World::new().await, Remote::default());
    let layers = plain();
    let liar = image(&remote, &layers);
    let config = String::from_utf8(remote.get(&liar.config.digest).to_vec()).unwrap();
    let other = types::Digest::of("other");
    let config = config.replace(liar.diff_ids[1].as_str(), other.as_str());
    let config = remote.add(&liar.config.media_type, config);
    let manifest = String::from_utf8(remote.get(&liar.manifest.digest).to_vec()).unwrap();
    let manifest = manifest.replace(liar.config.digest.as_str(), config.digest.as_str());
    let manifest = remote.add(&liar.manifest.media_type, manifest);
    let error = world.client().pull(&pull(&remote, &manifest, "overlay")).await.unwrap_err();
    let want = format!("wrong diff id calculated on extraction \"{other}\"");
    assert_eq!(error.to_string(), want);
    assert_eq!(world.snapshots("overlay").await.1, 0);
}

#[tokio::test]
async fn a_layer_that_a_snapshotter_brings_is_not_fetched() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let inner = Arc::new(Native::open(world.folder.path().join("lazy")).unwrap());
    let lazy = Arc::new(Odd { brings: image.diff_ids[0].to_string(), ..Odd::over(inner) });
    let mut client = world.client();
    client.under = None;
    let snapshotter: Arc<dyn Snapshotter> = lazy.clone();
    client.snapshotters = Arc::new(move |_| Ok(snapshotter.clone()));
    let mut pull = pull(&remote, &image.manifest, "lazy");
    pull.unpack[0].brings_layers = true;
    client.pull(&pull).await.unwrap();
    assert_eq!(remote.offsets(&image.layers[0].digest), [] as [u64; 0]);
    assert_eq!(remote.fetches(), 4);
    let heard = lazy.heard.lock().unwrap();
    let said = |key: &str| heard[0][&format!("containerd.io/snapshot/cri.{key}")].clone();
    assert_eq!(said("image-ref"), pull.name);
    assert_eq!(said("layer-digest"), image.layers[0].digest.as_str());
    assert_eq!(said("image-layers").split(',').count(), 3);
}

/// As when a collection comes between the question and the use of the answer.
#[tokio::test]
async fn a_layer_that_goes_while_it_is_looked_at_is_unpacked_again() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let pull = pull(&remote, &image.manifest, "native");
    let (client, name) = (world.client(), pull.name.clone());
    client.pull(&pull).await.unwrap();
    let files = world.files("native", &image.top()).await;
    client.images.delete(&name, Delete::default()).await.unwrap();
    let top = image.top().to_string();
    let odd = move |client: &Client| {
        let inner = (client.snapshotters)("native").unwrap();
        let odd = Odd { loses: Mutex::new(Some(top.clone())), ..Odd::over(inner) };
        let snapshotter: Arc<dyn Snapshotter> = Arc::new(odd);
        Client {
            snapshotters: Arc::new(move |_| Ok(snapshotter.clone())),
            under: None,
            ..client.clone()
        }
    };
    let under = client.under.clone().unwrap();
    let held = move |lease: &str| Ok(odd(&under(lease)?));
    let applied = world.applied();
    Client { under: Some(Arc::new(held)), ..client }.pull(&pull).await.unwrap();
    assert!(world.applied() > applied, "it was lost");
    assert_eq!(world.files("native", &image.top()).await, files);
}

/// A snapshotter that has a layer already, as one does that mounts layers from afar, or that loses
/// one as soon as it has said that it has it.
struct Odd {
    inner: Arc<dyn Snapshotter>,
    brings: String,
    loses: Mutex<Option<String>>,
    heard: Mutex<Vec<Labels>>,
}

impl Odd {
    fn over(inner: Arc<dyn Snapshotter>) -> Self {
        let (brings, loses, heard) = (String::new(), Mutex::default(), Mutex::default());
        Self { inner, brings, loses, heard }
    }
}

#[async_trait]
impl Snapshotter for Odd {
    async fn stat(&self, key: &str) -> Result<Info> {
        let info = self.inner.stat(key).await?;
        let lost = self.loses.lock().unwrap().take_if(|it| it == key);
        if let Some(lost) = lost {
            self.inner.remove(&lost).await?;
        }
        Ok(info)
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        self.inner.update(info, mask).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        self.inner.usage(key).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.inner.mounts(key).await
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.heard.lock().unwrap().push(labels.clone());
        if labels[SNAPSHOT_REF] != self.brings {
            return self.inner.prepare(key, parent, labels).await;
        }
        self.inner.prepare(key, parent, labels).await?;
        self.inner.commit(&self.brings, key, Commit::default()).await?;
        Err(Error::already_exists(format!("target snapshot {:?}", self.brings)))
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.inner.view(key, parent, labels).await
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        self.inner.commit(name, key, options).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.inner.remove(key).await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        self.inner.walk(filters)
    }

    async fn cleanup(&self) -> Result<()> {
        self.inner.cleanup().await
    }
}
