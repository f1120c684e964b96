// SPDX-License-Identifier: Apache-2.0
//! Creating a container: its files, its root filesystem, its streams, its first process.
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use api::containerd::{
    events::{TaskCreate, TaskIo},
    runc::v1::Options,
    task::v3::CreateTaskRequest,
    types::Mount as WireMount,
};
use cgroups::Cgroup;
use fs_err as fs;
use mount::{Mount, UnmountFlags};
use rustix::fs::Mode;
use shim::{
    Context,
    stdio::{self, Handing, Io, Stdio},
};
use sys::failpoint;
use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::{error, warn};
use types::{Context as _, Result};

use super::{Handle, Owner};
use crate::{
    manager,
    oom::Oom,
    options,
    process::{Process, Streams, read_pid},
    runc::{Create, Failure, INIT_PID, Runc},
    spec::Spec,
    state::{Role, State},
};

/// Creates a container. If that fails, nothing is left of it.
pub(crate) async fn create(context: &Context, request: CreateTaskRequest) -> Result<Owner> {
    let options = options::unpack(request.options.as_ref())?;
    let bundle = Path::new(&request.bundle);
    options::write(bundle, &options)?;
    failpoint::reach("shim.create.begun")?;
    let mounts: Vec<_> = request.rootfs.iter().map(to_mount).collect();
    mount_rootfs(bundle, mounts.clone()).await?;

    // The first process may be dead before it is known which one it is.
    let _expecting = context.exits.expect();
    let created = begin(context, &request, options).await;
    if created.is_err() {
        unmount_rootfs(bundle, mounts).await;
    }
    let owner = created?;
    context.publisher.publish(&TaskCreate {
        container_id: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: Some(TaskIo {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        }),
        checkpoint: request.checkpoint,
        pid: owner.init.facts().pid,
    });
    if owner.init.state() == State::Created {
        owner.watch_exit("", owner.init.facts().pid);
    }
    // What was told is so: at this place a shim can only be killed.
    drop(failpoint::reach("shim.create.told"));
    Ok(owner)
}

/// Makes the first process, or if it is to go on from a checkpoint everything but that.
async fn begin(context: &Context, request: &CreateTaskRequest, options: Options) -> Result<Owner> {
    let bundle = Path::new(&request.bundle);
    let is_fresh = request.checkpoint.is_empty();
    let state = if is_fresh { State::Created } else { State::Restorable };
    let stdio = Stdio {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let runc = Runc::new(&options, bundle, &context.namespace);
    let mut init = Process::new(Role::Init, state, stdio);
    if is_fresh {
        let (pid, io) = run_create(context, &runc, &request.id, bundle, &options, &init).await?;
        init.born(pid);
        init.io = io;
    }
    // A specification that runc could read and we cannot: better to end too much than too little.
    let ends_together = Spec::read(bundle).is_ok_and(|spec| spec.has_own_processes());
    Ok(own(context, request, options, runc, init, ends_together))
}

fn own(
    context: &Context,
    request: &CreateTaskRequest,
    options: Options,
    runc: Runc,
    init: Process,
    ends_together: bool,
) -> Owner {
    let (messages, inbox) = mpsc::unbounded_channel();
    let cgroup = Some(init.facts().pid).filter(|pid| *pid > 0).map(Cgroup::of_pid);
    let handle = Arc::new(Handle {
        id: request.id.clone(),
        bundle: request.bundle.clone().into(),
        runc,
        messages,
        processes: Mutex::default(),
        cgroup: Mutex::new(cgroup.and_then(Result::ok)),
    });
    handle.introduce("", &init);
    Owner {
        context: context.clone(),
        handle,
        inbox,
        options,
        checkpoint: request.checkpoint.clone(),
        parent_checkpoint: request.parent_checkpoint.clone(),
        ends_together,
        init,
        execs: BTreeMap::new(),
        held_exit: None,
        oom: Oom::default(),
    }
}

async fn run_create(
    context: &Context,
    runc: &Runc,
    id: &str,
    bundle: &Path,
    options: &Options,
    init: &Process,
) -> Result<(u32, Io)> {
    let owner = stdio::Owner { id: id.to_owned(), namespace: context.namespace.clone() };
    failpoint::reach("shim.create.mounted")?;
    let mut streams = Streams::prepare(&init.stdio, handing(options), &owner, bundle).await?;
    let pid_file = bundle.join(INIT_PID).display().to_string();
    let ends = streams.ends();
    let create = Create {
        pid_file: &pid_file,
        console: streams.console(),
        no_pivot: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
    };
    let is_others = runc.has_state(id);
    if let Err(failure) = runc.create(id, &create, ends).await {
        if failure.leaves_remains() && !is_others {
            undo(runc, id, bundle).await;
        }
        return Err(failure.named("OCI runtime create failed"));
    }
    let made = async {
        failpoint::reach("shim.create.made")?;
        Ok((read_pid(&pid_file)?, streams.connect(&init.stdio, &owner).await?))
    };
    let made = made.await;
    if made.is_err() {
        undo(runc, id, bundle).await;
    }
    made
}

/// Removes a container that was made, perhaps in part, and cannot be used.
async fn undo(runc: &Runc, id: &str, bundle: &Path) {
    if let Err(failure) = runc.delete(id, true).await.or_else(Failure::unless_gone) {
        error!(error = %failure.plain(), id, "failed to delete a container that could not be used");
    }
    let bundle = bundle.to_owned();
    let killed = blocking(move || {
        manager::kill_cgroup(&bundle);
        Ok(())
    });
    // It reports itself what it could not do.
    drop(killed.await);
}

/// The files themselves, unless another user is to open them again: then pipes of that user's.
///
/// CRIU saves pipes, but no file that the container's own mounts do not have (criu `files-reg.c`,
/// `dump_one_reg_file`). So where there is CRIU, a container gets pipes: it may be saved one day.
pub(super) fn handing(options: &Options) -> Handing {
    match (options.io_uid, options.io_gid) {
        (0, 0) if !has_criu(env::var_os("PATH")) => Handing::Direct,
        owner => Handing::Relayed(Some(owner)),
    }
}

/// Whether the runtime would find CRIU.
fn has_criu(path: Option<OsString>) -> bool {
    path.is_some_and(|path| env::split_paths(&path).any(|dir| dir.join("criu").is_file()))
}

fn to_mount(wire: &WireMount) -> Mount {
    Mount {
        kind: wire.r#type.clone(),
        source: wire.source.clone(),
        target: wire.target.clone(),
        options: wire.options.clone(),
    }
}

async fn mount_rootfs(bundle: &Path, mounts: Vec<Mount>) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    let rootfs = bundle.join("rootfs");
    match rustix::fs::mkdir(&rootfs, Mode::from_raw_mode(0o711)) {
        Err(rustix::io::Errno::EXIST) => {}
        made => made.map_err(io::Error::from).context(|| format!("mkdir {}", rootfs.display()))?,
    }
    blocking(move || {
        mount::all(&mounts, &rootfs).inspect_err(|_| {
            // What was mounted before the one that failed must not stay.
            drop(mount::unmount_mounts(&mounts, &rootfs, UnmountFlags::empty()));
        })
    })
    .await
    .context(|| "failed to mount rootfs component")
}

async fn unmount_rootfs(bundle: &Path, mounts: Vec<Mount>) {
    let rootfs = bundle.join("rootfs");
    let unmount = move || mount::unmount_mounts(&mounts, &rootfs, UnmountFlags::empty());
    if let Err(error) = blocking(unmount).await {
        warn!(%error, "failed to cleanup rootfs mount");
    }
    // Only there if runc had come so far.
    drop(fs::remove_file(bundle.join(INIT_PID)));
}

/// Does what may take a while elsewhere, so that the shim's one thread goes on.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(|error| types::Error::internal(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container that wrote to its fifo itself could not be saved: CRIU looked for the fifo among
    /// the container's mounts.
    #[test]
    fn criu_is_found_where_the_runtime_would_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = || env::join_paths([Path::new("/no/such"), dir.path()]).ok();
        assert!(!has_criu(path()) && !has_criu(None));
        fs::write(dir.path().join("criu"), "").unwrap();
        assert!(has_criu(path()));
    }
}
