// SPDX-License-Identifier: Apache-2.0
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
};

use rustix::{
    io::{Errno, read, write},
    termios::{Winsize, tcsetwinsize},
};
use tokio::sync::watch;
use tracing::warn;

use super::Carrier;
use crate::ready::{Ready, nonblocking};

/// As much as is typed in at once.
const TYPED: usize = 1024;

/// As much output as is passed on at once.
const GATHERED: usize = 32 << 10;

/// A terminal: what is shown on it goes to a client, what the client types comes back.
///
/// It hangs up when the client's input ends, as Go's shim does (containerd
/// `cmd/containerd-shim-runc-v2/runc/platform.go`), or when nobody is left inside.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The carriers own the terminal: when they are done it is closed.
    master: Weak<Ready<OwnedFd>>,
    end: Arc<watch::Sender<End>>,
    output: Carrier,
    _input: Option<Carrier>,
}

/// How the output of a terminal is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// When nobody is left inside.
    ByItself,
    /// When nothing more is shown, since the process is gone.
    Shown,
    /// The same, and whether or not a client has read it.
    Now,
}

impl Terminal {
    pub(super) fn start(
        master: OwnedFd,
        input: Option<File>,
        output: Option<File>,
    ) -> io::Result<Self> {
        let master = Arc::new(Ready::to_read_and_write(nonblocking(master)?)?);
        let end = Arc::new(watch::Sender::new(End::ByItself));
        let output = output.map(Output::of).transpose()?;
        let shown = pass_on(Arc::clone(&master), output, end.subscribe());
        let input = input.map(|input| Ready::to_read(nonblocking(input.into())?)).transpose()?;
        let typed = input.map(|input| {
            let (master, end) = (Arc::clone(&master), Arc::clone(&end));
            Carrier::spawn(async move {
                if let Err(error) = type_in(input, master).await {
                    warn!(%error, "error copying terminal input");
                }
                end_at_least(&end, End::Shown);
            })
        });
        let master = Arc::downgrade(&master);
        Ok(Self { master, end, output: Carrier::spawn(shown), _input: typed })
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let Some(master) = self.master.upgrade() else { return Ok(()) };
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(master.file(), size)?)
    }

    /// Ends once everything that is on the terminal was passed on and read.
    pub(super) fn process_gone(&self) {
        end_at_least(&self.end, End::Shown);
    }

    /// Passes on what is there, and ends.
    pub(super) async fn finish(&mut self) {
        end_at_least(&self.end, End::Now);
        self.output.finished().await;
    }
}

fn end_at_least(end: &watch::Sender<End>, at_least: End) {
    end.send_modify(|end| *end = at_least.max(*end));
}

/// Where output goes: a pipe, which may be full, or a file, which takes all.
enum Output {
    Pipe(Ready<OwnedFd>),
    File(File),
}

impl Output {
    fn of(file: File) -> io::Result<Self> {
        if file.metadata()?.is_file() {
            return Ok(Self::File(file));
        }
        Ok(Self::Pipe(Ready::to_write(nonblocking(file.into())?)?))
    }

    async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => write_all(pipe, bytes).await,
            Self::File(file) => io::Write::write_all(&mut &*file, bytes),
        }
    }
}

/// Passes on what is shown, and keeps it for a client that is away.
async fn pass_on(
    master: Arc<Ready<OwnedFd>>,
    output: Option<Output>,
    mut end: watch::Receiver<End>,
) {
    show(&master, output.as_ref(), &mut end).await;
    // Now it hangs up, unless something is still typed in.
    drop(master);
    if let Some(Output::Pipe(pipe)) = &output {
        tokio::select! {
            () = super::hold_until_read(pipe.file()) => {}
            _ = end.wait_for(|end| *end == End::Now) => {}
        }
    }
}

async fn show(master: &Ready<OwnedFd>, output: Option<&Output>, end: &mut watch::Receiver<End>) {
    let mut buffer = vec![0; GATHERED];
    loop {
        let (shown, then) = gather(master.file(), &mut buffer);
        if let (Some(output), true) = (output, shown > 0)
            && let Err(error) = output.write_all(&buffer[..shown]).await
        {
            return warn!(%error, "error copying terminal output");
        }
        match then {
            Then::More => {}
            // More may have come while that was passed on.
            Then::Wait if shown > 0 => {}
            Then::End => return,
            Then::Wait if *end.borrow() > End::ByItself => return,
            Then::Wait => {
                tokio::select! {
                    _ = master.readable() => {}
                    _ = end.wait_for(|end| *end > End::ByItself) => {}
                }
            }
        }
    }
}

/// What there is to do after reading.
enum Then {
    /// There may be more.
    More,
    /// Nothing is there now.
    Wait,
    /// Nothing will be there any more.
    End,
}

/// Reads what is there, piece by piece: a terminal gives less than a page at a time.
fn gather(master: &OwnedFd, buffer: &mut [u8]) -> (usize, Then) {
    let mut len = 0;
    while len < buffer.len() {
        match read(master, &mut buffer[len..]) {
            // EIO says that the other side is closed.
            Ok(0) | Err(Errno::IO) => return (len, Then::End),
            Ok(more) => len += more,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return (len, Then::Wait),
            Err(error) => {
                warn!(%error, "terminal output");
                return (len, Then::End);
            }
        }
    }
    (len, Then::More)
}

/// Types what the client does, until its input ends.
async fn type_in(input: Ready<OwnedFd>, master: Arc<Ready<OwnedFd>>) -> io::Result<()> {
    let mut buffer = vec![0; TYPED];
    loop {
        match read(input.file(), &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(typed) => match write_all(&master, &buffer[..typed]).await {
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(());
                }
                written => written?,
            },
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => input.readable().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write_all(to: &Ready<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(to.file(), bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => to.writable().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read, path::Path, time::Duration};

    use rustix::{
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{LocalModes, OutputModes, tcgetattr, tcgetwinsize, tcsetattr},
    };
    use sys::fifo;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// A terminal and its inside, without echo and translation.
    fn pty() -> (OwnedFd, File) {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let inside = fs_err::OpenOptions::new().read(true).write(true).open(name).unwrap();
        let inside = inside.into_parts().0;
        let mut modes = tcgetattr(&inside).unwrap();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&inside, rustix::termios::OptionalActions::Now, &modes).unwrap();
        (master, inside)
    }

    fn fifo_in(dir: &Path, name: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        fifo::create(&path, 0o700).unwrap();
        path
    }

    async fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
        timeout(Duration::from_secs(10), async {
            loop {
                if let Some(value) = attempt() {
                    return value;
                }
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("it happens in time")
    }

    #[tokio::test]
    async fn output_and_input_pass_and_the_size_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let (out, typed) = (fifo_in(dir.path(), "out"), fifo_in(dir.path(), "in"));
        let (master, mut inside) = pty();
        let mut client = fifo::reader(&out).unwrap();
        let input = fifo::reader(&typed).unwrap();
        let mut keyboard = fifo::writer(&typed).unwrap();
        let mut terminal =
            Terminal::start(master, Some(input), Some(fifo::both(&out).unwrap())).unwrap();

        io::Write::write_all(&mut inside, b"shown").unwrap();
        let mut buffer = [0; 16];
        let read = eventually(|| client.read(&mut buffer).ok().filter(|read| *read > 0)).await;
        assert_eq!(&buffer[..read], b"shown");

        io::Write::write_all(&mut keyboard, b"typed\n").unwrap();
        sleep(Duration::from_millis(50)).await;
        let read = inside.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"typed\n");

        terminal.resize(100, 30).unwrap();
        let size = tcgetwinsize(&inside).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (100, 30));

        drop(inside);
        terminal.finish().await;
        terminal.resize(1, 1).unwrap();
    }

    #[tokio::test]
    async fn the_last_output_is_passed_on_though_others_keep_the_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let out = fifo_in(dir.path(), "out");
        let (master, mut inside) = pty();
        let mut client = fifo::reader(&out).unwrap();
        let mut terminal = Terminal::start(master, None, Some(fifo::both(&out).unwrap())).unwrap();
        io::Write::write_all(&mut inside, b"last").unwrap();
        terminal.process_gone();
        sleep(Duration::from_millis(20)).await;
        terminal.finish().await;
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last");
    }

    #[tokio::test]
    async fn the_terminal_hangs_up_when_its_input_ends() {
        let dir = tempfile::tempdir().unwrap();
        let typed = fifo_in(dir.path(), "in");
        let (master, mut inside) = pty();
        let input = fifo::reader(&typed).unwrap();
        let keyboard = fifo::writer(&typed).unwrap();
        let mut terminal = Terminal::start(master, Some(input), None).unwrap();
        drop(keyboard);
        terminal.output.finished().await;
        eventually(|| terminal.master.upgrade().is_none().then_some(())).await;
        assert_eq!(inside.read(&mut [0; 8]).unwrap(), 0);
    }
}
