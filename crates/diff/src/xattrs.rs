// SPDX-License-Identifier: Apache-2.0
//! Reading extended attributes.
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::root;

/// A name and a value.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// Whether a layer holds the attribute of this name.
///
/// Those of the security module and of the filesystem belong to the host, with the exception of
/// capabilities. Compat: Go's containerd writes nothing but capabilities into layers, so that whatever
/// else a program has set is lost.
pub(crate) fn is_layered(key: &[u8]) -> bool {
    key == b"security.capability" || key.starts_with(b"user.") && !key.starts_with(b"user.overlay.")
}

/// All attributes of what is open, even if it was opened without the right to read it.
pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Vec<Xattr>, Errno> {
    let path = root::itself(fd);
    let list = |buffer: &mut [u8]| rustix::fs::listxattr(path.as_slice(), buffer);
    let value =
        |name: &[u8], buffer: &mut [u8]| rustix::fs::getxattr(path.as_slice(), name, buffer);
    read(&list, &value, &|_| true)
}

/// The attributes of `name` in an open directory whose names are `wanted`, sorted. A link is not
/// followed.
pub(crate) fn at(
    directory: BorrowedFd<'_>,
    name: &[u8],
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Xattr>, Errno> {
    let path = root::through(directory, name);
    let list = |buffer: &mut [u8]| rustix::fs::llistxattr(path.as_slice(), buffer);
    let value =
        |name: &[u8], buffer: &mut [u8]| rustix::fs::lgetxattr(path.as_slice(), name, buffer);
    read(&list, &value, wanted)
}

type List<'a> = &'a dyn Fn(&mut [u8]) -> Result<usize, Errno>;
type Value<'a> = &'a dyn Fn(&[u8], &mut [u8]) -> Result<usize, Errno>;

fn read(
    list: List<'_>,
    value: Value<'_>,
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Xattr>, Errno> {
    let names = match grown(list) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut xattrs = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && wanted(name)) {
        match grown(&|buffer| value(name, buffer)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // Removed meanwhile, or listed though it cannot be read.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Reads into a buffer that grows until everything fits; the kernel's own limit is 64 KiB.
fn grown(read: &dyn Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}
