// SPDX-License-Identifier: Apache-2.0
//! The sockets that the daemon listens on.
use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::Path,
    time::Duration,
};

use fs_err as fs;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use types::{Context, Error, Result};

use crate::config::{Socket, Tcp};

/// How long a client may take until both sides agree on a cipher.
const HANDSHAKE: Duration = Duration::from_secs(10);

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

/// Listens at a port: with a certificate over TLS, and without for whoever can reach it, in the clear.
/// With authorities only those are let in who show a certificate of one of them (containerd
/// `plugins/server/grpc`, `cmd/containerd/server/server.go`).
///
/// Errors: `InvalidArgument` for files that do not fit; `Unimplemented` for a certificate that is
/// looked up by its name, which Go does on Windows only.
pub(crate) async fn listen_tcp(tcp: &Tcp) -> Result<(TcpListener, Option<ServerTlsConfig>)> {
    let Tcp { address, ca, cert, key, common_name } = tcp;
    let is_given = |path: &Path| !path.as_os_str().is_empty();
    let tls = if is_given(cert) {
        Some(tls(tcp)?)
    } else if !common_name.is_empty() {
        return Err(Error::unimplemented("a certificate by its name, tcp_tls_common_name"));
    } else if is_given(key) || is_given(ca) {
        // What was to be encrypted is not served in the clear.
        return Err(Error::invalid("gRPC over TCP with TLS needs tcp_tls_cert"));
    } else {
        tracing::warn!(address, "gRPC is served over TCP without encryption");
        None
    };
    let listener = TcpListener::bind(address).await.context(|| format!("listen on {address}"))?;
    Ok((listener, tls))
}

fn tls(tcp: &Tcp) -> Result<ServerTlsConfig> {
    let read = |path: &Path, what: &str| {
        fs::read(path).context(|| format!("failed to load {what} {}", path.display()))
    };
    let (cert, key) = (read(&tcp.cert, "certificate")?, read(&tcp.key, "key")?);
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key)).timeout(HANDSHAKE);
    if tcp.ca.as_os_str().is_empty() {
        return Ok(tls);
    }
    Ok(tls.client_ca_root(Certificate::from_pem(read(&tcp.ca, "CA file")?)))
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
        let half = Tcp { key: "/key".into(), ..plain.clone() };
        let error = listen_tcp(&half).await.unwrap_err();
        assert_eq!(error.kind(), types::Kind::InvalidArgument);
        let missing = Tcp { cert: "/nowhere/cert".into(), key: "/nowhere/key".into(), ..half };
        let error = listen_tcp(&missing).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/cert"), "{error}");
        let named = Tcp { common_name: "containerd".into(), ..plain };
        let error = listen_tcp(&named).await.unwrap_err();
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
