// SPDX-License-Identifier: Apache-2.0
//! What the daemon is doing, in a file, when SIGUSR1 asks for it.
//!
//! Compat: Go's writes the stacks of all goroutines (containerd `cmd/containerd/command/main_unix.go`,
//! `dumpStacks`) to a file in the temporary directory. Here it is what the kernel knows of the
//! daemon's threads and files, and what tokio knows of its tasks.
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use fs_err as fs;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

/// Ends the listening when it is dropped.
pub(crate) struct Dumping(Option<JoinHandle<()>>);

impl Drop for Dumping {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Writes `containerd.<pid>.stacks.log` into `directory` whenever SIGUSR1 comes.
pub(crate) fn on_signal(directory: PathBuf) -> Dumping {
    let mut signals = match signal(SignalKind::user_defined1()) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "SIGUSR1 cannot be listened to");
            return Dumping(None);
        }
    };
    Dumping(Some(tokio::spawn(async move {
        while signals.recv().await.is_some() {
            let path = directory.join(format!("containerd.{}.stacks.log", std::process::id()));
            match dump(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "state dumped"),
                Err(error) => tracing::warn!(%error, "failed to dump the state"),
            }
        }
    })))
}

/// A file of that name is whole, whoever looks for it and when.
fn dump(path: &Path) -> std::io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, text())?;
    fs::rename(unfinished, path)
}

fn text() -> String {
    let mut text = crate::version_line();
    let metrics = tokio::runtime::Handle::current().metrics();
    let (tasks, workers) = (metrics.num_alive_tasks(), metrics.num_workers());
    write!(text, "\n\ntasks {tasks}, workers {workers}\n\n").expect("a string can be written to");
    for thread in threads(Path::new("/proc/self/task")) {
        text.push_str(&thread);
    }
    text.push_str("\nopen files\n");
    for (number, target) in files(Path::new("/proc/self/fd")) {
        writeln!(text, "  {number} {target}").expect("a string can be written to");
    }
    text
}

/// Each thread: its name, what it does, and where in the kernel it waits.
fn threads(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut threads: Vec<_> = entries
        .flatten()
        .map(|entry| {
            let path = entry.path();
            let (name, wait) = (read(path.join("comm")), read(path.join("wchan")));
            let status = read(path.join("status"));
            let state = status.lines().find_map(|line| line.strip_prefix("State:"));
            let id = entry.file_name().display().to_string();
            let (name, state) = (name.trim(), state.unwrap_or_default().trim());
            format!("thread {id} {name:?} {state} {wait}\n{}", read(path.join("stack")))
        })
        .collect();
    threads.sort();
    threads
}

fn files(directory: &Path) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
        })
        .collect();
    files.sort();
    files
}
