// SPDX-License-Identifier: Apache-2.0
use std::{path::Path, time::Duration};

use trust::Programs;
use types::{Descriptor, Digest, Kind, media_types};

fn put(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    sys::program::install(&path, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
}

fn programs(folder: &Path) -> Programs {
    Programs { folder: folder.to_owned(), limit: Some(10), patience: Duration::from_secs(10) }
}

fn target() -> Descriptor {
    Descriptor::new(media_types::INDEX, Digest::of("x"), 1)
}

#[tokio::test]
async fn each_program_is_told_what_it_judges() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a", "echo \" $* \"; cat");
    put(folder.path(), "b", "echo fine; exec >/dev/null; head -c 300000 /dev/zero >&2");
    let judged = programs(folder.path()).judge("r.io/a:1", &target()).await.unwrap();
    let digest = target().digest;
    let args = format!(
        "-name r.io/a:1 -digest {digest} -stdin-media-type application/vnd.oci.descriptor.v1+json"
    );
    let told = serde_json::to_string(&target()).unwrap();
    assert!(judged.is_accepted);
    assert_eq!(judged.reason, format!("a => {args} \n{told}, b => fine"));
}

#[tokio::test]
async fn the_first_that_refuses_decides() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a", "exit 0");
    put(folder.path(), "b", "echo no; exit 3");
    put(folder.path(), "c", "touch \"$0.asked\"");
    let judged = programs(folder.path()).judge("r.io/a:1", &target()).await.unwrap();
    assert!(!judged.is_accepted);
    assert_eq!(judged.reason, "verifier b rejected image (exit code 3): no");
    assert!(!folder.path().join("c.asked").exists());
}

#[tokio::test]
async fn no_program_is_no_objection() {
    let folder = tempfile::tempdir().unwrap();
    let judge = |path: &Path| {
        let programs = programs(path);
        async move { programs.judge("r.io/a:1", &target()).await.unwrap() }
    };
    assert!(judge(folder.path()).await.reason.starts_with("no image verifier binaries found"));
    assert!(judge(&folder.path().join("none")).await.reason.ends_with("does not exist"));
    put(folder.path(), "a", "exit 1");
    let none = Programs { limit: Some(0), ..programs(folder.path()) };
    assert!(none.judge("r.io/a:1", &target()).await.unwrap().is_accepted);
}

#[tokio::test]
async fn a_program_that_takes_too_long_ends_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "slow", "sleep 1000 & echo $! > \"$0.pid\"; wait");
    let hasty = Programs { patience: Duration::from_millis(300), ..programs(folder.path()) };
    let error = hasty.judge("r.io/a:1", &target()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    let pid = fs_err::read_to_string(folder.path().join("slow.pid")).unwrap();
    let state = || fs_err::read_to_string(format!("/proc/{}/stat", pid.trim()));
    for _ in 0..200 {
        if state().map_or(true, |it| it.contains(") Z ")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the child outlived its verifier");
}
