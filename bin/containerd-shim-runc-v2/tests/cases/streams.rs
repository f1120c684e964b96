// SPDX-License-Identifier: Apache-2.0
use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use api::containerd::task::v3 as pb;
use sys::fifo;
use tokio::time::{Instant, sleep, timeout};

use super::{
    bundle::{Ground, process, shell},
    daemon::eventually,
    driver::{Driver, Shim},
};

/// The client's side of a process's streams.
struct Streams {
    stdin: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Streams {
    fn make(ground: &Ground, name: &str) -> Self {
        let make = |stream: &str| {
            let path = ground.path().join(format!("{name}-{stream}"));
            fifo::create(&path, 0o700).unwrap();
            path
        };
        Self { stdin: make("stdin"), stdout: make("stdout"), stderr: make("stderr") }
    }

    fn names(&self) -> [String; 3] {
        [&self.stdin, &self.stdout, &self.stderr].map(|path| path.display().to_string())
    }

    fn type_in(&self) -> File {
        fifo::writer(&self.stdin).unwrap()
    }
}

fn reader(path: &Path) -> File {
    fifo::reader(path).unwrap()
}

async fn read_until(mut from: &File, text: &mut String, enough: impl Fn(&str) -> bool) {
    let read = timeout(Duration::from_secs(20), async {
        while !enough(text) {
            let mut buffer = [0; 4096];
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert!(read.await.is_ok(), "only {text:?} was read");
}

/// Reads to the end, which must come.
async fn read_all(from: File) -> String {
    let mut text = String::new();
    read_until(&from, &mut text, |_| false).await;
    text
}

async fn container(driver: &Driver, streams: &Streams, script: &str) -> Shim {
    driver
        .container("a", &shell(script), |_, request| {
            [request.stdin, request.stdout, request.stderr] = streams.names();
        })
        .await
}

#[tokio::test]
async fn output_and_errors_are_read_to_their_ends() {
    let driver = Driver::new();
    let streams = Streams::make(&driver.ground, "a");
    let (out, err) = (reader(&streams.stdout), reader(&streams.stderr));
    let shim = container(&driver, &streams, "echo out; echo err >&2; seq 1 100000").await;
    shim.start("").await.unwrap();
    let (out, err) = (read_all(out).await, read_all(err).await);
    assert!(out.starts_with("out\n1\n") && out.ends_with("\n100000\n"));
    assert_eq!(err, "err\n");
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn a_reader_that_leaves_and_returns_has_lost_nothing() {
    let driver = Driver::new();
    let streams = Streams::make(&driver.ground, "a");
    let first = reader(&streams.stdout);
    let shim = container(&driver, &streams, "echo one; cat; echo two; exit 5").await;
    shim.start("").await.unwrap();
    let mut text = String::new();
    read_until(&first, &mut text, |text| text.ends_with("one\n")).await;
    drop(first);
    streams.type_in().write_all(b"typed\n").unwrap();
    let request = pb::CloseIoRequest { id: shim.id.clone(), exec_id: String::new(), stdin: true };
    shim.call::<_, ()>("CloseIO", &request).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 5);
    assert_eq!(read_all(reader(&streams.stdout)).await, "typed\ntwo\n");
    shim.finish().await;
}

#[tokio::test]
async fn an_added_process_is_read_and_typed_to() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    let streams = Streams::make(&driver.ground, "e");
    let out = reader(&streams.stdout);
    shim.exec_with("e", &process(&["cat"]), |request| {
        [request.stdin, request.stdout, request.stderr] = streams.names();
    })
    .await
    .unwrap();
    shim.start("e").await.unwrap();
    streams.type_in().write_all(b"hello\n").unwrap();
    let request = pb::CloseIoRequest { id: shim.id.clone(), exec_id: "e".into(), stdin: true };
    shim.call::<_, ()>("CloseIO", &request).await.unwrap();
    assert_eq!(shim.wait("e").await.unwrap(), 0);
    assert_eq!(read_all(out).await, "hello\n");
    shim.delete("e").await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn an_added_process_is_deleted_at_once_though_what_it_left_holds_its_output() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    let streams = Streams::make(&driver.ground, "e");
    let out = reader(&streams.stdout);
    shim.exec_with("e", &shell("sleep 90 & echo said"), |request| {
        [_, request.stdout, _] = streams.names();
    })
    .await
    .unwrap();
    shim.start("e").await.unwrap();
    shim.wait("e").await.unwrap();
    let begun = Instant::now();
    shim.delete("e").await.unwrap();
    assert_eq!(read_all(out).await, "said\n");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn a_terminal_shows_what_is_typed_and_has_a_size() {
    let driver = Driver::new();
    let streams = Streams::make(&driver.ground, "a");
    let out = reader(&streams.stdout);
    let mut shell = process(&["sh"]);
    shell["terminal"] = true.into();
    let shim = driver
        .container("a", &shell, |_, request| {
            [request.stdin, request.stdout, _] = streams.names();
            request.terminal = true;
        })
        .await;
    shim.start("").await.unwrap();
    let request =
        pb::ResizePtyRequest { id: shim.id.clone(), width: 91, height: 17, ..Default::default() };
    shim.call::<_, ()>("ResizePty", &request).await.unwrap();
    let mut keyboard = streams.type_in();
    let mut text = String::new();
    keyboard.write_all(b"stty size; tty\n").unwrap();
    read_until(&out, &mut text, |text| text.contains("17 91") && text.contains("/dev/pts/")).await;
    keyboard.write_all(b"seq 1 5000; exit 6\n").unwrap();
    let rest = read_all(out).await;
    assert!(rest.ends_with("5000\r\n"), "{rest:?}");
    assert_eq!(shim.wait("").await.unwrap(), 6);
    shim.finish().await;
}

#[tokio::test]
async fn an_added_process_may_have_a_terminal() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    let streams = Streams::make(&driver.ground, "e");
    let out = reader(&streams.stdout);
    shim.exec_with("e", &process(&["tty"]), |request| {
        [request.stdin, request.stdout, _] = streams.names();
        request.terminal = true;
    })
    .await
    .unwrap();
    shim.start("e").await.unwrap();
    assert!(read_all(out).await.starts_with("/dev/pts/"));
    assert_eq!(shim.wait("e").await.unwrap(), 0);
    shim.delete("e").await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_blocks_only_its_own_container() {
    let driver = Driver::new();
    let streams = Streams::make(&driver.ground, "a");
    let shim = container(&driver, &streams, "yes").await;
    shim.start("").await.unwrap();
    let full =
        |path: &Path| rustix::io::ioctl_fionread(fifo::both(path).unwrap()).unwrap() >= 60_000;
    eventually("the fifo is full", || full(&streams.stdout).then_some(())).await;
    let begun = Instant::now();
    shim.state("").await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    shim.delete("").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn output_goes_to_a_file_and_to_a_program() {
    let driver = Driver::new();
    let log = driver.ground.path().join("a.log");
    let shim = driver
        .container("a", &shell("echo filed; echo err >&2"), |_, request| {
            request.stdout = format!("file://{}", log.display());
            request.stderr.clone_from(&request.stdout);
        })
        .await;
    shim.start("").await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
    assert_eq!(fs_err::read_to_string(&log).unwrap(), "filed\nerr\n");

    let script = driver.ground.path().join("logger");
    let text = format!("#!/bin/sh\nexec 5>&-\ntrap '' TERM\ncat <&3 > {}\n", log.display());
    sys::program::install(&script, text.as_bytes()).unwrap();
    let shim = driver
        .container("b", &shell("echo logged"), |_, request| {
            request.stdout = format!("binary://{}?id=b", script.display());
            request.stderr.clone_from(&request.stdout);
        })
        .await;
    shim.start("").await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
    assert_eq!(fs_err::read_to_string(&log).unwrap(), "logged\n");
}

#[tokio::test]
async fn another_user_s_output_is_that_user_s() {
    let mut driver = Driver::new();
    (driver.options.io_uid, driver.options.io_gid) = (1000, 1000);
    let streams = Streams::make(&driver.ground, "a");
    let out = reader(&streams.stdout);
    let mut shell = shell("echo again > /proc/self/fd/1");
    shell["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    let shim = driver
        .container("a", &shell, |_, request| {
            [_, request.stdout, request.stderr] = streams.names();
        })
        .await;
    shim.start("").await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 0);
    assert_eq!(read_all(out).await, "again\n");
    shim.finish().await;
}
