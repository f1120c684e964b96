// SPDX-License-Identifier: Apache-2.0
use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::AsRawFd,
    process::Stdio,
};

use rustix::fs::{MemfdFlags, memfd_create};
use types::Result;

/// A file in memory, to pass text to a program and to take text from it.
///
/// Unlike a pipe it never fills, nobody has to read while the program runs, and it does not matter
/// that what the program leaves running keeps it open.
#[derive(Debug)]
pub(crate) struct MemoryFile(File);

impl MemoryFile {
    pub(crate) fn empty() -> Result<Self> {
        let file = memfd_create("shim", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
        Ok(Self(file.into()))
    }

    pub(crate) fn with(bytes: &[u8]) -> Result<Self> {
        let mut file = Self::empty()?;
        file.0.write_all(bytes)?;
        file.0.rewind()?;
        Ok(file)
    }

    /// A name under which programs that we start can open it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub(crate) fn stdio(&self) -> Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// Everything in it, as text.
    pub(crate) fn text(mut self) -> Result<String> {
        let mut bytes = Vec::new();
        self.0.rewind()?;
        self.0.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_read_it_by_name_and_write_it_as_output() {
        let input = MemoryFile::with(b"text").unwrap();
        let output = MemoryFile::empty().unwrap();
        let command = sys::Command::new("cat").arg(input.path()).arg("/no/such");
        let command = command.stdout(output.stdio().unwrap()).stderr(output.stdio().unwrap());
        command.spawn().unwrap().wait().unwrap();
        let text = output.text().unwrap();
        assert!(text.starts_with("text") && text.contains("/no/such"), "{text}");
    }
}
