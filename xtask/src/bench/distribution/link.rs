// SPDX-License-Identifier: Apache-2.0
//! A registry at the far end of a wire: 1 Gbit/s, 20 ms there and back.
//!
//! ```text
//!  here            wire 10.78.0.1 ==== VXLAN ==== wire 10.78.0.2         where the registry is
//!   near 10.77.1.2 -- veth -- 10.77.1.1 | relay | 10.77.2.1 -- veth -- far 10.77.2.2
//! ```
//!
//! Not every kernel has `netem`, so the delay is made by a program in between, which passes on the
//! datagrams that the wire's frames travel in, each 10 ms after it came. The rate is the kernel's
//! token bucket. Frames are large, so that the program is no bottleneck; the first window is smaller
//! for that, and so as large as usual in bytes.
//!
//! Each network namespace is held by a process of ours, which ends when its standard input does: so
//! nothing of this outlives us, however we end.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{Context, Outcome, PATIENCE, Registry, Running, process};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

/// One way.
const DELAY: Duration = Duration::from_millis(10);
/// Where the frames of the wire travel to; any port would do.
const PORT: u16 = 4789;
/// Where the registry is.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const NEAR_END: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const FAR_END: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);

/// What this program calls itself by to be the relay.
pub(super) const RELAY: &str = "--relay";

/// The wire and what holds it. Dropping it cuts it.
pub(super) struct Link {
    far: Running,
    _relay: Running,
}

impl Link {
    /// Lays the wire. The network namespace that this process is in has to be ours alone.
    pub(super) fn lay() -> Outcome<Self> {
        let far = Running::start_fed(Command::new("unshare").args(["--net", "cat"]))?;
        let own = std::env::current_exe()?;
        let mut relay = Command::new("unshare");
        relay.arg("--net").arg(own).args(["bench", "distribution", RELAY]);
        let mut relay = Running::start_fed(&mut relay)?;
        relay.wait_for("the relay to be ready", PATIENCE, |text| text.contains("ready"))?;
        unshared(far.pid())?;
        script(&near(relay.pid()))?;
        within(far.pid(), &format!("echo {}", far.pid()))?;
        within(relay.pid(), &middle(far.pid()))?;
        within(far.pid(), &far_side())?;
        Ok(Self { far, _relay: relay })
    }

    /// Starts a registry at the far end.
    pub(super) fn registry(&self) -> Outcome<Registry> {
        Registry::start_within(self.far.pid(), SocketAddr::new(IpAddr::V4(FAR), 5000))
    }
}

/// How long the far end takes to answer.
pub(super) fn round_trip() -> Outcome<Duration> {
    let address = SocketAddr::new(IpAddr::V4(FAR), 5000);
    let mut times = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        drop(TcpStream::connect_timeout(&address, PATIENCE)?);
        times.push(started.elapsed());
    }
    times.into_iter().min().context("there was an attempt")
}

/// Waits until a process has come into a namespace that is not ours.
fn unshared(pid: i32) -> Outcome {
    let namespace = |of: &str| fs_err::read_link(format!("/proc/{of}/ns/net"));
    let own = namespace("self")?;
    e2e::wait::until("a network namespace", PATIENCE, || {
        Ok((namespace(&pid.to_string())? != own).then_some(()))
    })
}

fn near(relay: i32) -> String {
    format!(
        "ip link add near mtu 9100 type veth peer name middle1 mtu 9100 netns {relay}\n\
         ip address add {NEAR_END}/24 dev near\nip link set near up\n{}",
        wire("10.77.1.1", "10.78.0.1")
    )
}

fn middle(far: i32) -> String {
    format!(
        "ip link set lo up\n\
         ip link add middle2 mtu 9100 type veth peer name far mtu 9100 netns {far}\n\
         ip address add 10.77.1.1/24 dev middle1\nip link set middle1 up\n\
         ip address add 10.77.2.1/24 dev middle2\nip link set middle2 up"
    )
}

fn far_side() -> String {
    format!(
        "ip link set lo up\nip address add {FAR_END}/24 dev far\nip link set far up\n{}",
        wire("10.77.2.1", &FAR.to_string())
    )
}

/// One end of the wire. The relay needs whole frames: no device behind it completes their checksums.
/// They have nine thousand bytes, and two are the first window: as many bytes as ten of the usual.
fn wire(relay: &str, own: &str) -> String {
    format!(
        "ip link add wire mtu 9000 type vxlan id 1 remote {relay} dstport {PORT}\n\
         ethtool --offload wire tx off tso off gso off >&2\n\
         tc qdisc add dev wire root tbf rate 1gbit burst 128kb limit 4mb\n\
         ip address add {own}/24 dev wire\nip link set wire up\n\
         ip route replace 10.78.0.0/24 dev wire src {own} initcwnd 2"
    )
}

fn script(text: &str) -> Outcome {
    process::run(Command::new("sh").args(["-ec", text]), PATIENCE)?.ok().map(drop)
}

fn within(pid: i32, text: &str) -> Outcome {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).args(["sh", "-ec", text]);
    process::run(&mut command, PATIENCE)?.ok().map(drop)
}

/// Is the program in the middle: passes every datagram on, late, until standard input ends.
pub(super) fn relay() -> Outcome {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    // What comes while somebody else has the processor must not be lost.
    set_socket_recv_buffer_size_force(&socket, 16 << 20)?;
    let (late, due) = channel();
    let out = socket.try_clone()?;
    thread::spawn(move || deliver(&out, &due));
    thread::spawn(move || {
        let mut datagram = vec![0; 64 << 10];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let parcel = (Instant::now() + DELAY, other_end(from), datagram[..length].to_vec());
            if late.send(parcel).is_err() {
                return;
            }
        }
    });
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn deliver(socket: &UdpSocket, due: &Receiver<(Instant, SocketAddr, Vec<u8>)>) {
    for (time, to, datagram) in due {
        thread::sleep(time.saturating_duration_since(Instant::now()));
        // Before both ends are there, some are lost, as on any wire.
        drop(socket.send_to(&datagram, to));
    }
}

fn other_end(from: SocketAddr) -> SocketAddr {
    let end = if from.ip() == IpAddr::V4(NEAR_END) { FAR_END } else { NEAR_END };
    SocketAddr::new(IpAddr::V4(end), PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_one_end_goes_to_the_other() {
        let at = |end: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(end), port);
        assert_eq!(other_end(at(NEAR_END, 40_000)), at(FAR_END, PORT));
        assert_eq!(other_end(at(FAR_END, 1)), at(NEAR_END, PORT));
    }
}
