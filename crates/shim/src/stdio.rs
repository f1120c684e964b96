// SPDX-License-Identifier: Apache-2.0
//! The streams of a process: where they come from, where they go, and who carries the bytes.
//!
//! Whoever asks for a process names its streams: a fifo, a file, a program that logs, or nothing.
//! Where it can be, the file itself is handed to the process, and no byte is passed on by anybody:
//!
//! ```text
//! direct    process --write--> fifo <--read-- client      the shim holds both ends open as well:
//!                                ^ shim                   a client may go and come back
//! relayed   process --> pipe --splice in the shim--> fifo <-- client
//! terminal  process --> pty  --copied in the shim--> fifo <-- client
//! ```
//!
//! Relayed is what must end when the process ends, though others that it started live on with the
//! same output ([`Handing::Relayed`], but for files, whose end nobody waits for); and errors always, because what starts the process complains
//! on the same stream if it cannot, and that is not for the client: nothing is passed on before
//! [`Io::begin`]. A client sees the end of a stream when the process is gone and everything it wrote
//! was read, or at the latest at [`Io::finish`].
use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::Stdio as ChildStdio,
    time::Duration,
};

use fs_err::{self as fs, os::unix::fs::OpenOptionsExt};
use rustix::{
    fs::{Gid, OFlags, Uid, fchown, fcntl_setfl},
    io::ioctl_fionread,
    pipe::{PipeFlags, pipe_with},
};
use sys::fifo;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;
use types::{Context, Error, Result};

mod console;
mod logger;
mod plan;
mod relay;
mod terminal;

pub use console::ConsoleSocket;
pub use plan::{Logger, Plan, Sink};

use logger::Logging;
use relay::{Relay, Target};
use terminal::Terminal;

/// How long a process that is gone may have its last output read (containerd
/// `cmd/containerd-shim-runc-v2/process/utils.go`, `shutdownAndDrain`).
const DRAIN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The streams of a process as its creator names them. Empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Where input comes from: a fifo.
    pub stdin: String,
    /// Where output goes: a fifo, `file://`, `binary://` or `binary-v2://`.
    pub stdout: String,
    /// Where errors go: like output, and with it to the same file or program.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// Whose process it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its container or exec id, which a program that logs is told.
    pub id: String,
    /// Its namespace, likewise.
    pub namespace: String,
}

/// How a process gets at its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handing {
    /// The files themselves, but for errors: for a process with which everything ends that could
    /// write to them.
    Direct,
    /// Pipes, and the shim passes on what comes: for a process that others may outlive. The pipes
    /// belong to a user and a group if they are given.
    Relayed(Option<(u32, u32)>),
}

/// The process's side of its streams.
#[derive(Debug)]
pub struct Ends {
    /// What it reads.
    pub stdin: ChildStdio,
    /// What it writes.
    pub stdout: ChildStdio,
    /// What it complains to.
    pub stderr: ChildStdio,
}

/// The shim's side of the streams of a process. When it is dropped they end at once.
#[derive(Debug, Default)]
pub struct Io {
    /// What keeps the process's input open: a writing end of its fifo.
    stdin: Option<File>,
    /// What keeps its output open while nobody reads.
    holds: Vec<File>,
    /// The same once the process is gone, until everything was read.
    held: Vec<Carrier>,
    /// What is to be passed on once there is a process.
    pending: Vec<Pending>,
    input: Option<Relay>,
    outputs: Vec<Relay>,
    terminal: Option<Terminal>,
    logging: Option<Logging>,
}

/// A relay that has not begun.
#[derive(Debug)]
struct Pending {
    from: OwnedFd,
    to: Target,
    is_input: bool,
}

impl Io {
    /// Opens the streams of a process without a terminal. They begin with [`Io::begin`].
    pub async fn open(stdio: &Stdio, handing: Handing, owner: &Owner) -> Result<(Self, Ends)> {
        let plan = Plan::of(stdio)?;
        let mut io = Self::default();
        let stdin = io.open_stdin(plan.stdin.as_deref(), handing)?;
        let (stdout, stderr) = match (&plan.stdout, &plan.stderr) {
            (Sink::Logger(logger), _) => {
                let (logging, stdout, stderr) = Logging::start(logger, owner).await?;
                io.logging = Some(logging);
                (stdout, stderr)
            }
            (stdout, stderr) => {
                let relayed = match handing {
                    Handing::Direct => Handing::Relayed(None),
                    relayed @ Handing::Relayed(_) => relayed,
                };
                // Nobody waits for the end of a file, however many write to it.
                let direct = match (handing, stdout) {
                    (Handing::Relayed(None), Sink::File(_)) => Handing::Direct,
                    (handing, _) => handing,
                };
                (io.open_sink(stdout, direct)?, io.open_sink(stderr, relayed)?)
            }
        };
        Ok((io, Ends { stdin, stdout, stderr }))
    }

    /// Starts to pass on what the process writes, now that it is there.
    pub fn begin(&mut self) -> io::Result<()> {
        for Pending { from, to, is_input } in self.pending.drain(..) {
            let relay = Relay::start(from, to)?;
            if is_input {
                self.input = Some(relay);
            } else {
                self.outputs.push(relay);
            }
        }
        Ok(())
    }

    /// Starts to carry what a terminal shows, and what is typed, given its master.
    pub async fn open_terminal(stdio: &Stdio, master: OwnedFd, owner: &Owner) -> Result<Self> {
        let plan = Plan::of(stdio)?;
        let mut io = Self::default();
        let input = plan.stdin.as_deref().map(|path| io.open_fifo_stdin(path)).transpose()?;
        let output = match &plan.stdout {
            Sink::Null => None,
            Sink::Path(path) if fifo::is_fifo(path) => Some(fifo::both(path)?),
            Sink::Path(path) | Sink::File(path) => Some(append(path, true)?),
            Sink::Logger(logger) => {
                let (logging, output) = Logging::start_for_terminal(logger, owner).await?;
                io.logging = Some(logging);
                Some(output)
            }
        };
        io.terminal = Some(Terminal::start(master, input, output)?);
        Ok(io)
    }

    /// Sets the size of the terminal, if there is one that has not hung up.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| terminal.resize(columns, rows))
    }

    /// Ends the input, as soon as the client has closed it too.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Takes note that the process is gone: its output ends once it was read.
    pub fn process_gone(&mut self) {
        (self.stdin, self.input) = (None, None);
        let unread = self.holds.drain(..).filter(has_unread);
        self.held.extend(unread.map(|hold| Carrier::spawn(hold_until_read(hold))));
        if let Some(terminal) = &self.terminal {
            terminal.process_gone();
        }
        if let Some(logging) = &mut self.logging {
            logging.end_input();
        }
    }

    /// Passes on what is still on its way, within limits, and ends all streams.
    pub async fn finish(mut self) {
        self.process_gone();
        let drained = timeout(DRAIN, async {
            for relay in &mut self.outputs {
                relay.finish().await;
            }
            if let Some(terminal) = &mut self.terminal {
                terminal.finish().await;
            }
        });
        if drained.await.is_err() {
            warn!("the last output of a process was not read in time");
        }
        if let Some(logging) = self.logging.take() {
            logging.stop().await;
        }
    }

    fn open_stdin(&mut self, path: Option<&Path>, handing: Handing) -> Result<ChildStdio> {
        let Some(path) = path else { return Ok(ChildStdio::null()) };
        let reader = self.open_fifo_stdin(path)?;
        let Handing::Relayed(Some(owner)) = handing else {
            fcntl_setfl(&reader, OFlags::empty()).map_err(io::Error::from)?;
            return Ok(reader.into());
        };
        let (theirs, ours) = owned_pipe(Some(owner))?;
        let to = Target::Pipe(ours);
        self.pending.push(Pending { from: reader.into(), to, is_input: true });
        Ok(theirs.into())
    }

    /// Opens the reading end first: without one, the writing end cannot be had without waiting.
    fn open_fifo_stdin(&mut self, path: &Path) -> Result<File> {
        let failed = || format!("failed to open stdin fifo {}", path.display());
        let reader = fifo::reader(path).context(failed)?;
        if fifo::is_fifo(path) {
            self.stdin = Some(fifo::writer(path).context(failed)?);
        }
        Ok(reader)
    }

    fn open_sink(&mut self, sink: &Sink, handing: Handing) -> Result<ChildStdio> {
        let to = match sink {
            Sink::Path(path) if fifo::is_fifo(path) => {
                let both = fifo::both(path)?;
                if handing == Handing::Direct {
                    // It does not wait: we are the reader.
                    let theirs = fs::OpenOptions::new().write(true).open(path)?;
                    self.holds.push(both);
                    return Ok(theirs.into_parts().0.into());
                }
                Target::Pipe(both.into())
            }
            Sink::Path(path) => Target::File(append(path, false)?),
            Sink::File(path) => Target::File(append(path, true)?),
            Sink::Null | Sink::Logger(_) => return Ok(ChildStdio::null()),
        };
        match (to, handing) {
            (Target::File(file), Handing::Direct) => Ok(file.into()),
            (to, Handing::Direct) => self.relay(to, None),
            (to, Handing::Relayed(owner)) => self.relay(to, owner),
        }
    }

    /// Makes a pipe to write to, from which it is passed on.
    fn relay(&mut self, to: Target, owner: Option<(u32, u32)>) -> Result<ChildStdio> {
        let (ours, theirs) = owned_pipe(owner)?;
        self.pending.push(Pending { from: ours, to, is_input: false });
        Ok(theirs.into())
    }
}

/// A pipe, reading end first, that a user may open again as `/dev/stdout` and the like.
fn owned_pipe(owner: Option<(u32, u32)>) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchown(&reader, uid, gid).map_err(io::Error::from)?;
        fchown(&writer, uid, gid).map_err(io::Error::from)?;
    }
    Ok((reader, writer))
}

/// Opens a file to write at its end. One that was named by `file://` is made if it is missing.
fn append(path: &Path, create: bool) -> Result<File> {
    if create && let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let opened = fs::OpenOptions::new().append(true).create(create).mode(0o644).open(path);
    let failed =
        || format!("containerd-shim: opening file {:?} failed", path.display().to_string());
    Ok(opened.map_err(Error::from).context(failed)?.into_parts().0)
}

/// Keeps a fifo alive until what is in it was read. A fifo that nobody has open forgets its bytes,
/// and the client may just be away.
async fn hold_until_read(hold: impl AsFd) {
    let mut pause = FIRST_PAUSE;
    while has_unread(&hold) {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn has_unread(hold: &impl AsFd) -> bool {
    ioctl_fionread(hold).is_ok_and(|bytes| bytes > 0)
}

/// A task that carries bytes, and ends with whoever holds this.
#[derive(Debug)]
struct Carrier(JoinHandle<()>);

impl Carrier {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Waits until it has carried everything.
    async fn finished(&mut self) {
        // It may only be cancelled by us, and does not panic.
        drop((&mut self.0).await);
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    struct Fifos {
        _dir: tempfile::TempDir,
        stdio: Stdio,
    }

    impl Fifos {
        fn make() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let make = |name: &str| {
                let path = dir.path().join(name);
                fifo::create(&path, 0o700).unwrap();
                path.display().to_string()
            };
            let stdio = Stdio {
                stdin: make("in"),
                stdout: make("out"),
                stderr: make("err"),
                terminal: false,
            };
            Self { _dir: dir, stdio }
        }

        fn reader(&self) -> File {
            fifo::reader(Path::new(&self.stdio.stdout)).unwrap()
        }
    }

    fn shell(script: &str, ends: Ends) -> sys::Child {
        let command = sys::Command::new("sh").args(["-c", script]);
        command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr).spawn().unwrap()
    }

    /// Reads to the end of the stream, which must come.
    async fn read_all(mut from: File) -> String {
        timeout(Duration::from_secs(10), async {
            let mut all = Vec::new();
            loop {
                match from.read_to_end(&mut all) {
                    Ok(_) => return String::from_utf8(all).unwrap(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        sleep(FIRST_PAUSE).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .expect("the stream ends")
    }

    async fn open(stdio: &Stdio, handing: Handing) -> (Io, Ends) {
        let (mut io, ends) = Io::open(stdio, handing, &Owner::default()).await.unwrap();
        io.begin().unwrap();
        (io, ends)
    }

    #[tokio::test]
    async fn what_is_complained_before_there_is_a_process_is_not_passed_on() {
        let fifos = Fifos::make();
        let errors = fifo::reader(Path::new(&fifos.stdio.stderr)).unwrap();
        let (io, ends) = Io::open(&fifos.stdio, Handing::Direct, &Owner::default()).await.unwrap();
        shell("echo cannot >&2", ends).wait().unwrap();
        drop(io);
        assert_eq!(read_all(errors).await, "");
    }

    #[tokio::test]
    async fn what_was_written_waits_for_a_reader_that_was_away() {
        let fifos = Fifos::make();
        let (mut io, ends) = open(&fifos.stdio, Handing::Direct).await;
        shell("echo first", ends).wait().unwrap();
        io.process_gone();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(read_all(fifos.reader()).await, "first\n");
    }

    #[tokio::test]
    async fn a_reader_that_leaves_breaks_nothing() {
        let fifos = Fifos::make();
        let (mut io, ends) = open(&fifos.stdio, Handing::Direct).await;
        drop(fifos.reader());
        let reader = fifos.reader();
        let mut child = shell("echo a; read line; echo $line", ends);
        drop(reader);
        fifo::writer(Path::new(&fifos.stdio.stdin)).unwrap().write_all(b"b\n").unwrap();
        assert!(child.wait().unwrap().success());
        io.process_gone();
        assert_eq!(read_all(fifos.reader()).await, "a\nb\n");
    }

    #[tokio::test]
    async fn input_ends_when_it_is_closed_and_not_when_the_client_leaves() {
        for handing in [Handing::Direct, Handing::Relayed(Some((1, 1)))] {
            let fifos = Fifos::make();
            let reader = fifos.reader();
            let (mut io, ends) = open(&fifos.stdio, handing).await;
            let mut child = shell("cat; echo end", ends);
            fifo::writer(Path::new(&fifos.stdio.stdin)).unwrap().write_all(b"x\n").unwrap();
            sleep(Duration::from_millis(50)).await;
            assert_eq!(child.try_wait().unwrap(), None);
            io.close_stdin();
            assert!(crate::finished(&mut child).await.unwrap().success());
            io.finish().await;
            assert_eq!(read_all(reader).await, "x\nend\n");
        }
    }

    #[tokio::test]
    async fn a_relayed_stream_ends_though_others_hold_the_pipe() {
        let fifos = Fifos::make();
        let reader = fifos.reader();
        let (mut io, ends) = open(&fifos.stdio, Handing::Relayed(None)).await;
        let mut child = shell("sleep 60 & echo $!", ends);
        child.wait().unwrap();
        io.process_gone();
        io.finish().await;
        let sleeper = read_all(reader).await.trim().parse().unwrap();
        sys::kill::process(sleeper, 9).unwrap();
    }

    #[tokio::test]
    async fn much_output_passes_through_a_relay_unharmed() {
        let fifos = Fifos::make();
        let reader = fifos.reader();
        let (io, ends) = open(&fifos.stdio, Handing::Relayed(None)).await;
        let mut child = shell("seq 1 200000", ends);
        let read = tokio::spawn(read_all(reader));
        crate::finished(&mut child).await.unwrap();
        io.finish().await;
        let text = read.await.unwrap();
        assert_eq!(text.lines().count(), 200_000);
        assert!(text.ends_with("\n200000\n"));
    }

    #[tokio::test]
    async fn output_is_added_to_the_end_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/a.log");
        let stdout = format!("file://{}", path.display());
        let stdio = Stdio { stdout, ..Default::default() };
        for _ in 0..2 {
            let (io, ends) = open(&stdio, Handing::Direct).await;
            shell("echo out; echo err >&2", ends).wait().unwrap();
            io.finish().await;
        }
        assert_eq!(fs::read_to_string(path).unwrap(), "out\nerr\nout\nerr\n");
    }

    #[tokio::test]
    async fn what_a_process_leaves_running_goes_on_writing_to_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let stdout = format!("file://{}", path.display());
        let stdio = Stdio { stdout, ..Default::default() };
        let (io, ends) = open(&stdio, Handing::Relayed(None)).await;
        let go = dir.path().join("go");
        fifo::create(&go, 0o700).unwrap();
        let script = format!("echo one; (read line < {}; echo two) 2>/dev/null &", go.display());
        shell(&script, ends).wait().unwrap();
        io.finish().await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        let mut open = fs::OpenOptions::new().write(true).open(&go).unwrap();
        writeln!(open, "go").unwrap();
        let both = || fs::read_to_string(&path).unwrap() == "one\ntwo\n";
        timeout(Duration::from_secs(10), async {
            while !both() {
                sleep(FIRST_PAUSE).await;
            }
        })
        .await
        .expect("it is written");
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let stdio = Stdio { stdout: "/no/such/file".into(), ..Default::default() };
        let error = Io::open(&stdio, Handing::Direct, &Owner::default()).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("containerd-shim: opening file \"/no/such/file\" failed: "),
            "{error}"
        );
    }
}
