// SPDX-License-Identifier: Apache-2.0
//! What a cgroup of version 2 uses: the shape of `io.containerd.cgroups.v2.Metrics`.
#![allow(missing_docs, reason = "the fields are those of the message, and named like the kernel's")]

mod read;

pub use crate::v1::{NetworkStat, RdmaEntry, RdmaStat};
pub(crate) use read::read;

/// Statistics of all controllers. One that is not there counts zero, as in containerd.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    pub pids: Option<PidsStat>,
    pub cpu: Option<CpuStat>,
    pub memory: Option<MemoryStat>,
    pub rdma: Option<RdmaStat>,
    pub io: Option<IoStat>,
    pub hugetlb: Vec<HugeTlbStat>,
    pub memory_events: Option<MemoryEvents>,
    /// Empty: networks are not of cgroups.
    pub network: Vec<NetworkStat>,
}

/// Pressure: the share of time in which tasks waited, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// In microseconds.
    pub total: u64,
}

/// Pressure on some tasks, and on all of them at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiStats {
    pub some: Option<PsiData>,
    pub full: Option<PsiData>,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStat {
    pub current: u64,
    /// The greatest number for no limit.
    pub limit: u64,
}

/// Processor time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuStat {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub psi: Option<PsiStats>,
    pub nr_bursts: u64,
    pub burst_usec: u64,
}

/// Memory, in bytes and pages. The greatest number is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryStat {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    pub usage: u64,
    pub usage_limit: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub max_usage: u64,
    pub swap_max_usage: u64,
    pub psi: Option<PsiStats>,
}

/// How often memory met a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoStat {
    pub usage: Vec<IoEntry>,
    pub psi: Option<PsiStats>,
}

/// One device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugeTlbStat {
    pub current: u64,
    pub max: u64,
    pub pagesize: String,
    pub failcnt: u64,
}
