// SPDX-License-Identifier: Apache-2.0
//! Which system calls a container may make (OCI runtime spec, config-linux.md, "Seccomp").
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::{Error, Kind, Result};

use crate::document::nullable;

/// A filter of system calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Seccomp {
    /// What happens to a call that no rule matches.
    pub default_action: String,
    /// The architectures whose calls are filtered.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// The rules.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Rule>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Seccomp {
    /// Reads a profile, such as the contents of a file.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        // The text is that of containerd's `contrib/seccomp/seccomp.go`.
        let what = "decoding seccomp profile failed";
        serde_json::from_slice(json)
            .map_err(|error| Error::caused(Kind::InvalidArgument, what, error))
    }
}

/// What happens to some calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// The calls.
    pub names: Vec<String>,
    /// What happens: `SCMP_ACT_ALLOW`.
    pub action: String,
    /// The error that the call returns, if it returns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// What must be true of the arguments, all of it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
}

/// What must be true of an argument.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Arg {
    /// Which argument.
    pub index: u32,
    /// What it is compared with, or the mask.
    pub value: u64,
    /// What must be left after the mask.
    #[serde(skip_serializing_if = "is_zero")]
    pub value_two: u64,
    /// How it is compared: `SCMP_CMP_EQ`.
    pub op: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it may skip by reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";
/// `ENOSYS`: makes C libraries fall back on an older call.
const ENOSYS: u32 = 38;
/// The flags of clone that make namespaces: cgroup, uts, ipc, user, pid, net and mount.
const CLONE_NEW: u64 = 0x7e02_0000;
/// Address families of sockets: the kernel's cryptography, and machines' own hosts.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// Personalities: plain, of an older numbering, both also without the time in the vdso, and asking.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What every container may call: containerd's list (`contrib/seccomp/seccomp_default.go`), up to the
/// calls of Linux 6.13.
const ALWAYS: &str = "\
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod \
    fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock \
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid \
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage \
    getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat \
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set \
    ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr \
    lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat \
    mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget \
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc \
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink \
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile \
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt \
    shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair \
    splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range \
    syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname \
    unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";

/// What a capability allows to call besides. Order as in containerd.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The filter that containerd gives to containers with the capabilities `bounding`, on an
/// architecture in Go's words (containerd `contrib/seccomp/seccomp_default.go`).
pub fn default(bounding: &[String], architecture: &str) -> Seccomp {
    let has = |name: &str| bounding.iter().any(|other| other == name);
    let mut rules = vec![allow(ALWAYS)];
    rules.extend(sockets());
    rules.extend(PERSONALITIES.map(|value| allow_if("personality", 0, value, "SCMP_CMP_EQ")));
    // Since Linux 4.8 a tracer cannot use its tracee to get around the filter.
    rules.push(allow("process_vm_readv process_vm_writev ptrace"));
    rules.extend(by_architecture(architecture).map(allow));
    let granted = BY_CAPABILITY.iter().filter(|(capability, _)| has(capability));
    rules.extend(granted.map(|(_, names)| allow(names)));
    if !has("CAP_SYS_ADMIN") {
        // On s390 the flags are the second argument.
        let flags = u32::from(architecture.starts_with("s390"));
        rules.push(allow_if("clone", flags, CLONE_NEW, "SCMP_CMP_MASKED_EQ"));
        // Its flags are in memory, where a filter cannot look: as if it did not exist.
        rules.push(Rule { errno_ret: Some(ENOSYS), ..rule("clone3", ERRNO) });
    }
    Seccomp {
        default_action: ERRNO.to_owned(),
        architectures: architectures(architecture).iter().map(|&it| it.to_owned()).collect(),
        syscalls: rules,
        other: Map::new(),
    }
}

/// Sockets of all families but two: one can write to files that it may only read
/// (CVE-2026-31431), with the other a container speaks to the host past its network.
fn sockets() -> [Rule; 3] {
    [
        allow_if("socket", 0, AF_ALG, "SCMP_CMP_LT"),
        allow_if("socket", 0, AF_ALG + 1, "SCMP_CMP_EQ"),
        allow_if("socket", 0, AF_VSOCK, "SCMP_CMP_GT"),
    ]
}

fn by_architecture(architecture: &str) -> Option<&'static str> {
    match architecture {
        "ppc64le" => Some("sync_file_range2 swapcontext"),
        "arm" | "arm64" => Some(
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        ),
        "amd64" => Some("arch_prctl modify_ldt"),
        "386" => Some("modify_ldt"),
        "s390" | "s390x" => Some("s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
        "riscv64" => Some("riscv_flush_icache riscv_hwprobe"),
        _ => None,
    }
}

fn architectures(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "amd64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "arm64" => &["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        "mips64" => &["SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32"],
        "s390x" => &["SCMP_ARCH_S390", "SCMP_ARCH_S390X"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        "loong64" => &["SCMP_ARCH_LOONGARCH64"],
        _ => &[],
    }
}

fn allow(names: &str) -> Rule {
    rule(names, ALLOW)
}

fn allow_if(name: &str, index: u32, value: u64, op: &str) -> Rule {
    let arg = Arg { index, value, value_two: 0, op: op.to_owned() };
    Rule { args: vec![arg], ..allow(name) }
}

fn rule(names: &str, action: &str) -> Rule {
    Rule {
        names: names.split_whitespace().map(str::to_owned).collect(),
        action: action.to_owned(),
        ..Rule::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bounding: &[&str]) -> Vec<String> {
        let bounding: Vec<_> = bounding.iter().map(|&name| name.to_owned()).collect();
        let profile = default(&bounding, "amd64");
        let allowed = profile.syscalls.into_iter().filter(|rule| rule.action == ALLOW);
        allowed.flat_map(|rule| rule.names).collect()
    }

    #[test]
    fn a_capability_brings_its_calls() {
        assert!(!names(&[]).contains(&"mount".to_owned()));
        assert!(names(&["CAP_SYS_ADMIN"]).contains(&"mount".to_owned()));
        assert!(names(&["CAP_SYS_CHROOT"]).contains(&"chroot".to_owned()));
        assert!(!names(&["CAP_SYS_ADMIN"]).contains(&"io_uring_setup".to_owned()));
    }

    #[test]
    fn names_are_words_and_none_is_there_twice() {
        let mut all = names(&[]);
        let plain = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(all.iter().all(plain));
        all.retain(|name| !matches!(name.as_str(), "personality" | "socket"));
        let total = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), total);
    }

    #[test]
    fn a_profile_of_ones_own_is_kept_whole() {
        let json = r#"{"defaultAction":"SCMP_ACT_LOG","flags":["X"],"syscalls":[{"names":["a"],"action":"A"}]}"#;
        let profile = Seccomp::from_json(json.as_bytes()).unwrap();
        let want: Value = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_value(&profile).unwrap(), want);
    }
}
