// SPDX-License-Identifier: Apache-2.0
//! Unix sockets: addresses, credentials, serving and shutting down.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use ttrpc::{Client, Code, Context, Peer, Server};

use super::support::*;

struct Serving {
    path: PathBuf,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<io::Result<()>>,
    _folder: TempDir,
}

fn serve(server: Server) -> Serving {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended =
        tokio::spawn(async move { server.serve(listener, async { drop(stopped.await) }).await });
    Serving { path, stop, ended, _folder: folder }
}

impl Serving {
    async fn connect(&self) -> Client {
        Client::connect(self.path.to_str().unwrap()).await.unwrap()
    }
}

#[tokio::test]
async fn a_handler_knows_who_calls() {
    let server =
        Server::new().require_same_user().method(SVC, "Who", |ctx: Context, _: Text| async move {
            Ok(text(format!("{:?}", ctx.peer.unwrap())))
        });
    let serving = serve(server);
    let me = Peer {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: Some(std::process::id() as i32),
    };
    let who = say(&serving.connect().await, "Who", "").await.unwrap();
    assert_eq!(who, format!("{me:?}"));
}

/// Asks for the same user, from another one. It needs root to become another user.
#[tokio::test]
async fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: not root, so that it cannot call as another user");
    }
    let name = format!("ttrpc-test-user-{}", std::process::id());
    let listener = UnixListener::bind(format!("\0{name}")).unwrap();
    let server = server().require_same_user();
    let serving = tokio::spawn(async move { server.serve(listener, std::future::pending()).await });

    let this_test = "cases::unix::call_as_whoever_runs_this";
    let mut other = tokio::process::Command::new("/proc/self/exe");
    other.args([this_test, "--exact", "--include-ignored", "--nocapture"]);
    other.env("TTRPC_TEST_ADDRESS", format!("@{name}")).uid(65534).gid(65534).kill_on_drop(true);
    let output = soon(other.output()).await.unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(output.contains("refused: ttrpc: closed"), "{output}");
    assert!(Client::connect(&format!("@{name}")).await.is_ok());
    serving.abort();
}

/// The other half of the test above, run by it in a process of its own.
#[tokio::test]
#[ignore = "it is run by another test, as another user"]
async fn call_as_whoever_runs_this() {
    let Ok(address) = std::env::var("TTRPC_TEST_ADDRESS") else { return };
    let client = Client::connect(&address).await.unwrap();
    match say(&client, "Echo", "").await {
        Ok(_) => println!("accepted"),
        Err(status) if status.is_closed() => println!("refused: {}", status.message),
        Err(status) => println!("failed: {status}"),
    }
}

#[tokio::test]
async fn an_abstract_socket_is_an_address_like_any_other() {
    let name = format!("ttrpc-test-{}", std::process::id());
    let listener = UnixListener::bind(format!("\0{name}")).unwrap();
    let serving =
        tokio::spawn(async move { server().serve(listener, std::future::pending()).await });
    for address in [format!("@{name}"), format!("\0{name}")] {
        let client = Client::connect(&address).await.unwrap();
        assert_eq!(say(&client, "Echo", "hello").await.unwrap(), "hello");
    }
    serving.abort();
}

#[tokio::test]
async fn connecting_to_nothing_names_the_address() {
    let error = Client::connect("/nonexistent/socket").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with("connect to /nonexistent/socket: "), "{error}");
}

#[tokio::test]
async fn shutting_down_finishes_what_runs_and_takes_nothing_new() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (finish, finished) = tokio::sync::watch::channel(false);
    let server = server().method(SVC, "Slow", move |_, _: Text| {
        begun.send(()).unwrap();
        let mut finished = finished.clone();
        async move {
            finished.wait_for(|finished| *finished).await.unwrap();
            Ok(text("done"))
        }
    });
    let serving = serve(server);
    let (busy, idle) = (serving.connect().await, serving.connect().await);
    assert_eq!(say(&idle, "Echo", "here").await.unwrap(), "here");
    let slow = tokio::spawn({
        let busy = busy.clone();
        async move { say(&busy, "Slow", "").await }
    });
    begins.recv().await.unwrap();

    serving.stop.send(()).unwrap();
    soon(idle.closed()).await;
    assert!(Client::connect(serving.path.to_str().unwrap()).await.is_err());
    let refused = say(&busy, "Echo", "").await.unwrap_err();
    assert_eq!((refused.code, refused.is_closed()), (Code::Unavailable, false));
    assert!(!serving.ended.is_finished());

    finish.send_replace(true);
    assert_eq!(soon(slow).await.unwrap().unwrap(), "done");
    soon(busy.closed()).await;
    soon(serving.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_server_ends_its_connections() {
    let (witness, mut seen) = mpsc::unbounded_channel();
    let serving = serve(with_witness(server(), witness));
    let client = serving.connect().await;
    let call = tokio::spawn(async move { say(&client, "Watch", "").await });
    assert_eq!(seen.recv().await, Some("begun"));
    serving.ended.abort();
    assert_eq!(soon(seen.recv()).await, Some("dropped"));
    assert!(soon(call).await.unwrap().unwrap_err().is_closed());
}

/// A peer that is killed with unread bytes in its socket resets the connection.
#[tokio::test]
async fn a_reset_connection_is_closed_like_any_other() {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let client = Client::new(near);
    let call = tokio::spawn(async move { say(&client, "Never", "").await });
    far.readable().await.unwrap();
    drop(far);
    let status = soon(call).await.unwrap().unwrap_err();
    assert!(status.is_closed());
    assert_eq!(status.message, "ttrpc: closed");
}

/// A shim answers its shutdown and exits, while the daemon is sending it something else.
#[tokio::test]
async fn an_answer_is_not_lost_to_a_later_write_that_fails() {
    for _ in 0..50 {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let client = Client::new(near);
        let call = tokio::spawn({
            let client = client.clone();
            async move { say(&client, "Shutdown", "").await }
        });
        let mut header = [0; 10];
        let mut far = far;
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut header).await.unwrap();
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let mut body = vec![0; length as usize];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut body).await.unwrap();
        let late = tokio::spawn({
            let client = client.clone();
            async move { say(&client, "State", "").await }
        });
        let far = far.into_std().unwrap();
        far.set_nonblocking(false).unwrap();
        io::Write::write_all(&mut &far, &frame(1, RESPONSE, 0, b"")).unwrap();
        far.shutdown(std::net::Shutdown::Read).unwrap();
        drop(far);
        soon(call).await.unwrap().unwrap();
        assert!(soon(late).await.unwrap().unwrap_err().is_closed());
    }
}

#[test]
fn it_works_on_the_smallest_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let serving = serve(server());
        let client = serving.connect().await;
        let wait = tokio::time::sleep(Duration::from_millis(1));
        let (answer, ()) = tokio::join!(say(&client, "Later", "hello"), wait);
        assert_eq!(answer.unwrap(), "hello");
    });
}
