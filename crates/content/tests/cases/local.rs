// SPDX-License-Identifier: Apache-2.0
//! What is on disk, and what a crash may leave there.
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use content::{Expected, Info, Ingest, Local, Store, blob};
use fs_err as fs;
use futures_util::TryStreamExt;
use tempfile::TempDir;
use types::{Digest, FieldMask, Filters, Kind, Labels};

fn store() -> (TempDir, Local) {
    let root = tempfile::tempdir().unwrap();
    let store = Local::open(root.path().join("a/b")).unwrap();
    (root, store)
}

fn ingest(store: &Local, reference: &str) -> PathBuf {
    store.root().join("ingest").join(Digest::of(reference).hex())
}

fn blob_path(store: &Local, digest: &Digest) -> PathBuf {
    store.root().join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

async fn write(store: &Local, data: &'static str) -> Digest {
    blob::write(store, data, Expected::default(), data, Labels::new()).await.unwrap()
}

/// Waits until a dropped writer has let go.
async fn released(store: &Local, reference: &str) {
    drop(open(store, reference).await);
    drop(open(store, reference).await);
}

async fn open(store: &Local, reference: &str) -> Box<dyn Ingest> {
    store.writer(reference, Expected::default()).await.unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap()
}

#[tokio::test]
async fn an_ingest_lies_on_disk_as_containerd_lays_it() {
    let (_root, store) = store();
    let expected = Expected { size: Some(9), digest: None };
    let mut writer = store.writer("layer-1", expected).await.unwrap();
    writer.write("contents".into()).await.unwrap();
    drop(writer);
    released(&store, "layer-1").await;
    let path = ingest(&store, "layer-1");
    let mut names: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["data", "ref", "startedat", "total", "updatedat"]);
    assert_eq!(read(path.join("ref")), "layer-1");
    assert_eq!(read(path.join("total")), "9");
    assert_eq!(read(path.join("data")), "contents");
    let started: jiff::Timestamp = read(path.join("startedat")).parse().unwrap();
    assert!(SystemTime::from(started).elapsed().unwrap() < Duration::from_mins(1));
}

#[tokio::test]
async fn a_blob_lies_on_disk_as_containerd_lays_it() {
    let (_root, store) = store();
    let digest = write(&store, "hello").await;
    let path = blob_path(&store, &digest);
    assert_eq!(read(&path), "hello");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    assert!(!ingest(&store, "hello").exists());
}

#[tokio::test]
async fn an_ingest_that_go_left_is_resumed() {
    let (_root, store) = store();
    let path = ingest(&store, "go");
    fs::create_dir_all(&path).unwrap();
    for (name, text) in [
        ("ref", "go"),
        ("startedat", "2024-05-06T07:08:09.123456789+02:00"),
        ("updatedat", "2024-05-06T07:09:00Z"),
        ("total", "10"),
        ("data", "01234"),
    ] {
        fs::write(path.join(name), text).unwrap();
    }
    let mut writer = open(&store, "go").await;
    let status = writer.status();
    assert_eq!((status.offset, status.total), (5, 10));
    let started: jiff::Timestamp = "2024-05-06T05:08:09.123456789Z".parse().unwrap();
    assert_eq!(status.started_at, SystemTime::from(started));
    writer.write("56789".into()).await.unwrap();
    let digest = writer.commit(Expected::default(), Labels::new()).await.unwrap();
    assert_eq!(digest, Digest::of("0123456789"));
}

#[tokio::test]
async fn what_a_crash_leaves_of_an_ingest_harms_nobody() {
    let (_root, store) = store();
    drop(open(&store, "sane").await);
    for (number, names) in
        [&["ref"][..], &["data"], &[], &["startedat", "updatedat"]].iter().enumerate()
    {
        let reference = format!("torn-{number}");
        let path = ingest(&store, &reference);
        fs::create_dir_all(&path).unwrap();
        for name in *names {
            fs::write(path.join(name), if *name == "ref" { reference.as_str() } else { "junk" })
                .unwrap();
        }
        let statuses = store.statuses(&Filters::default()).await.unwrap();
        assert!(statuses.iter().all(|status| status.reference == "sane"), "{names:?}");
        let mut writer = open(&store, &reference).await;
        assert_eq!(writer.status().offset, 0, "{names:?}");
        writer.write(reference.clone().into()).await.unwrap();
        writer.commit(Expected::default(), Labels::new()).await.unwrap();
    }
}

#[tokio::test]
async fn unreadable_times_and_totals_are_made_do_without() {
    let (_root, store) = store();
    let path = ingest(&store, "odd");
    fs::create_dir_all(&path).unwrap();
    for (name, text) in [("ref", "odd"), ("startedat", ""), ("total", "many"), ("data", "abc")] {
        fs::write(path.join(name), text).unwrap();
    }
    let status = store.status("odd").await.unwrap();
    assert_eq!((status.offset, status.total), (3, 0));
    assert!(status.started_at.elapsed().unwrap() < Duration::from_mins(1));
}

/// Go reopens the data without truncating it, and then fails at commit for the stale rest.
#[tokio::test]
async fn an_ingest_of_another_length_is_begun_anew() {
    let (_root, store) = store();
    let expecting = |size| Expected { size: Some(size), digest: None };
    let mut writer = store.writer("r", expecting(100)).await.unwrap();
    writer.write("0123456789".into()).await.unwrap();
    drop(writer);
    let mut writer = store.writer("r", expecting(5)).await.unwrap();
    assert_eq!((writer.status().offset, writer.status().total), (0, 5));
    writer.write("abcde".into()).await.unwrap();
    writer.commit(expecting(5), Labels::new()).await.unwrap();
}

/// Its files are not synced: the name of one may be on the disk, and not what is in it.
#[tokio::test]
async fn what_a_power_cut_leaves_of_an_ingest_is_gone_at_the_next_opening() {
    let (_root, store) = store();
    drop(open(&store, "sane").await);
    for (reference, files) in [
        ("empty", &[][..]),
        ("no-data", &[("ref", "no-data")]),
        ("no-reference", &[("ref", ""), ("data", "abc")]),
        ("of-another", &[("ref", "sane"), ("data", "abc")]),
    ] {
        fs::create_dir_all(ingest(&store, reference)).unwrap();
        for (name, text) in files {
            fs::write(ingest(&store, reference).join(name), text).unwrap();
        }
    }
    let store = Local::open(store.root()).unwrap();
    let left: Vec<_> = fs::read_dir(store.root().join("ingest")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(store.status("sane").await.unwrap().reference, "sane");
}

#[tokio::test]
async fn an_abort_that_was_cut_short_is_finished_at_the_next_opening() {
    let (_root, store) = store();
    let path = ingest(&store, "x").with_extension("1-0.tmp");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("data"), "x").unwrap();
    assert_eq!(store.statuses(&Filters::default()).await.unwrap(), []);
    let store = Local::open(store.root()).unwrap();
    assert!(!path.exists());
    assert_eq!(store.statuses(&Filters::default()).await.unwrap(), []);
}

#[tokio::test]
async fn an_ingest_survives_its_process() {
    let (_root, store) = store();
    let mut writer = open(&store, "r").await;
    writer.write("first ".into()).await.unwrap();
    drop(writer);
    released(&store, "r").await;
    let store = Local::open(store.root()).unwrap();
    let mut writer = open(&store, "r").await;
    assert_eq!(writer.status().offset, 6);
    writer.write("second".into()).await.unwrap();
    let digest = writer.commit(Expected::default(), Labels::new()).await.unwrap();
    assert_eq!(digest, Digest::of("first second"));
}

#[tokio::test]
async fn a_writer_can_go_back_to_any_length() {
    let (_root, store) = store();
    let mut writer = open(&store, "r").await;
    writer.write("0123456789".into()).await.unwrap();
    writer.truncate(4).await.unwrap();
    assert_eq!(writer.digest(), Some(Digest::of("0123")));
    assert_eq!(writer.truncate(5).await.unwrap_err().kind(), Kind::InvalidArgument);
    writer.write("x".into()).await.unwrap();
    let digest = writer.commit(Expected::default(), Labels::new()).await.unwrap();
    assert_eq!(digest, Digest::of("0123x"));
}

#[tokio::test]
async fn a_writer_learns_that_its_ingest_was_aborted() {
    let (_root, store) = store();
    let mut writer = open(&store, "r").await;
    writer.write("data".into()).await.unwrap();
    store.abort("r").await.unwrap();
    let error = writer.commit(Expected::default(), Labels::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Aborted);
    drop(writer);
    assert_eq!(open(&store, "r").await.status().offset, 0);
}

#[tokio::test]
async fn a_lock_says_since_when() {
    let (_root, store) = store();
    let _writer = open(&store, "r").await;
    let error = store.writer("r", Expected::default()).await.err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("ref r locked for "), "{text}");
    assert!(text.contains(" (since 20") && text.ends_with("): unavailable"), "{text}");
}

#[tokio::test]
async fn a_writer_is_left_without_a_runtime() {
    let (_root, store) = store();
    let mut writer = open(&store, "r").await;
    writer.write("data".into()).await.unwrap();
    std::thread::spawn(move || drop(writer)).join().unwrap();
    assert_eq!(read(ingest(&store, "r").join("data")), "data");
    assert_eq!(open(&store, "r").await.status().offset, 4);
}

#[tokio::test]
async fn a_cancelled_commit_is_carried_out() {
    let (_root, store) = store();
    let mut writer = open(&store, "r").await;
    writer.write("data".into()).await.unwrap();
    let commit = writer.commit(Expected::default(), Labels::new());
    assert!(futures_util::FutureExt::now_or_never(commit).is_none());
    drop(writer);
    drop(open(&store, "r").await);
    assert_eq!(store.info(&Digest::of("data")).await.unwrap().size, 4);
}

#[tokio::test]
async fn a_walk_passes_over_what_is_no_blob() {
    let (_root, store) = store();
    let digest = write(&store, "one").await;
    fs::write(store.root().join("blobs/sha256/README"), "x").unwrap();
    fs::create_dir_all(store.root().join("blobs/md5")).unwrap();
    fs::write(store.root().join("blobs/md5/00"), "x").unwrap();
    let found: Vec<Info> = store.walk(Filters::default()).try_collect().await.unwrap();
    assert_eq!(found.into_iter().map(|info| info.digest).collect::<Vec<_>>(), [digest]);
}

#[tokio::test]
async fn a_walk_takes_any_number_of_blobs() {
    let (_root, store) = store();
    write(&store, "template").await;
    let directory = store.root().join("blobs/sha256");
    for number in 0..1500 {
        fs::write(directory.join(Digest::of(number.to_string()).hex()), "").unwrap();
    }
    let found: Vec<Info> = store.walk(Filters::default()).try_collect().await.unwrap();
    assert_eq!(found.len(), 1501);
}

/// The text and code of containerd `plugins/content/local/store.go`.
#[tokio::test]
async fn without_a_label_store_nothing_can_be_updated() {
    let (_root, store) = store();
    let digest = write(&store, "x").await;
    let info = store.info(&digest).await.unwrap();
    let error = store.update(info, &FieldMask::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let want = "update not supported on immutable content store: failed precondition";
    assert_eq!(error.to_string(), want);
}

#[tokio::test]
async fn reading_leaves_the_time_of_the_update_alone() {
    let (_root, store) = store();
    let digest = write(&store, "x").await;
    let path = blob_path(&store, &digest);
    let long_ago = std::fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
    std::fs::OpenOptions::new().read(true).open(&path).unwrap().set_times(long_ago).unwrap();
    assert_eq!(blob::read(&store, &digest, 10).await.unwrap(), "x");
    assert_eq!(fs::metadata(&path).unwrap().atime(), 0);
    assert_eq!(store.info(&digest).await.unwrap().updated_at, SystemTime::UNIX_EPOCH);
}

/// A small file system, mounted until it is dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new() -> Self {
        let target = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", target.path(), "tmpfs", flags, Some(c"size=1m")).unwrap();
        Self(target)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_failed_write_shows_at_the_next_call_and_closes_the_writer() {
    let disk = Tmpfs::new();
    let store = Local::open(disk.0.path()).unwrap();
    let mut writer = open(&store, "r").await;
    writer.write(vec![1; 2 << 20].into()).await.unwrap();
    let error = writer.commit(Expected::default(), Labels::new()).await.unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(error.to_string().contains("/data"), "{error}");
    assert_eq!(writer.write("x".into()).await.unwrap_err().kind(), Kind::FailedPrecondition);
    drop(writer);
    let mut writer = open(&store, "r").await;
    assert!(writer.status().offset < 2 << 20);
    writer.truncate(0).await.unwrap();
    writer.write("small".into()).await.unwrap();
    let digest = writer.commit(Expected::default(), Labels::new()).await.unwrap();
    assert_eq!(digest, Digest::of("small"));
}

/// An ext4 with fs-verity in a file, mounted until it is dropped; a word about it where that is not to
/// be had.
struct Verity(TempDir);

impl Verity {
    fn new() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("at"));
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let run = |program: &str, words: &[&std::ffi::OsStr]| {
            let run = sys::Command::new(program).args(words).combined_output();
            let failed = match run {
                Ok(output) if output.exit.success() => return true,
                Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
                Err(error) => error.to_string(),
            };
            println!("skipped: {program}: {failed}");
            false
        };
        let of = std::ffi::OsStr::new;
        let made = run(
            "mkfs.ext4",
            &["-q", "-b", "4096", "-O", "verity"]
                .map(of)
                .into_iter()
                .chain([image.as_os_str()])
                .collect::<Vec<_>>(),
        ) && run("mount", &[of("-o"), of("loop,rw"), image.as_os_str(), at.as_os_str()]);
        made.then_some(Self(folder))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("at")
    }
}

impl Drop for Verity {
    fn drop(&mut self) {
        drop(sys::Command::new("umount").arg("-l").arg(self.path()).combined_output());
    }
}

impl Verity {
    /// Takes what is on the disk away from the kernel's memory, changes it, and mounts it again.
    fn tamper(&self, from: &[u8], to: &[u8]) {
        let (image, at) = (self.0.path().join("image"), self.path());
        let run = |program: &str, words: &[&std::ffi::OsStr]| {
            let done = sys::Command::new(program).args(words).combined_output().unwrap();
            assert!(done.exit.success(), "{program}: {}", String::from_utf8_lossy(&done.stdout));
        };
        run("umount", &[at.as_os_str()]);
        let mut bytes = fs::read(&image).unwrap();
        let found = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[found..found + from.len()].copy_from_slice(to);
        fs::write(&image, bytes).unwrap();
        run("mount", &["-o".as_ref(), "loop,rw".as_ref(), image.as_os_str(), at.as_os_str()]);
    }
}

/// Whether the kernel sealed a blob; a word about it where it cannot.
fn is_sealed(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let about = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS).unwrap();
    let is_sealed = about.stx_attributes.contains(StatxAttributes::VERITY);
    if !is_sealed {
        println!("skipped: this kernel has no fs-verity");
    }
    is_sealed
}

#[tokio::test]
async fn where_the_filesystem_can_a_blob_is_sealed() {
    let Some(disk) = Verity::new() else { return };
    let store = Local::open(disk.path().join("store")).unwrap();
    let digest =
        blob::write(&store, "r", Expected::default(), "hello", Labels::new()).await.unwrap();
    assert_eq!(blob::read(&store, &digest, 9).await.unwrap(), "hello");
    let path = disk.path().join("store/blobs/sha256").join(digest.hex());
    if !is_sealed(&path) {
        return;
    }
    // Root may write to any file, but not to this one.
    assert!(fs::OpenOptions::new().write(true).open(&path).is_err());
    store.delete(&digest).await.unwrap();
}

#[tokio::test]
async fn what_a_disk_has_changed_is_not_read_from_a_sealed_blob() {
    let Some(disk) = Verity::new() else { return };
    let root = disk.path().join("store");
    let store = Local::open(&root).unwrap();
    let mut content = vec![b'.'; 20_000];
    content[10_000..10_016].copy_from_slice(b"what was written");
    let expected = Expected::default();
    let digest = blob::write(&store, "r", expected, content, Labels::new()).await.unwrap();
    if !is_sealed(&root.join("blobs/sha256").join(digest.hex())) {
        return;
    }
    drop(store);
    disk.tamper(b"what was written", b"what was changed");
    let store = Local::open(&root).unwrap();
    assert_eq!(store.info(&digest).await.unwrap().size, 20_000);
    let error = blob::read(&store, &digest, u64::MAX).await.unwrap_err();
    assert!(error.to_string().contains("Input/output error"), "{error}");
}
