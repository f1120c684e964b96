// SPDX-License-Identifier: Apache-2.0
//! Saving a container to a directory, and going on from there.
use api::containerd::{runc::v1::CheckpointOptions, task::v3::CheckpointTaskRequest};
use fs_err as fs;
use shim::stdio;
use tracing::warn;
use types::{Error, Kind, Result};

use super::{Owner, create::handing};
use crate::{
    process::{Streams, read_pid},
    runc::{Checkpoint, Failure, INIT_PID, Restore},
    state::Action,
};

impl Owner {
    /// Saves the container (containerd `cmd/containerd-shim-runc-v2/process/init.go`, `checkpoint`).
    pub(super) async fn checkpoint(&mut self, request: &CheckpointTaskRequest) -> Result<()> {
        self.init.allow(Action::Checkpoint)?;
        let options = checkpoint_options(request)?;
        let own_work = self.handle.bundle.join("work").join("criu-work").display().to_string();
        let work = if options.work_path.is_empty() { &own_work } else { &options.work_path };
        let checkpoint = Checkpoint {
            image_path: &request.path,
            work_path: work,
            parent_path: "",
            open_tcp: options.open_tcp,
            external_unix_sockets: options.external_unix_sockets,
            terminal: options.terminal,
            file_locks: options.file_locks,
            cgroups_mode: "",
            empty_namespaces: &options.empty_namespaces,
            leave_running: !options.exit,
        };
        let called = self.handle.runc.checkpoint(&self.handle.id, &checkpoint).await;
        let saved = called.map_err(|failure| self.not_saved(&failure, work));
        if options.work_path.is_empty() {
            // It holds nothing but what CRIU said.
            drop(fs::remove_dir_all(&own_work));
        }
        saved
    }

    /// The first line of what CRIU says, and where the rest is.
    fn not_saved(&self, failure: &Failure, work: &str) -> Error {
        let dump = self.handle.bundle.join("criu-dump.log");
        if let Err(error) = fs::copy(std::path::Path::new(work).join("dump.log"), &dump) {
            warn!(%error, "failed to copy dump.log to criu-dump.log");
        }
        let text = failure.plain().to_string();
        let first = text.lines().next().unwrap_or_default();
        Error::said(Kind::Unknown, format!("{first} path= {}", dump.display()))
    }

    /// Makes the first process from a checkpoint. It runs at once.
    pub(super) async fn restore(&mut self) -> Result<()> {
        let (handle, options) = (self.handle.clone(), self.options.clone());
        let owner =
            stdio::Owner { id: handle.id.clone(), namespace: self.context.namespace.clone() };
        let stdio = self.init.stdio.clone();
        let _expecting = self.context.exits.expect();
        let mut streams =
            Streams::prepare(&stdio, handing(&options), &owner, &handle.bundle).await?;
        let ends = streams.ends();
        let pid_file = handle.bundle.join(INIT_PID).display().to_string();
        let own_work = handle.bundle.join("work").display().to_string();
        let work = &options.criu_work_path;
        let restore = Restore {
            image_path: &self.checkpoint,
            work_path: if work.is_empty() { &own_work } else { work },
            parent_path: &self.parent_checkpoint,
            pid_file: &pid_file,
            console: streams.console(),
            no_pivot: options.no_pivot_root,
        };
        let called = handle.runc.restore(&handle.id, &restore, ends).await;
        called.map_err(|failure| failure.named("OCI runtime restore failed"))?;
        self.init.io = streams.connect(&stdio, &owner).await?;
        let pid = read_pid(&pid_file)?;
        self.init.born(pid);
        self.watch_exit("", pid);
        Ok(())
    }
}

fn checkpoint_options(request: &CheckpointTaskRequest) -> Result<CheckpointOptions> {
    let Some(any) = &request.options else { return Ok(CheckpointOptions::default()) };
    match api::unpack(any) {
        Some(options) => options
            .map_err(|error| Error::caused(Kind::InvalidArgument, "checkpoint options", error)),
        None => Err(Error::invalid(format!("checkpoint options of type {:?}", any.type_url))),
    }
}
