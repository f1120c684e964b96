// SPDX-License-Identifier: Apache-2.0
//! Where shims listen: one socket for each group of tasks, under a name that both sides can compute.
use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
};

use fs_err as fs;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use types::{Context, Digest, Error, Result};

/// Where sockets are unless a daemon says otherwise (containerd `defaults/defaults_unix.go`).
pub const DIRECTORY: &str = "/run/containerd/s";

/// A socket for a shim to be.
#[derive(Debug)]
pub enum Socket {
    /// A new one, to be passed on to the shim.
    New(OwnedFd),
    /// A shim listens on it already: it serves the whole group.
    Live,
}

/// The address of the shim of a group (containerd `pkg/shim/util_unix.go`, `CreateSocketAddress`).
///
/// The name is a hash, because a path to a socket cannot be longer than 107 bytes.
pub fn address(directory: &str, daemon: &str, namespace: &str, group: &str) -> String {
    let path = clean(&format!("{daemon}/{namespace}/{group}"));
    let digest = Digest::of(path.as_bytes());
    format!("unix://{directory}/{}", digest.hex())
}

/// A path without empty components, as Go's `filepath.Join` leaves it.
fn clean(path: &str) -> String {
    let root = if path.starts_with('/') { "/" } else { "" };
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("{root}{}", parts.join("/"))
}

/// Listens at an address, unless a shim does already. What a shim that was killed left is replaced.
pub fn bind(address: &str) -> Result<Socket> {
    let path = path(address);
    if let Some(directory) = path.parent() {
        make_private(directory)?;
    }
    match listen(path) {
        Ok(socket) => Ok(Socket::New(socket)),
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            Err(Error::from(error).context("create new shim socket"))
        }
        Err(_) if is_live(path) => Ok(Socket::Live),
        Err(_) => {
            remove(address)?;
            listen(path).map(Socket::New).context(|| "try create new shim socket 2x")
        }
    }
}

/// Removes the socket at an address. One that is not there is removed already.
pub fn remove(address: &str) -> io::Result<()> {
    match fs::remove_file(path(address)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes the socket at an address unless somebody listens there, who may serve others too.
pub(crate) fn remove_dead(address: &str) -> io::Result<()> {
    if is_live(path(address)) { Ok(()) } else { remove(address) }
}

fn path(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap_or(address))
}

fn make_private(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, PermissionsExt::from_mode(0o700))?;
    Ok(())
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener.into())
}

/// Whether somebody listens. One who is too busy to accept does.
fn is_live(path: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let connected = SocketAddrUnix::new(path).and_then(|address| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)
    });
    matches!(connected, Ok(()) | Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_containerd_s() {
        // Computed with sha256sum over "/run/containerd/containerd.sock/default/a".
        let want = "unix:///run/containerd/s/\
                    82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6";
        let path = "/run/containerd/containerd.sock";
        assert_eq!(address(DIRECTORY, path, "default", "a"), want);
        assert_eq!(address(DIRECTORY, "/run//containerd/containerd.sock/", "default", "a"), want);
    }

    #[test]
    fn a_socket_is_made_once_and_replaced_when_dead() {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/s/one", dir.path().display());
        let Socket::New(listener) = bind(&address).unwrap() else { panic!("nobody listens yet") };
        assert!(matches!(bind(&address).unwrap(), Socket::Live));
        remove_dead(&address).unwrap();
        assert!(path(&address).exists(), "it is listened to");
        drop(listener);
        assert!(matches!(bind(&address).unwrap(), Socket::New(_)));
        let mode = fs::metadata(dir.path().join("s")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        remove_dead(&address).unwrap();
        assert!(!path(&address).exists());
        remove(&address).unwrap();
    }
}
