// SPDX-License-Identifier: Apache-2.0
//! The distribution's Docker Engine, on the containerd of a test: the client that most people have.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::parts::{other_tools, search_path, tool};
use crate::process::{Output, Running, end, run, send};
use crate::wait::{PATIENCE, until};
use crate::{Context, Daemon, Image, Outcome, Pty, ensure};

/// The image that every engine of a test has.
pub const IMAGE: &str = "box";

/// A Docker Engine without any network of its own. Dropping it ends it; its containers end with the
/// containerd that runs them.
///
/// ```text
/// <home of containerd>/docker/    what the engine keeps
///                      exec/      what lives while it runs: fifos, runc's state
///                      docker.json  docker.sock  docker.log  docker.pid
/// ```
#[derive(Debug)]
pub struct Docker {
    home: PathBuf,
    tag: String,
    containerd: PathBuf,
    child: Option<Child>,
    config: &'static str,
}

impl Docker {
    /// Starts an engine on this containerd and gives it [`IMAGE`].
    pub fn start(daemon: &Daemon) -> Outcome<Self> {
        let docker = Self::start_as(daemon, "{}")?;
        docker.load()?;
        Ok(docker)
    }

    /// Starts an engine that keeps its images in containerd, without any. Older ones cannot.
    pub fn start_with_image_store(daemon: &Daemon) -> Outcome<Self> {
        Self::start_as(daemon, "{\"features\": {\"containerd-snapshotter\": true}}")
    }

    fn start_as(daemon: &Daemon, config: &'static str) -> Outcome<Self> {
        let mut docker = Self {
            home: daemon.home().to_owned(),
            tag: daemon.estate().tag().to_owned(),
            containerd: daemon.address(),
            child: None,
            config,
        };
        docker.boot()?;
        Ok(docker)
    }

    /// The engine's namespace and cgroups carry the mark of the test, so that what is left over is
    /// found; live-restore keeps containers when the engine ends.
    fn boot(&mut self) -> Outcome {
        let log = fs_err::File::options().create(true).append(true).open(self.path("docker.log"));
        let (log, _) = log?.into_parts();
        let config = self.path("docker.json");
        fs_err::write(&config, self.config)?;
        let mut command = Command::new(tool("dockerd")?);
        command.arg("--config-file").arg(config).env("PATH", search_path());
        command.arg("--containerd").arg(&self.containerd);
        command.arg("--data-root").arg(self.path("docker"));
        command.arg("--exec-root").arg(self.path("exec"));
        command.arg("--pidfile").arg(self.path("docker.pid"));
        command.arg("--host").arg(self.host());
        command.args(["--containerd-namespace", &self.tag, "--cgroup-parent", &self.tag]);
        command.arg("--containerd-plugins-namespace").arg(format!("{}-plugins", self.tag));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore"]);
        command.args(["--shutdown-timeout", "5"]).current_dir(&self.home);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().context("start dockerd")?;
        let booted = until("an answer from dockerd", PATIENCE, || {
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "dockerd ended instead of answering: {ended:?}");
            Ok(self.run(&["version"])?.status.success().then_some(()))
        });
        self.child = Some(child);
        booted.map_err(|failure| failure.with_section("its log", &self.log()))
    }

    fn load(&self) -> Outcome {
        let file = self.path("rootfs.tar");
        fs_err::write(&file, Image::busybox()?.archive(0)?)?;
        self.ok(&["import", &file.display().to_string(), IMAGE]).map(drop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// All that the engine has logged so far.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.path("docker.log")).unwrap_or_default()
    }

    /// A command of `docker` against this engine, not yet started. The client is of the engine's own
    /// version, whatever else is on the PATH.
    pub fn command(&self, args: &[&str]) -> Command {
        let other = other_tools().map(|dir| dir.join("docker")).filter(|path| path.is_file());
        let mut command = Command::new(other.unwrap_or_else(|| "/usr/bin/docker".into()));
        command.arg("--host").arg(self.host()).args(args);
        command.env("HOME", &self.home).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, args: &[&str]) -> Outcome<Output> {
        run(&mut self.command(args), PATIENCE)
    }

    /// Runs a command that must succeed; gives its standard output without the last line's end.
    pub fn ok(&self, args: &[&str]) -> Outcome<String> {
        Ok(self.run(args)?.ok()?.trim_end().to_owned())
    }

    /// Starts a command in the background with its standard input held open.
    pub fn start_fed(&self, args: &[&str]) -> Outcome<Running> {
        Running::start_fed(&mut self.command(args))
    }

    /// Starts a command on a terminal.
    pub fn on_terminal(&self, args: &[&str], rows: u16, columns: u16) -> Outcome<Pty> {
        Pty::start(&mut self.command(args), rows, columns)
    }

    /// One value of `docker inspect`, by its Go template.
    pub fn inspect(&self, name: &str, field: &str) -> Outcome<String> {
        self.ok(&["inspect", "--format", &format!("{{{{{field}}}}}"), name])
    }

    /// One value of `docker info`, by its Go template.
    pub fn inspect_engine(&self, field: &str) -> Outcome<String> {
        self.ok(&["info", "--format", &format!("{{{{.{field}}}}}")])
    }

    /// Ends the engine, not its containers, and starts it again.
    pub fn restart(&mut self) -> Outcome {
        self.stop()?;
        self.boot()
    }

    /// Ends the engine in an orderly way.
    pub fn stop(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        send(child.id() as i32, Signal::TERM)?;
        let ended = until("the end of dockerd", Duration::from_secs(20), || Ok(child.try_wait()?));
        end(&mut child);
        ended.map(drop).map_err(|failure| failure.with_section("its log", &self.log()))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Err(failure) = self.stop() {
            eprintln!("dockerd: {failure}");
        }
        // Its own mounts: the data root on itself, and the network namespace of `--net none`.
        for point in ["exec/netns/default", "docker"] {
            unmount(self.path(point), UnmountFlags::DETACH).ok();
        }
    }
}
