// SPDX-License-Identifier: Apache-2.0
//! A containerd with nothing in common with any other on the machine.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::estate::Estate;
use crate::parts::{Make, Parts, Profile, Programs, SHIM, search_path};
use crate::process::{end, send};
use crate::wait::{PATIENCE, until};
use crate::{Context, Ctr, Failure, Outcome, ensure, probe, process};

/// Where scenarios say what happens to our programs.
const FAILPOINTS: &str = "failpoints";

/// A daemon on a private root, state and socket. Dropping it ends it and all of its containers.
///
/// ```text
/// <home>/bin/                        the daemon, and the one shim that it is to find
///        config.toml  log
///        root/  state/  tmp/  failpoints/  c.sock  c.sock.ttrpc
/// ```
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    parts: Parts,
    programs: Programs,
    boot: Duration,
    estate: Estate,
}

impl Daemon {
    /// Starts a daemon and waits until it answers.
    pub fn start(parts: Parts, profile: Profile) -> Outcome<Self> {
        Self::start_on(parts, profile, |_| Ok(()))
    }

    /// Starts a daemon whose root `furnish` has mounted something on, or filled, and waits until it
    /// answers.
    pub fn start_on(
        parts: Parts,
        profile: Profile,
        furnish: impl FnOnce(&Path) -> Outcome,
    ) -> Outcome<Self> {
        let programs = Programs::find(parts, profile)?;
        let estate = Estate::new()?;
        let mut daemon = Self { child: None, parts, programs, boot: Duration::ZERO, estate };
        daemon.furnish(profile)?;
        let root = daemon.home().join("root");
        fs_err::create_dir(&root)?;
        furnish(&root)?;
        daemon.boot()?;
        Ok(daemon)
    }

    /// Puts daemon and shim side by side: Go's daemon looks for a shim on the PATH and then beside
    /// itself (containerd's `runtime/v2/manager.go`), so this place is first in either order.
    fn furnish(&self, profile: Profile) -> Outcome {
        for dir in ["bin", "tmp", FAILPOINTS] {
            fs_err::create_dir_all(self.home().join(dir))?;
        }
        place(&self.programs.daemon, &self.binary(), profile)?;
        place(&self.programs.shim, &self.home().join("bin").join(SHIM), profile)?;
        fs_err::write(self.home().join("config.toml"), self.config())?;
        Ok(())
    }

    fn binary(&self) -> PathBuf {
        self.home().join("bin/containerd")
    }

    fn config(&self) -> String {
        let home = self.home().display();
        // Without its path this plugin of Go's would make /opt/containerd.
        let opt = match self.parts.daemon {
            Make::Go => {
                format!("[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{home}/opt\"\n")
            }
            Make::Ours => String::new(),
        };
        format!(
            "version = 2\nroot = \"{home}/root\"\nstate = \"{home}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = \"{home}/c.sock\"\n\
             [ttrpc]\n  address = \"{home}/c.sock.ttrpc\"\n{opt}"
        )
    }

    /// A command that would start another daemon on the same root, state and sockets.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.binary());
        let path = format!("{}:{}", self.home().join("bin").display(), search_path());
        command.arg("--config").arg(self.home().join("config.toml"));
        command.env("PATH", path).env("TMPDIR", self.home().join("tmp"));
        command.env("CONTAINERD_FAILPOINTS", self.home().join(FAILPOINTS));
        command.current_dir(self.home()).stdin(Stdio::null());
        command
    }

    /// Has something happen, once, to the first of our programs that comes to a named place: `kill`,
    /// `hang`, or anything else to fail with (`crates/sys/src/failpoint.rs`).
    pub fn arm(&self, place: &str, action: &str) -> Outcome {
        Ok(fs_err::write(self.home().join(FAILPOINTS).join(place), action)?)
    }

    /// Whether a program has come to a place that was armed.
    pub fn was_reached(&self, place: &str) -> bool {
        !self.home().join(FAILPOINTS).join(place).exists()
    }

    fn boot(&mut self) -> Outcome {
        let options = fs_err::OpenOptions::new().create(true).append(true).clone();
        let (log, _) = options.open(self.log_path())?.into_parts();
        let started = Instant::now();
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().context("start containerd")?;
        let booted = until("an answer from containerd", PATIENCE, || {
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "containerd ended instead of answering: {ended:?}");
            Ok(probe::answers(&self.address()).then_some(()))
        });
        self.boot = started.elapsed();
        self.child = Some(child);
        booted.map_err(|failure| failure.with_section("its log", &self.log()))
    }

    /// Its home directory.
    pub fn home(&self) -> &Path {
        self.estate.home()
    }

    /// What belongs to it on this machine.
    pub fn estate(&self) -> &Estate {
        &self.estate
    }

    /// Where it listens.
    pub fn address(&self) -> PathBuf {
        self.home().join("c.sock")
    }

    /// Who plays which part.
    pub fn parts(&self) -> Parts {
        self.parts
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Outcome<i32> {
        Ok(self.child.as_ref().context("containerd is not running")?.id() as i32)
    }

    /// How long the last start took, from the start of the process to its first answer.
    pub fn boot_time(&self) -> Duration {
        self.boot
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home().join("log")
    }

    /// The directory of its content store (containerd's `docs/ops.md`).
    pub fn content(&self) -> PathBuf {
        self.home().join("root/io.containerd.content.v1.content")
    }

    /// The directories of the overlay snapshotter's snapshots.
    pub fn snapshots(&self) -> Outcome<Vec<PathBuf>> {
        let dir = self.home().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        Ok(fs_err::read_dir(dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_, std::io::Error>>()?)
    }

    /// A client of the parts' make, in the namespace that everything of this daemon has.
    pub fn ctr(&self) -> Ctr {
        Ctr::new(&self.programs.ctr, self)
    }

    /// A client by any program.
    pub fn ctr_by(&self, program: &Path) -> Ctr {
        Ctr::new(program, self)
    }

    /// Ends it as a power cut would: it has no chance to do anything.
    pub fn kill9(&mut self) -> Outcome {
        let mut child = self.child.take().context("containerd is not running")?;
        end(&mut child);
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> Outcome<ExitStatus> {
        let mut child = self.child.take().context("containerd is not running")?;
        send(child.id() as i32, Signal::TERM)?;
        let ended = until("its end after SIGTERM", PATIENCE, || Ok(child.try_wait()?));
        end(&mut child);
        ended.map_err(|failure| failure.with_section("its log", &self.log()))
    }

    /// Starts another make of it on the same root, state and sockets, after it was ended.
    pub fn hand_over(&mut self, parts: Parts) -> Outcome {
        self.programs = Programs::find(parts, Profile::Dev)?;
        self.parts = parts;
        fs_err::remove_dir_all(self.home().join("bin"))?;
        fs_err::remove_dir_all(self.home().join("tmp"))?;
        self.furnish(Profile::Dev)?;
        self.restart()
    }

    /// Starts it again on the same root and state, after it was ended.
    pub fn restart(&mut self) -> Outcome {
        if self.child.is_some() {
            return Err(Failure::new("containerd still runs"));
        }
        self.boot()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
        if std::thread::panicking() {
            eprintln!("---- log of containerd ----\n{}", tail(&self.log(), 60));
        }
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Gives a program a second name, or a second body where its memory is measured: two processes of
/// one file would share its pages and seem smaller than each is alone.
///
/// The copy is not written by this process: a child that another thread starts meanwhile would hold
/// it open for writing, and then it cannot be run.
fn place(program: &Path, target: &Path, profile: Profile) -> Outcome {
    if profile == Profile::Dev && fs_err::hard_link(program, target).is_ok() {
        return Ok(());
    }
    let mut copy = Command::new("cp");
    process::run(copy.arg(program).arg(target), PATIENCE)?.ok().map(drop)
}
