// SPDX-License-Identifier: Apache-2.0
//! Blobs that are handed out as open files, and clients that have to do without.
use std::{
    collections::BTreeMap,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener as Listener, UnixStream as Stream},
    },
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use ::content::{Expected, Local, Memory, Store, blob};
use metadata::{Backends, Db, Options};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use services::{Limits, content};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tonic::service::Routes;
use types::{Digest, Labels, Scope};

use super::world::{Served, scope};

const TEXT: &str = "served over gRPC";

/// A daemon whose files and whose gRPC come from different stores, so that one can tell which it was.
struct Daemon {
    served: Served,
    files: JoinSet<()>,
    digest: Digest,
    folder: TempDir,
}

impl Daemon {
    /// Has a blob of [`TEXT`] over gRPC, and hands out no files.
    async fn new() -> Self {
        let store: Arc<dyn Store> = Arc::<Memory>::default();
        let digest = put(&*store, TEXT).await;
        let served = content::serve(move |_| Ok(store.clone()), Limits::default());
        let served = Served::new(Routes::new(served));
        Self { served, files: JoinSet::new(), digest, folder: TempDir::new().unwrap() }
    }

    /// Hands out the files of a store that sees the blob `text` in the namespace of the tests, and the
    /// blob's name.
    async fn handing_out(text: &str) -> (Self, Digest) {
        let mut daemon = Self::new().await;
        let db = database(daemon.folder.path()).await;
        let digest = put(&*db.scope(scope()).content(), text).await;
        daemon.hand_out(move |scope: &Scope| Ok(db.scope(scope.clone()).content()));
        (daemon, digest)
    }

    fn hand_out(
        &mut self,
        find: impl Fn(&Scope) -> types::Result<Arc<dyn Store>> + Send + Sync + 'static,
    ) {
        let listener = UnixListener::bind(self.address()).unwrap();
        self.files.spawn(content::serve_files(listener, find));
    }

    fn address(&self) -> std::path::PathBuf {
        content::files_address(self.served.path())
    }

    async fn store(&self) -> Arc<dyn Store> {
        content::connect_beside(self.served.peer().await, self.served.path(), &scope())
    }

    /// Answers the next who asks with `line` and `file`, whatever the question is.
    fn answer_once(&self, line: &'static str, file: Option<OwnedFd>) -> JoinHandle<()> {
        drop(fs_err::remove_file(self.address()));
        let listener = Listener::bind(self.address()).unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut question = [0; 1024];
            assert_ne!(client.read(&mut question).unwrap(), 0);
            // Who has heard enough does not listen to the rest.
            match file {
                Some(file) => send(&client, line, &file),
                None => drop(client.write_all(line.as_bytes())),
            }
        })
    }
}

fn send(client: &Stream, line: &str, file: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let line = [IoSlice::new(line.as_bytes())];
    sendmsg(client, &line, &mut control, SendFlags::NOSIGNAL).unwrap();
}

async fn database(folder: &Path) -> Db {
    let content = Arc::new(Local::open(folder.join("content")).unwrap());
    let backends = Backends { content, snapshotters: BTreeMap::new() };
    Db::open(folder.join("meta.sqlite"), backends, Options::default()).await.unwrap()
}

async fn put(store: &dyn Store, text: &str) -> Digest {
    let data = text.as_bytes().to_vec();
    blob::write(store, "r", Expected::default(), data, Labels::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_read_as_files_is_as_the_suite_says() {
    let (servers, folders) = (std::sync::Mutex::new(Vec::new()), TempDir::new().unwrap());
    ::content::suite::run(async || {
        let folder = TempDir::new_in(folders.path()).unwrap().keep();
        let store = database(&folder).await.scope(scope()).content();
        let over = store.clone();
        let served = content::serve(move |_| Ok(over.clone()), Limits::default());
        let served = Served::new(Routes::new(served));
        let listener = UnixListener::bind(content::files_address(served.path())).unwrap();
        let mut files = JoinSet::new();
        files.spawn(content::serve_files(listener, move |_: &Scope| Ok(store.clone())));
        let connected = content::connect_beside(served.peer().await, served.path(), &scope());
        servers.lock().unwrap().push((served, files));
        connected
    })
    .await;
}

#[tokio::test]
async fn a_blob_is_read_as_a_file_also_after_it_was_deleted() {
    let (daemon, digest) = Daemon::handing_out("handed out as a file").await;
    let reader = daemon.store().await.reader(&digest).await.unwrap();
    assert_eq!(reader.size(), 20);
    let file = reader.file().expect("it is a file").try_clone_to_owned().unwrap();
    assert!(rustix::io::write(&file, b"x").is_err(), "it could be written");
    let content = daemon.folder.path().join("content/blobs/sha256").join(digest.hex());
    fs_err::remove_file(content).unwrap();
    assert_eq!(reader.read_at(0, 10).await.unwrap(), "handed out");
}

#[tokio::test]
async fn what_a_namespace_does_not_see_is_not_handed_out() {
    let (daemon, digest) = Daemon::handing_out("of another namespace").await;
    let (peer, other) = (daemon.served.peer().await, Scope::new("other").unwrap());
    let store = content::connect_beside(peer, daemon.served.path(), &other);
    assert!(store.reader(&digest).await.map(drop).unwrap_err().is_not_found());
    // What gRPC has is still to be had.
    assert_eq!(blob::read(&*store, &daemon.digest, 100).await.unwrap(), TEXT);
}

#[tokio::test]
async fn a_daemon_that_hands_out_no_files_is_asked_for_the_bytes() {
    let mut daemon = Daemon::new().await;
    let store = daemon.store().await;
    assert_eq!(blob::read(&*store, &daemon.digest, 100).await.unwrap(), TEXT);
    // Nor does a store that has no files.
    daemon.hand_out(|_| Ok(Arc::<Memory>::default()));
    assert_eq!(blob::read(&*store, &daemon.digest, 100).await.unwrap(), TEXT);
    // A socket where nobody listens any more.
    daemon.files.shutdown().await;
    assert_eq!(blob::read(&*store, &daemon.digest, 100).await.unwrap(), TEXT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_not_believed() {
    let daemon = Daemon::new().await;
    let (store, folder) = (daemon.store().await, TempDir::new().unwrap());
    let path = folder.path().join("file");
    fs_err::write(&path, "forged").unwrap();
    let file = || Some(OwnedFd::from(fs_err::File::open(&path).unwrap().into_parts().0));
    let directory = fs_err::File::open(folder.path()).unwrap().into_parts().0;
    let writable = fs_err::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let endless: &'static str = Box::leak("0".repeat(4096).into_boxed_str());
    let answers = [
        ("", None),
        ("0 6\n", None),
        ("0 6", file()),
        ("0 7\n", file()),
        ("0 -6\n", file()),
        ("1 6\n", file()),
        ("what?\n", file()),
        (endless, None),
        (endless, file()),
        ("0 6\n", Some(OwnedFd::from(directory))),
        ("0 6\n", Some(OwnedFd::from(writable.into_parts().0))),
    ];
    for (line, file) in answers {
        let (has_file, asked) = (file.is_some(), daemon.answer_once(line, file));
        let reader = store.reader(&daemon.digest).await.unwrap();
        asked.join().unwrap();
        assert!(reader.file().is_none(), "{line:?} with a file: {has_file}");
        assert_eq!(reader.read_at(0, 100).await.unwrap(), TEXT);
    }
    // The same was believed if it were right.
    let asked = daemon.answer_once("0 6\n", file());
    assert_eq!(store.reader(&daemon.digest).await.unwrap().read_at(0, 9).await.unwrap(), "forged");
    asked.join().unwrap();
}

#[tokio::test]
async fn a_daemon_that_never_answers_is_asked_for_the_bytes() {
    let daemon = Daemon::new().await;
    let store = daemon.store().await;
    let _never_accepts = UnixListener::bind(daemon.address()).unwrap();
    tokio::time::pause();
    assert_eq!(blob::read(&*store, &daemon.digest, 100).await.unwrap(), TEXT);
}

#[tokio::test]
async fn a_client_who_says_nothing_is_left_alone_and_keeps_nobody_waiting() {
    let (daemon, digest) = Daemon::handing_out("handed out").await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(UnixStream::connect(daemon.address()).await.unwrap());
    }
    silent[0].writable().await.unwrap();
    silent[0].try_write(b"open su").unwrap();
    assert!(daemon.store().await.reader(&digest).await.unwrap().file().is_some());
    tokio::time::pause();
    for client in silent {
        client.readable().await.unwrap();
        assert_eq!(client.try_read(&mut [0; 9]).unwrap_or(0), 0, "it was answered");
    }
}

#[tokio::test]
async fn a_question_is_answered_in_a_line() {
    let (daemon, digest) = Daemon::handing_out("handed out").await;
    let unknown = Digest::of("unknown");
    let answers = [
        (format!("open suite {digest}\n"), "0 10\n".to_owned()),
        (format!("open suite {unknown}\n"), format!("5 content digest {unknown}: not found\n")),
        (format!("open other {digest}\n"), format!("5 content digest {digest}: not found\n")),
    ];
    for (question, answer) in answers {
        assert_eq!(ask(&daemon, &question).await, answer);
    }
    for (question, code) in [
        ("open suite sha256:beef\n", "3 "),
        ("open /// sha256:beef\n", "3 "),
        ("close suite\n", "12 "),
        ("\n", "12 "),
    ] {
        let answer = ask(&daemon, question).await;
        assert!(answer.starts_with(code) && answer.ends_with('\n'), "{question:?}: {answer:?}");
    }
    assert_eq!(ask(&daemon, &"open ".repeat(1000)).await, "");
}

async fn ask(daemon: &Daemon, question: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = UnixStream::connect(daemon.address()).await.unwrap();
    // Whoever says too much is not listened to till the end.
    drop(stream.write_all(question.as_bytes()).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}
