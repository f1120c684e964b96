// SPDX-License-Identifier: Apache-2.0
//! The sockets that the daemon listens on.
use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::Path,
};

use fs_err as fs;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use types::{Context, Error, Result};

use crate::config::{Socket, Tcp};

/// Listens at `address` for its owner and group only. A socket that a dead daemon left there is
/// replaced.
///
/// Errors: `AlreadyExists` when somebody listens there.
pub(crate) async fn listen(address: &str, socket: &Socket) -> Result<UnixListener> {
    let path = Path::new(address);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::already_exists(format!("listener on {address}")));
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).context(|| format!("listen on {address}"))?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o660))?;
    chown(path, Some(socket.uid), Some(socket.gid)).context(|| format!("chown {address}"))?;
    Ok(listener)
}

/// Listens at a port, for whoever can reach it: nothing is encrypted.
///
/// Errors: `Unimplemented` if it shall be.
pub(crate) async fn listen_tcp(tcp: &Tcp) -> Result<TcpListener> {
    let Tcp { address, ca, cert, key, common_name } = tcp;
    let is_plain = [ca, cert, key].iter().all(|path| path.as_os_str().is_empty());
    if !is_plain || !common_name.is_empty() {
        return Err(Error::unimplemented("gRPC over TCP with TLS"));
    }
    tracing::warn!(address, "gRPC is served over TCP without encryption");
    TcpListener::bind(address).await.context(|| format!("listen on {address}"))
}

fn remove_stale(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => Ok(fs::remove_file(path)?),
        Ok(_) => Err(Error::failed_precondition(format!("{} is not a socket", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b.sock");
        let (address, socket) = (
            path.to_str().unwrap(),
            Socket {
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
                ..Socket::default()
            },
        );
        let first = listen(address, &socket).await.unwrap();
        assert!(listen(address, &socket).await.unwrap_err().is_already_exists());
        drop(first);
        listen(address, &socket).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn what_shall_be_encrypted_is_not_served_in_the_clear() {
        let plain = Tcp { address: "127.0.0.1:0".into(), ..Tcp::default() };
        listen_tcp(&plain).await.unwrap();
        let encrypted = Tcp { cert: "/cert".into(), ..plain };
        let error = listen_tcp(&encrypted).await.unwrap_err();
        assert_eq!(error.kind(), types::Kind::Unimplemented);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(listen(path.to_str().unwrap(), &Socket::default()).await.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
