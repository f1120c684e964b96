// SPDX-License-Identifier: Apache-2.0
//! Files are made here by hand, as bbolt lays them out; that Go's own are read is for the tests of
//! those who read them.
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use types::Kind;

use super::*;

const SIZE: usize = 4096;

enum Element {
    Value(&'static str, Vec<u8>),
    Bucket(&'static str, Vec<u8>),
}

fn page(id: u64, flags: u16, elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let mut head = id.to_le_bytes().to_vec();
    head.extend(flags.to_le_bytes());
    head.extend((elements.len() as u16).to_le_bytes());
    head.extend(0_u32.to_le_bytes());
    let mut data = Vec::new();
    for (at, (element_flags, key, value)) in elements.iter().enumerate() {
        let pos = ((elements.len() - at) * 16 + data.len()) as u32;
        if flags == 2 {
            for number in [*element_flags, pos, key.len() as u32, value.len() as u32] {
                head.extend(number.to_le_bytes());
            }
            data.extend([*key, *value].concat());
        } else {
            head.extend(pos.to_le_bytes());
            head.extend((key.len() as u32).to_le_bytes());
            head.extend(*value);
            data.extend(*key);
        }
    }
    head.extend(data);
    head
}

fn leaf(id: u64, elements: &[Element]) -> Vec<u8> {
    let elements: Vec<_> = elements
        .iter()
        .map(|element| match element {
            Element::Value(key, value) => (0, key.as_bytes(), &value[..]),
            Element::Bucket(key, value) => (1, key.as_bytes(), &value[..]),
        })
        .collect();
    page(id, 2, &elements)
}

/// A bucket in the page of its parent.
fn inline(sequence: u64, elements: &[Element]) -> Vec<u8> {
    [&0_u64.to_le_bytes()[..], &sequence.to_le_bytes(), &leaf(0, elements)].concat()
}

fn meta_page(id: u64, root: u64, transaction: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [0xED0C_DAED_u32, 2, SIZE as u32, 0] {
        body.extend(number.to_le_bytes());
    }
    for number in [root, 7, 2, 9, transaction] {
        body.extend(number.to_le_bytes());
    }
    let sum = meta::fnv(&body);
    body.extend(sum.to_le_bytes());
    [page(id, 4, &[]), body].concat()
}

fn file(pages: Vec<Vec<u8>>) -> Vec<u8> {
    let pad = |mut page: Vec<u8>| {
        page.resize(SIZE, 0);
        page
    };
    pages.into_iter().flat_map(pad).collect()
}

/// Two leaf pages under a branch, and a bucket within a bucket.
fn sample() -> Vec<u8> {
    let inner = inline(5, &[Element::Value("deep", b"down".to_vec())]);
    let outer = inline(3, &[Element::Bucket("inner", inner), Element::Value("x", b"y".to_vec())]);
    let to = |id: u64| id.to_le_bytes();
    file(vec![
        meta_page(0, 9, 1),
        meta_page(1, 3, 2),
        vec![0; 16],
        page(3, 1, &[(0, b"a", &to(4)), (0, b"m", &to(5))]),
        leaf(4, &[Element::Value("a", b"1".to_vec()), Element::Bucket("b", outer)]),
        leaf(5, &[Element::Value("m", b"2".to_vec()), Element::Value("z", vec![])]),
    ])
}

#[test]
fn values_and_buckets_are_found_by_name() {
    let db = Db::read(sample()).unwrap();
    let root = db.root();
    assert_eq!(root.value("a").unwrap(), Some(&b"1"[..]));
    assert_eq!(root.value("m").unwrap(), Some(&b"2"[..]));
    assert_eq!(root.value("z").unwrap(), Some(&b""[..]));
    for absent in ["", "0", "aa", "n", "zz", "b"] {
        assert_eq!(root.value(absent).unwrap(), None, "{absent}");
    }
    let outer = root.bucket("b").unwrap().unwrap();
    let inner = outer.bucket("inner").unwrap().unwrap();
    assert_eq!((outer.sequence(), inner.sequence()), (3, 5));
    assert_eq!(inner.value("deep").unwrap(), Some(&b"down"[..]));
    let keys: Vec<_> = root.items().unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"a", b"b", b"m", b"z"]);
    assert_eq!(outer.buckets().unwrap().len(), 1);
}

#[test]
fn the_newer_meta_page_counts_unless_it_is_damaged() {
    let mut bytes = sample();
    bytes[SIZE + 20] ^= 1;
    // The older one points past the end.
    let db = Db::read(bytes.clone()).unwrap();
    assert_eq!(db.root().value("a").unwrap_err().kind(), Kind::DataLoss);
    bytes[SIZE + 20] ^= 1;
    bytes[16] ^= 1;
    assert_eq!(Db::read(bytes.clone()).unwrap().root().value("a").unwrap(), Some(&b"1"[..]));
    bytes[SIZE + 20] ^= 1;
    assert_eq!(Db::read(bytes).unwrap_err().kind(), Kind::DataLoss);
}

#[test]
fn a_circle_of_pages_ends() {
    let to = |id: u64| id.to_le_bytes();
    let bytes = file(vec![
        meta_page(0, 3, 1),
        meta_page(1, 3, 2),
        vec![0; 16],
        page(3, 1, &[(0, b"a", &to(3))]),
    ]);
    let db = Db::read(bytes).unwrap();
    assert_eq!(db.root().value("a").unwrap_err().kind(), Kind::DataLoss);
    assert_eq!(db.root().items().unwrap_err().kind(), Kind::DataLoss);
}

#[test]
fn a_file_that_somebody_writes_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    fs::write(&path, sample()).unwrap();
    let writer = fs::File::open(&path).unwrap();
    writer.file().lock().unwrap();
    assert_eq!(Db::open(&path).unwrap_err().kind(), Kind::Unavailable);
    drop(writer);
    assert!(Db::open(&path).is_ok());
}

#[test]
fn numbers_times_and_typed_values_are_read_as_go_writes_them() {
    assert_eq!(value::unsigned(Some(&[0xac, 0x02])).unwrap(), 300);
    assert_eq!(value::unsigned(None).unwrap(), 0);
    assert!(value::unsigned(Some(&[0x80])).is_err());
    assert_eq!(value::signed(Some(&[0x03])).unwrap(), -2);
    assert_eq!(value::signed(Some(&[0xd8, 0x04])).unwrap(), 300);
    // time.Unix(1, 5).UTC().MarshalBinary()
    let bytes = [1, 0, 0, 0, 0x0e, 0x77, 0x91, 0xf7, 0x01, 0, 0, 0, 5, 0xff, 0xff];
    assert_eq!(value::time(&bytes).unwrap(), UNIX_EPOCH + Duration::new(1, 5));
    assert!(value::time(&bytes[..14]).is_err());
    let any = value::any(b"\x0a\x01t\x12\x02vv").unwrap();
    assert_eq!((any.type_url.as_str(), &any.value[..]), ("t", &b"vv"[..]));
    assert!(value::any(b"\x0a\x09t").is_err());
}

/// Everything there is, as deep as it goes.
fn walk(bucket: &Bucket<'_>) -> Result<usize> {
    let mut count = 0;
    for (key, item) in bucket.items()? {
        count += 1;
        if let Item::Bucket(inner) = item {
            count += walk(&inner)?;
        }
        if let Ok(key) = value::text(key) {
            bucket.find(key.as_bytes())?;
        }
    }
    Ok(count)
}

#[test]
fn the_sample_is_walked_to_its_end() {
    assert_eq!(walk(&Db::read(sample()).unwrap().root()).unwrap(), 7);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_an_error_or_another_tree_and_never_a_panic(
        hits in proptest::collection::vec((SIZE * 3..SIZE * 6, any::<u8>()), 1..8),
        len in SIZE * 3..SIZE * 6,
    ) {
        let mut bytes = sample();
        for (at, byte) in hits {
            // Most of a page is empty: the damage is to be where something is.
            let at = at / SIZE * SIZE + at % 128;
            bytes[at] = byte;
        }
        bytes.truncate(len);
        if let Ok(db) = Db::read(bytes) {
            drop(walk(&db.root()));
        }
    }
}
