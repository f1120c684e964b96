// SPDX-License-Identifier: Apache-2.0
//! What a shim's binary does when it is run: four programs behind one name.
use std::{
    env,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::Arc,
    time::SystemTime,
};

use api::containerd::{task::v3::DeleteResponse, types::RuntimeInfo};
use fs_err as fs;
use prost::Message;
use types::{Any, Context as _, Error, Result};

use crate::{
    Flags, Task,
    bootstrap::{Params, TTRPC_ADDRESS},
    server::{self, Context, LISTENER},
    socket::{self, Socket},
};

/// Environment variable that has shims and their containers share no processor core with others
/// (containerd `cmd/containerd-shim-runc-v2/manager/manager_linux.go`).
const SCHED_CORE: &str = "SCHED_CORE";

/// More than any daemon says to a shim.
const LONGEST_INPUT: u64 = 10 << 20;

/// A kind of shim: what differs between shims, for [`run`].
///
/// All but [`serve`](Shim::serve) run in short-lived processes, in which they may block.
pub trait Shim: Send + Sync + 'static {
    /// The name of the runtime: `io.containerd.runc.v2`.
    fn name(&self) -> &str;

    /// Says which shim is to look after a task, and where it is to run.
    fn placement(&self, bundle: &Path, params: &Params) -> Result<Placement>;

    /// Cleans up after a task whose shim is gone, and says how it ended. It must not matter how far
    /// the shim had come.
    fn stop(&self, remains: &Remains) -> Result<Stopped>;

    /// Says what the runtime can do.
    fn info(&self, options: Option<&Any>) -> Result<RuntimeInfo>;

    /// Makes the service. It is called once, inside the runtime that the service will run in.
    fn serve(&self, context: Context) -> Result<Arc<dyn Task>>;
}

/// Which shim is to look after a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Tasks of one group share a shim. Without, the task has one for itself.
    pub group: Option<String>,
    /// The control group to put the shim into.
    pub cgroup: Option<String>,
}

/// A task whose shim is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The task.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its bundle.
    pub bundle: PathBuf,
}

/// How a task ended that was cleaned up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Its process, or 0 if there was none.
    pub pid: u32,
    /// Its exit status.
    pub exit_status: u32,
    /// When it was found to have ended.
    pub exited_at: SystemTime,
}

/// Runs a shim's binary: reads the command line, does what it says, reports what went wrong.
pub fn run(shim: &impl Shim) -> ExitCode {
    let flags = match Flags::parse(env::args().skip(1)) {
        Ok(flags) if !flags.help => flags,
        asked => return usage(asked.err().as_ref()),
    };
    match act(shim, &flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The daemon shows it as the reason why the shim did not start.
            drop(write!(io::stderr(), "{}: {error}", shim.name()));
            ExitCode::FAILURE
        }
    }
}

/// Prints the flags, and before them what is wrong with those that were given. The status is that of
/// Go's `flag` package.
fn usage(error: Option<&Error>) -> ExitCode {
    let said = error.map(|error| format!("{error}\n")).unwrap_or_default();
    let program = env::args().next().unwrap_or_default();
    drop(write!(io::stderr(), "{said}{}", Flags::usage(&program)));
    if error.is_some() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn act(shim: &impl Shim, flags: &Flags) -> Result<()> {
    if flags.version {
        return print(version().as_bytes());
    }
    if flags.info {
        return info(shim);
    }
    if flags.namespace.is_empty() {
        return Err(Error::said(types::Kind::InvalidArgument, "shim namespace cannot be empty"));
    }
    match flags.action.as_str() {
        "start" => start(shim, flags),
        "delete" => delete(shim, flags),
        _ => server::serve(shim, flags),
    }
}

fn version() -> String {
    let name = env::args().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().display().to_string();
    format!("{name}:\n  Version:  {}\n  Revision: \n\n", env!("CARGO_PKG_VERSION"))
}

fn info(shim: &impl Shim) -> Result<()> {
    let options = prost_types::Any::decode(input()?.as_slice());
    let options = options.ok().filter(|any| !any.type_url.is_empty());
    let options = options.map(|any| Any::new(any.type_url, any.value));
    print(&shim.info(options.as_ref())?.encode_to_vec())
}

fn delete(shim: &impl Shim, flags: &Flags) -> Result<()> {
    let bundle = bundle_of(flags)?;
    let address = fs::read_to_string(bundle.join("address"));
    let (id, namespace) = (flags.id.clone(), flags.namespace.clone());
    let stopped = shim.stop(&Remains { id, namespace, bundle })?;
    if let Ok(address) = address {
        // A server that was killed has left its socket. By now the kernel has closed it.
        drop(socket::remove_dead(&address));
    }
    let response = DeleteResponse {
        pid: stopped.pid,
        exit_status: stopped.exit_status,
        exited_at: Some(stopped.exited_at.into()),
    };
    print(&response.encode_to_vec())
}

/// The bundle that is named, or the one of this task beside the one that we are in.
fn bundle_of(flags: &Flags) -> Result<PathBuf> {
    if !flags.bundle.is_empty() {
        return Ok(flags.bundle.clone().into());
    }
    let here = env::current_dir()?;
    Ok(here.parent().unwrap_or(&here).join(&flags.id))
}

/// Finds or starts the shim of a task, and tells the daemon where it listens.
fn start(shim: &impl Shim, flags: &Flags) -> Result<()> {
    let params = Params::read(flags, &input()?, |key| env::var(key).ok());
    let bundle = env::current_dir()?;
    let placement = shim.placement(&bundle, &params)?;
    let group = placement.group.as_deref().unwrap_or(&params.id);
    let directory = params.socket_dir.as_deref().unwrap_or(socket::DIRECTORY);
    let address = socket::address(directory, &params.address, &params.namespace, group);
    match socket::bind(&address)? {
        Socket::Live => fs::write("address", &address)?,
        Socket::New(listener) => {
            if let Err(error) = launch(&params, &placement, &address, listener) {
                // The first error is the one to tell.
                drop(socket::remove(&address));
                return Err(error);
            }
        }
    }
    print(&params.answer(&address))
}

/// Starts the server on its socket.
fn launch(params: &Params, placement: &Placement, address: &str, listener: OwnedFd) -> Result<()> {
    // Compat: daemons up to 1.6 find the shim of a bundle again by this file.
    fs::write("address", address)?;
    let parent = rustix::process::getppid().map_or(1, |parent| parent.as_raw_nonzero().get());
    // The shim is to be ended before the daemon (containerd `pkg/shim`, `AdjustOOMScore`).
    let score = sys::oom_score::get(parent as u32).unwrap_or(0).saturating_add(1);
    let mut args = vec!["-namespace", &params.namespace, "-id", &params.id];
    args.extend(["-address", &params.address, "-publish-binary", &params.publish_binary]);
    args.extend(params.debug.then_some("-debug"));
    let mut command = sys::Command::new(env::current_exe()?).args(args);
    let is_apart = env::var_os(SCHED_CORE).is_some_and(|value| !value.is_empty());
    if is_apart {
        command = command.core_scheduling();
    }
    let child = command
        .env(TTRPC_ADDRESS, &params.ttrpc_address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_or_null())
        .session()
        .oom_score_adj(score)
        .pass_fd(listener, LISTENER)
        .spawn();
    let child = if is_apart { child.context(|| "enable sched core support")? } else { child? };
    fs::write("shim.pid", child.pid().to_string())?;
    let Some(cgroup) = &placement.cgroup else { return Ok(()) };
    join(cgroup, child.pid()).inspect_err(|_| {
        // Nobody would ever speak to it.
        drop(child.kill(9));
    })
}

fn join(cgroup: &str, pid: u32) -> Result<()> {
    let found =
        cgroups::Cgroup::at(cgroup).context(|| format!("failed to load cgroup {cgroup}"))?;
    found.add(pid).context(|| format!("failed to join cgroup {cgroup}"))
}

/// Where a server's last words go if it must abort.
fn log_or_null() -> Stdio {
    sys::fifo::both(Path::new("log")).map_or_else(|_| Stdio::null(), Stdio::from)
}

fn input() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut input)?;
    Ok(input)
}

fn print(text: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    Ok(out.flush()?)
}
