// SPDX-License-Identifier: Apache-2.0
use content::{Memory, Store, blob};
use trust::{Evidence, PrivateKey, keep, kept};
use types::{Descriptor, Digest, Labels, media_types};

async fn store_with(data: &'static str) -> (Memory, Digest) {
    let store = Memory::default();
    let image =
        blob::write(&store, "image", Default::default(), data, Labels::new()).await.unwrap();
    (store, image)
}

#[tokio::test]
async fn what_is_kept_is_found_from_the_image() {
    let (store, image) = store_with("{}").await;
    let (one, two) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    assert_eq!(kept(&store, &image).await.unwrap(), []);
    for key in [&one, &two, &one] {
        let evidence = Evidence::sign(key, "r.io/a:1", &image).unwrap();
        keep(&store, &image, &evidence).await.unwrap();
    }
    let found = kept(&store, &image).await.unwrap();
    assert_eq!(found.len(), 2, "the same signature twice is one");
    assert!([&one, &two].iter().all(|key| found.iter().any(|it| it.is_by(&key.public(), &image))));
    // Everything hangs on the image.
    for evidence in found {
        let labels = store.info(&evidence.manifest.digest).await.unwrap().labels;
        let held: Vec<_> = labels.into_values().collect();
        assert!(evidence.parts.iter().all(|(part, _)| held.contains(&part.digest.to_string())));
    }
}

#[tokio::test]
async fn a_label_that_leads_nowhere_hides_nothing() {
    let (store, image) = store_with("{}").await;
    let key = PrivateKey::generate().unwrap();
    keep(&store, &image, &Evidence::sign(&key, "r.io/a:1", &image).unwrap()).await.unwrap();
    let mut info = store.info(&image).await.unwrap();
    for (at, digest) in ["nonsense", Digest::of("gone").as_str(), image.as_str()].iter().enumerate()
    {
        let label = format!("containerd.io/gc.ref.content.referrer.{at}");
        info.labels.insert(label, (*digest).to_owned());
    }
    store.update(info, &types::FieldMask::new(["labels"])).await.unwrap();
    let found = kept(&store, &image).await.unwrap();
    assert!(matches!(&found[..], [one] if one.is_by(&key.public(), &image)));
}

#[tokio::test]
async fn an_image_that_is_not_there_has_no_signatures() {
    assert_eq!(kept(&Memory::default(), &Digest::of("gone")).await.unwrap(), []);
}

#[test]
fn a_referrer_says_the_same_of_its_subject() {
    let key = PrivateKey::generate().unwrap();
    let image = Descriptor::new(media_types::INDEX, Digest::of("index"), 5);
    let evidence = Evidence::sign(&key, "r.io/a:1", &image.digest).unwrap();
    let referrer = evidence.referring_to(&image).unwrap();
    assert!(referrer.is_by(&key.public(), &image.digest));
    let manifest: serde_json::Value = serde_json::from_slice(&referrer.data).unwrap();
    assert_eq!(manifest["subject"]["digest"], image.digest.as_str());
    assert_eq!(trust::tag(&image.digest), format!("sha256-{}.sig", image.digest.hex()));
}
