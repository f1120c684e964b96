// SPDX-License-Identifier: Apache-2.0
//! The terminal that we run on, handed over to a process in a container.
use std::{
    os::fd::BorrowedFd,
    panic,
    sync::{Mutex, Once, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use types::{Context as _, Error, Result};

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// The terminal in raw mode: every key goes to the process, that of the interrupt too.
///
/// However we end, short of being killed, it is as it was afterwards.
#[derive(Debug)]
pub(crate) struct Terminal {
    fd: BorrowedFd<'static>,
}

/// What the terminal was before it was made raw. It is kept here because a panic aborts a release
/// build before anything is dropped.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

impl Terminal {
    /// Makes the terminal raw. It is the one of the standard input, or of an output.
    pub(crate) fn raw() -> Result<Self> {
        let fd = current().ok_or_else(|| {
            Error::failed_precondition(
                "no terminal to hand over: leave out --tty, or run ctr on one",
            )
        })?;
        let before = tcgetattr(fd).map_err(std::io::Error::from).context(|| "read the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        restore_on_panic(fd);
        let set = tcsetattr(fd, OptionalActions::Now, &raw).map_err(std::io::Error::from);
        set.context(|| "set the terminal")?;
        Ok(Self { fd })
    }

    /// How large it is.
    pub(crate) fn size(&self) -> Option<Size> {
        let size = tcgetwinsize(self.fd).ok()?;
        Some(Size { width: size.ws_col.into(), height: size.ws_row.into() })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore(self.fd);
    }
}

/// The first of the standard streams that is a terminal.
fn current() -> Option<BorrowedFd<'static>> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    streams.into_iter().find(|fd| isatty(fd))
}

/// There is nobody to tell when this fails: the terminal is gone.
fn restore(fd: BorrowedFd<'_>) {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let _gone = tcsetattr(fd, OptionalActions::Now, &before);
    }
}

fn restore_on_panic(fd: BorrowedFd<'static>) {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore(fd);
            told(info);
        }));
    });
}
