// SPDX-License-Identifier: Apache-2.0
//! fs-verity: a file that can be read only as it was when it was sealed (`linux/fsverity.h`).
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

const FS_IOC_ENABLE_VERITY: libc::c_ulong = 0x4080_6685;
const SHA256: u32 = 1;

/// Seals a file, which nobody may have open for writing. One that is sealed already stays so.
///
/// Errors: `ENOTTY` or `EOPNOTSUPP` where the kernel or the filesystem cannot.
pub fn enable(file: impl AsFd) -> io::Result<()> {
    let args = Enable { version: 1, algorithm: SHA256, block_size: 4096, ..Enable::default() };
    // SAFETY: `args` is laid out as the kernel's struct fsverity_enable_arg, without salt or signature.
    let result =
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_ENABLE_VERITY, &raw const args) };
    match result {
        -1 => Err(io::Error::last_os_error()).or_else(|error| {
            if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) }
        }),
        _ => Ok(()),
    }
}

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more: [u64; 11],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_struct_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Enable>(), 128);
    }

    #[test]
    fn a_filesystem_that_cannot_says_so() {
        let file = fs_err::File::open("/proc/self/status").unwrap();
        enable(&file).unwrap_err();
    }
}
