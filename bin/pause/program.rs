// SPDX-License-Identifier: Apache-2.0
//! The first process of a sandbox: it keeps the namespaces that the containers of a pod join.
//!
//! It waits until it is told to end (SIGINT or SIGTERM). Where the pod has one pid namespace, it is
//! the parent of every orphan, and takes note of their ends, so that none stays a zombie.
//!
//! It is nothing but five calls of the kernel, without a library, so that it is a page of memory.
//! The signals that it waits for are blocked: the first process of a namespace is sent no signal
//! that it neither blocks nor handles (Linux `kernel/signal.c`, `sig_ignored`).
#![no_std]
#![no_main]

use core::{arch::asm, ptr::null};

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const WAIT4: usize = 61;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
    pub(crate) const EXIT_GROUP: usize = 231;
}

/// The numbers that all newer architectures share (Linux `include/uapi/asm-generic/unistd.h`).
#[cfg(not(target_arch = "x86_64"))]
mod number {
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const RT_SIGPROCMASK: usize = 135;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 137;
    pub(crate) const WAIT4: usize = 260;
}

/// Where the kernel begins.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    let signals: u64 = bit(SIGINT) | bit(SIGTERM) | bit(SIGCHLD);
    let set = (&raw const signals) as usize;
    call(number::RT_SIGPROCMASK, [SIG_BLOCK, set, 0, size_of::<u64>()]);
    loop {
        match call(number::RT_SIGTIMEDWAIT, [set, 0, null::<u8>() as usize, size_of::<u64>()]) {
            SIGINT | SIGTERM => exit(),
            SIGCHLD => reap(),
            // Another signal came between, and did nothing.
            _ => {}
        }
    }
}

fn bit(signal: isize) -> u64 {
    1 << (signal - 1)
}

/// Takes note of every child that has ended: one signal may stand for many.
fn reap() {
    while call(number::WAIT4, [ANY_CHILD, 0, WNOHANG, 0]) > 0 {}
}

fn exit() -> ! {
    loop {
        call(number::EXIT_GROUP, [0; 4]);
    }
}

#[cfg(target_arch = "x86_64")]
fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let answer: isize;
    // SAFETY: the calls above write to no memory, and read a set of signals that outlives them.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let answer: isize;
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c,
            in("x3") d, options(nostack));
    }
    answer
}

#[cfg(target_arch = "riscv64")]
fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let answer: isize;
    // SAFETY: as above.
    unsafe {
        asm!("ecall", in("a7") number, inlateout("a0") a => answer, in("a1") b, in("a2") c,
            in("a3") d, options(nostack));
    }
    answer
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    exit()
}
