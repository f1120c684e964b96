// SPDX-License-Identifier: Apache-2.0
//! Blobs as open files, for clients on the same host.
//!
//! Content that is read over gRPC is copied several times, which is why clients have read the files of
//! the store behind the daemon's back. Beside its socket a daemon of ours has another, where a client
//! asks for a blob by its name and is handed the open file, if its namespace sees the blob:
//!
//! ```text
//! client: "open <namespace> <digest>\n"
//! daemon: "0 <length>\n", with the file (SCM_RIGHTS), open for reading
//!     or: "<code of gRPC> <message>\n"
//! ```
//!
//! One question is answered on a connection, a line has at most [`LINE`] bytes, and whoever is not
//! done within [`PATIENCE`] is left alone. Why it is so: `docs/decisions/0006-blobs-as-open-files.md`.
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::content::{Reader, Store};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use types::{Digest, Error, Result, Scope};

/// The longest line, each way: a namespace has up to 76 bytes, a digest up to 135.
const LINE: usize = 1024;

/// How long a question may take, from the connection to the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many clients are answered at a time. Others wait in the socket's queue.
const AT_ONCE: usize = 128;

/// Where the daemon with the socket `address` hands out files.
pub fn files_address(address: &Path) -> PathBuf {
    let mut beside = address.as_os_str().to_owned();
    beside.push(".fd");
    beside.into()
}

/// Hands out the files of the store that `find` finds for a scope, until it is dropped.
pub async fn serve_files<F>(listener: UnixListener, find: F)
where
    F: Fn(&Scope) -> Result<Arc<dyn Store>> + Send + Sync + 'static,
{
    let find = Arc::new(find);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < AT_ONCE => match accepted {
                Ok((client, _)) => {
                    let find = Arc::clone(&find);
                    clients.spawn(async move {
                        match timeout(PATIENCE, answer(&client, &*find)).await {
                            Ok(Err(error)) => tracing::debug!(%error, "a client went without its file"),
                            Err(_) => tracing::debug!("a client took too long to ask for a file"),
                            Ok(Ok(())) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a client that wants files");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn answer(
    client: &UnixStream,
    find: &(impl Fn(&Scope) -> Result<Arc<dyn Store>> + Sync),
) -> io::Result<()> {
    let (question, _) = receive(client).await?;
    match open(&question, find).await {
        Ok(reader) => send(client, format!("0 {}\n", reader.size()), reader.file()).await,
        Err(error) => {
            let mut text = format!("{} {error}", error.kind().code()).replace('\n', " ");
            text.truncate(text.floor_char_boundary(LINE - 1));
            send(client, text + "\n", None).await
        }
    }
}

/// Opens what a question asks for. What it opens has a file.
async fn open(
    question: &str,
    find: &(impl Fn(&Scope) -> Result<Arc<dyn Store>> + Sync),
) -> Result<Box<dyn Reader>> {
    let words: Vec<&str> = question.split(' ').collect();
    let ["open", namespace, digest] = words[..] else {
        return Err(Error::unimplemented("a question other than: open <namespace> <digest>"));
    };
    let store = find(&Scope::new(namespace)?)?;
    let reader = store.reader(&digest.parse()?).await?;
    if reader.file().is_none() {
        return Err(Error::unimplemented(format!("content {digest} as a file")));
    }
    Ok(reader)
}

/// Where a client finds the files of a namespace.
#[derive(Clone, Debug)]
pub(super) struct Files {
    address: PathBuf,
    namespace: String,
}

impl Files {
    /// The files of the daemon with the socket `address`.
    pub(super) fn beside(address: &Path, scope: &Scope) -> Self {
        Self { address: files_address(address), namespace: scope.namespace().to_owned() }
    }

    /// The blob as a file, if it can be had. Whatever the reason, the daemon can still be asked for
    /// its bytes, and its answer to that is the one that counts.
    pub(super) async fn open(&self, digest: &Digest) -> Option<Box<dyn Reader>> {
        match timeout(PATIENCE, self.ask(digest)).await {
            Ok(Ok(reader)) => return Some(reader),
            Ok(Err(error)) => tracing::debug!(%error, %digest, "content is not had as a file"),
            Err(_) => tracing::debug!(%digest, "content was not given as a file in time"),
        }
        None
    }

    async fn ask(&self, digest: &Digest) -> Result<Box<dyn Reader>> {
        let daemon = UnixStream::connect(&self.address).await?;
        send(&daemon, format!("open {} {digest}\n", self.namespace), None).await?;
        let (answer, file) = receive(&daemon).await?;
        let wrong = || Error::internal(format!("answer {answer:?}"));
        let size: u64 =
            answer.strip_prefix("0 ").and_then(|size| size.parse().ok()).ok_or_else(wrong)?;
        let reader = ::content::opened(file.ok_or_else(wrong)?, digest.as_str())?;
        if reader.size() == size { Ok(reader) } else { Err(wrong()) }
    }
}

/// Sends a line, which goes into the buffer of a new connection as a whole.
async fn send(to: &UnixStream, line: String, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let sent = to.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = file.as_slice();
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::other("no room for one open file"));
        }
        let line = [IoSlice::new(line.as_bytes())];
        Ok(sendmsg(to, &line, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    });
    if sent.await? == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a line, without its end, and the file that came with it.
async fn receive(from: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let (mut line, mut file) = (Vec::new(), None);
    loop {
        let mut part = [0; LINE];
        let room = &mut part[..LINE - line.len()];
        let received = from.async_io(Interest::READABLE, || receive_part(from, room));
        let (read, came) = received.await?;
        file = file.or(came);
        line.extend_from_slice(&part[..read]);
        if line.last() == Some(&b'\n') {
            line.pop();
            let text = String::from_utf8(line).map_err(io::Error::other)?;
            return Ok((text, file));
        }
        if read == 0 || line.len() == LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
        }
    }
}

fn receive_part(from: &UnixStream, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(from, &mut [IoSliceMut::new(room)], &mut control, flags)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.flatten().next();
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more than one open file"));
    }
    Ok((message.bytes, file))
}
