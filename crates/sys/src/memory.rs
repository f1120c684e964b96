// SPDX-License-Identifier: Apache-2.0
//! Keeping little memory: for small programs of which there are many, and which mostly wait.
//!
//! Of allocators only glibc's keeps memory that is worth asking for; any other is left alone.
use std::io;

/// Has the allocator share one arena between all threads. An arena for each is faster, and costs a
/// program that has a second thread once in a while what it keeps for that thread for ever.
///
/// Call it before there are threads.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator's, under the allocator's own lock; one that it does
    // not know it refuses.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives pages that hold nothing back to the kernel, also those between others that do.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only what is free, under the allocator's own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the pages of code. What is used again comes back from the page cache, 64 KiB at a
/// time, and what ran only once does not.
pub fn let_go_of_code() -> io::Result<()> {
    let maps = fs_err::read_to_string("/proc/self/maps")?;
    maps.lines().filter_map(code).try_for_each(|(start, end)| {
        // SAFETY: the mapping is of a file, private, and cannot be written to; nothing patches code
        // while a program is loaded. So the pages are as the file has them, and are read from there
        // again. The range was mapped when it was read, and nobody unmaps code.
        match unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) }
        {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    })
}

/// The addresses of a mapping, if it is code of a file: `start-end r-xp offset device inode path`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let address = |text| usize::from_str_radix(text, 16).ok();
    is_code.then_some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> usize {
        let text = fs_err::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn what_is_free_between_what_is_not_goes_back() {
        let mut all: Vec<Option<Vec<u8>>> = (0..4096).map(|_| Some(vec![1; 8192])).collect();
        for (number, one) in all.iter_mut().enumerate() {
            if number % 64 != 0 {
                *one = None;
            }
        }
        let before = resident();
        give_back();
        assert!(resident() + (16 << 20) < before, "{before} before, {} after", resident());
        drop(all);
    }

    #[test]
    fn only_code_of_files_is_code() {
        let line = "55d0-55d8 r-xp 00001000 fe:00 123   /usr/bin/a b";
        assert_eq!(code(line), Some((0x55d0, 0x55d8)));
        for line in ["7ffd-7ffe r-xp 00000000 00:00 0   [vdso]", "1-2 r--p 0 fe:00 1 /usr/bin/a"] {
            assert_eq!(code(line), None, "{line}");
        }
    }

    #[test]
    fn a_program_runs_on_without_its_code() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let_go_of_code().unwrap();
            let file = dir.path().join("a");
            fs_err::write(&file, format!("{round}")).unwrap();
            assert_eq!(fs_err::read_to_string(&file).unwrap(), round.to_string());
        }
    }
}
