// SPDX-License-Identifier: Apache-2.0
//! Telling systemd how the daemon is (`sd_notify(3)`): a datagram to the socket that it names.
use std::{
    env,
    os::unix::ffi::OsStrExt,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// The daemon serves.
pub(crate) const READY: &str = "READY=1";
/// The daemon is ending.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Sends `state`, if anybody asked for it. That it cannot be sent is logged: nobody may wait for it.
pub(crate) fn send(state: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    match deliver(name.as_bytes(), state) {
        Ok(()) => tracing::debug!(state, "sd notification"),
        Err(error) => tracing::warn!(state, %error, "sd notification failed"),
    }
}

/// A name that begins with `@` is an abstract one.
fn deliver(name: &[u8], state: &str) -> std::io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not keep the daemon from going on.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_state_arrives_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        deliver(path.as_os_str().as_bytes(), READY).unwrap();
        assert_eq!(received(&at_path), "READY=1");

        let name = format!("containerd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
        deliver(format!("@{name}").as_bytes(), STOPPING).unwrap();
        assert_eq!(received(&abstract_one), "STOPPING=1");
        assert!(deliver(b"/nowhere/notify", READY).is_err());
    }
}
