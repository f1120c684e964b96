// SPDX-License-Identifier: Apache-2.0
//! Loop devices: a file as a block device.
//!
//! ```text
//! file --attach--> /dev/loopN --mount--> ...
//!                      `-- autoclear: gone when its last user closes it, mounts included
//! ```
use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use fs_err as fs;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};

// linux/loop.h
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_SET_STATUS64: libc::c_ulong = 0x4C04;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Between asking for a free device and taking it another process may be faster.
const ATTEMPTS: u32 = 100;

/// How a file becomes a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// The device refuses writes, and the file is not opened for any.
    pub read_only: bool,
    /// The device is freed when its last user closes it.
    pub autoclear: bool,
    /// Reads and writes pass by the page cache of the file.
    pub direct_io: bool,
}

/// A device with a file behind it, held open.
///
/// With [`Params::autoclear`], dropping it frees the device unless it is mounted by then.
#[derive(Debug)]
pub struct LoopDevice {
    device: File,
    path: PathBuf,
}

impl LoopDevice {
    /// Puts a file behind a free device.
    pub fn attach(backing: &Path, params: Params) -> io::Result<Self> {
        let file = open(backing, access(params), Mode::empty())?;
        for attempt in 0..ATTEMPTS {
            let path = PathBuf::from(format!("/dev/loop{}", free_device()?));
            let device = File::from(open(&path, access(params), Mode::empty())?);
            match configure(&device, &file, backing, params) {
                Ok(()) => return Ok(Self { device, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    thread::sleep(Duration::from_millis(attempt.min(20).into()));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY.into())
    }

    /// Lets the device outlive its users, until it is [detached](detach): the opposite of
    /// [`Params::autoclear`].
    pub fn keep(&self) -> io::Result<()> {
        let mut info = Info::default();
        // SAFETY: `info` is laid out as the kernel's struct loop_info64 and outlives the call.
        let result =
            unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        info.flags &= !LO_FLAGS_AUTOCLEAR;
        // SAFETY: as above.
        let result =
            unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_STATUS64, &raw const info) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The device's node: `/dev/loop7`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Frees a device, now or when its last user closes it.
pub fn detach(device: &Path) -> io::Result<()> {
    let device = open(device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: this request takes no argument.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The file behind a device. A free device is [`io::ErrorKind::NotFound`].
pub fn backing(device: &Path) -> io::Result<PathBuf> {
    let name = device.file_name().ok_or(Errno::NODEV)?;
    let path = Path::new("/sys/block").join(name).join("loop/backing_file");
    let text = fs::read(path)?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(text.trim_ascii_end())))
}

fn access(params: Params) -> OFlags {
    let access = if params.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    access | OFlags::CLOEXEC
}

fn free_device() -> io::Result<i32> {
    let control = open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: this request takes no argument and returns a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number == -1 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

fn configure(device: &File, file: &OwnedFd, backing: &Path, params: Params) -> io::Result<()> {
    let mut config = Config { fd: file.as_raw_fd() as u32, ..Config::default() };
    for (wanted, flag) in [
        (params.read_only, LO_FLAGS_READ_ONLY),
        (params.autoclear, LO_FLAGS_AUTOCLEAR),
        (params.direct_io, LO_FLAGS_DIRECT_IO),
    ] {
        config.info.flags |= if wanted { flag } else { 0 };
    }
    // The name is for people only, and cut where it does not fit; the last byte stays zero.
    let room = config.info.file_name.len() - 1;
    for (to, from) in config.info.file_name[..room].iter_mut().zip(backing.as_os_str().as_bytes()) {
        *to = *from;
    }
    // SAFETY: `config` is laid out as the kernel's struct loop_config and outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct loop_config` (linux/loop.h).
#[repr(C)]
#[derive(Default)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Default for Info {
    fn default() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
