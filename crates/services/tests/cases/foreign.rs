// SPDX-License-Identifier: Apache-2.0
//! What reads foreign input, and what has to hold whatever it reads.
use std::{
    collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::SystemTime,
};

use content::Memory;
use diff::{Options, Target as Place, Whiteouts};
use fs_err as fs;
use images::{Document, Referrer};
use metadata::{Backends, Db};
use mount::ActivationInfo;
use records::{Delete, Image};
use registry::Reference;
use tempfile::TempDir;
use types::{Descriptor, Digest, Filters, Labels, Platform, media_types};

use super::{
    fuzz::{Target, in_few_words},
    world::scope,
};

fn as_it_is(_input: &mut [u8]) {}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

const TAR: &[&[u8]] = &[
    b"ustar\x0000",
    b"ustar  \0",
    b"\0\0\0\0\0\0\0\0",
    b".wh.",
    b".wh..wh..opq",
    b"../",
    b"/",
    b"a/b",
    b"0000000",
    b"7777777",
    b"00000001000\0",
    b"77777777777\0",
    b"\x80\0\0\0\0\0\0\0\0\0\0\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"20 path=a/b/../../c\n",
    b"19 linkpath=/etc/x\n",
    b"25 GNU.sparse.major=1\n",
    b"30 GNU.sparse.realsize=99999\n",
    b"22 GNU.sparse.map=0,1\n",
    b"28 SCHILY.xattr.user.x=long\n",
    b"13 size=9999\n",
    b"21 mtime=99999999999\n",
    b"0",
    b"1",
    b"2",
    b"3",
    b"5",
    b"6",
    b"x",
    b"g",
    b"L",
    b"K",
    b"S",
];

/// Makes records of PAX as long as they say, and every block a header, so that what is in them is
/// looked at.
fn fix_archive(input: &mut [u8]) {
    let headers = (0..input.len() / 512).map(|block| block * 512);
    for at in headers.filter(|&at| at + 1024 <= input.len()).collect::<Vec<_>>() {
        if &input[at + 257..at + 262] == b"ustar" && matches!(input[at + 156], b'x' | b'g') {
            let (header, rest) = input[at..].split_at_mut(512);
            fix_records(header, rest);
        }
    }
    fix_checksums(input);
}

/// Each record begins with its own length (pax(1), "pax Extended Header").
fn fix_records(header: &mut [u8], rest: &mut [u8]) {
    let digits = String::from_utf8_lossy(&header[124..135]).into_owned();
    let size = usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).unwrap_or(0);
    let room = size.next_multiple_of(512).min(rest.len());
    let mut records = Vec::new();
    for line in rest[..size.min(room)].split(|&byte| byte == b'\n') {
        let Some(space) = line.iter().position(|&byte| byte == b' ') else { continue };
        let length = line.len() - space + 1;
        let digits = (1..5).find(|&digits| (length + digits).to_string().len() == digits);
        records.extend((length + digits.unwrap_or(4)).to_string().bytes());
        records.extend_from_slice(&line[space..]);
        records.push(b'\n');
    }
    if records.len() <= room {
        header[124..136].copy_from_slice(format!("{:011o}\0", records.len()).as_bytes());
        rest[..room].fill(0);
        rest[..records.len()].copy_from_slice(&records);
    }
}

/// Makes every block a header, so that what is in it is looked at.
fn fix_checksums(input: &mut [u8]) {
    for block in input.chunks_exact_mut(512).filter(|block| block[..100] != [0; 100]) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn unpack(input: &[u8], into: &Path, whiteouts: Whiteouts) -> types::Result<diff::Applied> {
    fs::create_dir(into).unwrap();
    let place = Place { directory: into.to_owned(), whiteouts, parents: Vec::new() };
    let options = Options { sync: false, max_size: 1 << 20, ..Options::default() };
    diff::apply(input, media_types::LAYER_GZIP, &place, &options)
}

/// The bytes that all files would have, holes and all.
fn total(directory: &Path) -> u64 {
    let size = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let it = entry.metadata().unwrap();
        if it.is_dir() { total(&entry.path()) } else { it.size() }
    };
    fs::read_dir(directory).unwrap().map(size).fold(0, u64::saturating_add)
}

/// Nothing outside is touched; and what was unpacked gives the same archive wherever it is.
fn archive(input: &[u8]) -> String {
    let top = TempDir::new_in("/dev/shm").unwrap();
    let upper = unpack(input, &top.path().join("upper"), Whiteouts::Overlay { userxattr: false });
    let root = top.path().join("root");
    let applied = unpack(input, &root, Whiteouts::Remove);
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 2, "something is outside");
    let upper = upper.map_or_else(|error| in_few_words(&error), |_| String::new());
    let applied = match applied {
        Err(error) => return format!("{} / {upper}", in_few_words(&error)),
        Ok(applied) => applied,
    };
    if total(&root) < 1 << 20 {
        let told = diff::compare(None, &root, None, None, Vec::new()).unwrap();
        let again = top.path().join("again");
        unpack(&told, &again, Whiteouts::Remove).unwrap();
        let same = diff::compare(None, &again, None, None, Vec::new()).unwrap();
        assert!(told == same, "it does not come back the same");
    }
    let count = fs::read_dir(&root).unwrap().count();
    format!("{count} {} / {upper}", applied.size.checked_ilog2().unwrap_or(0))
}

#[test]
fn layers_of_all_sorts_are_borne() {
    let (words, repair) = (TAR, fix_archive as fn(&mut [u8]));
    Target { name: "layers", words, repair, read: &archive }.play();
}

const FILTER: &[&[u8]] = &[
    b"==",
    b"!=",
    b"~=",
    b",",
    b".",
    b"\"",
    b"\\\"",
    b"\\x41",
    b"\\u00e9",
    b"/",
    b"|",
    b"labels.",
    b"labels.\"a.b\"",
    b"name",
    b"id",
    b"^a",
    b"(",
    b"[a-",
    b"{9999}",
    b"*",
    b"$",
    b" ",
    b"\\",
];

fn filter(input: &[u8]) -> String {
    let filters = match Filters::parse([text(input)]) {
        Err(error) => return in_few_words(&error),
        Ok(filters) => filters,
    };
    let labels = Labels::from([("a.b".to_owned(), "c".to_owned())]);
    let thing = ActivationInfo { name: "a".into(), labels, ..ActivationInfo::default() };
    let again = Filters::parse(filters.texts()).unwrap();
    assert_eq!(filters.matches(&thing), again.matches(&thing));
    let equal = filters.iter().map(|filter| filter.equalities().count()).sum::<usize>();
    format!("{} {equal}", filters.matches(&thing))
}

#[test]
fn filters_of_all_sorts_are_borne() {
    Target { name: "filters", words: FILTER, repair: as_it_is, read: &filter }.play();
}

const REFERENCE: &[&[u8]] = &[
    b"/",
    b":",
    b"@",
    b"sha256:",
    b"..",
    b".",
    b"docker.io/",
    b"localhost:5000/",
    b"[::1]:5000/",
    b"latest",
    b"https://",
    b"%2f",
    b"?",
    b"#",
    b"_",
    b"--",
    b"linux",
    b"arm64",
    b"/v8",
    b"(10.0)",
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

/// A name, or a platform, or a digest: what was read is written such that it is read again.
fn reference(input: &[u8]) -> String {
    let text = text(input);
    let platform = match text.parse::<Platform>() {
        Err(error) => in_few_words(&error),
        Ok(platform) => {
            let again: Platform = platform.to_string().parse().unwrap();
            assert_eq!(again.normalized(), platform.normalized());
            "platform".into()
        }
    };
    let digest = match text.parse::<Digest>() {
        Err(error) => in_few_words(&error),
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            "digest".into()
        }
    };
    let reference = match text.parse::<Reference>() {
        Err(error) => in_few_words(&error),
        // Compat: a host alone is a reference, though what is written of it may be none.
        Ok(reference) if reference.repository().is_empty() => "host".into(),
        Ok(reference) => {
            let again: Reference = reference.to_string().parse().unwrap();
            assert_eq!(again.to_string(), reference.to_string());
            assert_eq!(again.host(), reference.host());
            assert!(!reference.repository().split('/').any(|part| part == ".."), "{text:?}");
            format!("{} {}", reference.tag().is_some(), reference.digest().is_ok())
        }
    };
    format!("{reference} / {platform} / {digest}")
}

#[test]
fn references_of_all_sorts_are_borne() {
    Target { name: "references", words: REFERENCE, repair: as_it_is, read: &reference }.play();
}

const DOCUMENT: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\"manifests\":",
    b"\"layers\":",
    b"\"config\":",
    b"\"subject\":",
    b"\"mediaType\":",
    b"\"digest\":",
    b"\"size\":",
    b"\"urls\":",
    b"\"platform\":",
    b"\"annotations\":",
    b"application/vnd.oci.image.index.v1+json",
    b"application/vnd.oci.image.manifest.v1+json",
];

fn document(input: &[u8]) -> String {
    let digest = Digest::of(input);
    let read = |media_type: &str| {
        let descriptor = Descriptor::new(media_type, digest.clone(), input.len() as u64);
        match Document::parse(&descriptor, input) {
            Err(error) => in_few_words(&error),
            Ok(Some(Document::Index(index))) => format!("index {}", index.manifests.len().min(3)),
            Ok(Some(Document::Manifest(it))) => format!("manifest {}", it.layers.len().min(3)),
            Ok(None) => "none".into(),
        }
    };
    let refers = Referrer::parse(&digest, input).is_some();
    let mounts = mount::mountinfo::parse(input).map_or(9, |entries| entries.len().min(3));
    format!("{} / {} / {refers} / {mounts}", read(media_types::INDEX), read(media_types::MANIFEST))
}

#[test]
fn documents_of_all_sorts_are_borne() {
    Target { name: "documents", words: DOCUMENT, repair: as_it_is, read: &document }.play();
}

const LABEL: &[&[u8]] = &[
    b"=",
    b"\n",
    b"containerd.io/gc.root",
    b"containerd.io/gc.expire",
    b"containerd.io/gc.flat",
    b"containerd.io/gc.ref.content",
    b"containerd.io/gc.ref.content.0",
    b"containerd.io/gc.ref.snapshot.overlayfs",
    b"containerd.io/gc.ref.image",
    b"containerd.io/gc.bref.container",
    b"containerd.io/gc.bref.image",
    b"containerd.io/distribution.source.",
    b"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"2099-01-01T00:00:00Z",
    b"0001-01-01T00:00:00+99:99",
    b"/",
    b"@",
    b"a@b",
];

/// Labels, a line each: whatever is kept with them is found by them, and collecting copes with them.
async fn labelled(db: &Db, input: &[u8]) -> String {
    let labels: Labels = text(input)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let now = SystemTime::now();
    let (images, name) = (db.scope(scope()).images(), "labelled".to_owned());
    let target = Descriptor::new(media_types::MANIFEST, Digest::of("none"), 4);
    let image = Image { name, labels: labels.clone(), target, created_at: now, updated_at: now };
    let made = match images.create(image).await {
        Err(error) => return in_few_words(&error),
        Ok(made) => made,
    };
    // Labels without a value are not kept.
    let is_kept = |(_, value): &(&String, &String)| !value.is_empty();
    let plain =
        |text: &str| text.bytes().all(|it| it.is_ascii_alphanumeric() || b"./:@-+_".contains(&it));
    for (key, value) in labels.iter().filter(is_kept).filter(|(key, _)| !key.is_empty()) {
        assert_eq!(made.labels.get(key), Some(value));
        if plain(key) && plain(value) {
            let filters = Filters::parse([format!("labels.\"{key}\"==\"{value}\"")]).unwrap();
            assert_eq!(images.list(&filters).await.unwrap().len(), 1, "{filters:?}");
        }
    }
    db.collect().await.unwrap();
    // One that has expired is collected.
    let gone = images.get("labelled").await.is_err();
    if !gone {
        images.delete("labelled", Delete::default()).await.unwrap();
    }
    format!("{gone} {}", made.labels.len().min(4))
}

#[test]
fn labels_of_all_sorts_are_borne() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = TempDir::new_in("/dev/shm").unwrap();
    let snapshotters = BTreeMap::new();
    let backends = Backends { content: Arc::<Memory>::default(), snapshotters };
    let path = folder.path().join("meta.sqlite");
    let db = runtime.block_on(Db::open(path, backends, Default::default())).unwrap();
    let read = |input: &[u8]| runtime.block_on(labelled(&db, input));
    Target { name: "labels", words: LABEL, repair: as_it_is, read: &read }.play();
}
