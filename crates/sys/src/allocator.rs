// SPDX-License-Identifier: Apache-2.0
//! Asking the allocator to keep little: for small programs of which there are many.
//!
//! Only glibc's keeps memory that is worth asking for; with any other these do nothing.

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
}
