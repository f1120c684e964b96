// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;
use rustix::{
    fs::{Mode, OFlags, open},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg},
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    time::timeout,
};
use types::{Context, Error, Kind, Result};

/// How long a runtime that has ended well may take to have sent the terminal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where an OCI runtime sends the master of the terminal that it made (runc, `docs/terminals.md`).
///
/// The socket is in the bundle, so that it goes with it, whatever happens. A path into a bundle may be
/// longer than a socket's may be, so it is named through our open directory.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    file: PathBuf,
    path: PathBuf,
    _directory: OwnedFd,
}

impl ConsoleSocket {
    /// Makes a socket in a bundle. The name must not be taken.
    pub fn bind(bundle: &Path, name: &str) -> Result<Self> {
        let failed = || "failed to create OCI runtime console socket";
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let directory = open(bundle, flags, Mode::empty()).map_err(io::Error::from);
        let directory = directory.context(failed)?;
        let number = directory.as_raw_fd();
        let path = PathBuf::from(format!("/proc/{}/fd/{number}/{name}", std::process::id()));
        let listener = UnixListener::bind(&path).context(failed)?;
        let file = bundle.join(name);
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).context(failed)?;
        Ok(Self { listener, file, path, _directory: directory })
    }

    /// Where to send the terminal, for `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the terminal.
    pub async fn receive(self) -> Result<OwnedFd> {
        let master = timeout(PATIENCE, async {
            let (stream, _) = self.listener.accept().await?;
            stream.async_io(Interest::READABLE, || take_fd(&stream)).await
        });
        match master.await {
            Ok(master) => master.context(|| "failed to retrieve console master"),
            Err(_elapsed) => {
                let message = "failed to retrieve console master: the runtime sent none";
                Err(Error::said(Kind::Unknown, message))
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // It is in the bundle, and goes with it at the latest.
        drop(fs::remove_file(&self.file));
    }
}

/// Takes the one open file that a message carries.
fn take_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // The name of the terminal: nobody needs it.
    let mut name = [0; 4096];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, flags)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    match files.flatten().next() {
        Some(file) if !message.flags.contains(ReturnFlags::CTRUNC) => Ok(file),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "expected one open file")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    fn send(path: &Path, file: &fs::File) {
        let stream = UnixStream::connect(path).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let name = [io::IoSlice::new(b"/dev/pts/9")];
        sendmsg(&stream, &name, &mut control, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn what_is_sent_is_received_also_in_a_deep_directory() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(150));
        fs::create_dir(&deep).unwrap();
        let socket = ConsoleSocket::bind(&deep, "init.pty").unwrap();
        assert!(socket.path().as_os_str().len() < 100);
        let file = deep.join("file");
        fs::write(&file, "x").unwrap();
        send(socket.path(), &fs::File::open(&file).unwrap());
        let received = socket.receive().await.unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", received.as_raw_fd())).unwrap();
        assert_eq!(link, file);
        assert!(!deep.join("init.pty").exists());
    }
}
