// SPDX-License-Identifier: Apache-2.0
//! What a cgroup of version 1 uses: the shape of `io.containerd.cgroups.v1.Metrics`.
#![allow(missing_docs, reason = "the fields are those of the message, and named like the kernel's")]

mod blkio;
mod read;

pub(crate) use read::{rdma_entries, read};

/// Statistics of all controllers. A controller that is not there is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub hugetlb: Vec<HugetlbStat>,
    pub pids: Option<PidsStat>,
    pub cpu: Option<CpuStat>,
    pub memory: Option<MemoryStat>,
    pub blkio: Option<BlkIoStat>,
    pub rdma: Option<RdmaStat>,
    /// Empty: networks are not of cgroups.
    pub network: Vec<NetworkStat>,
    /// None: the kernel tells only over a netlink socket of its own.
    pub cgroup_stats: Option<CgroupStats>,
    pub memory_oom_control: Option<MemoryOomControl>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugetlbStat {
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
    pub pagesize: String,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStat {
    pub current: u64,
    /// Zero for no limit.
    pub limit: u64,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    pub usage: CpuUsage,
    pub throttling: Throttle,
}

/// Processor time spent, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
}

/// Processor time withheld.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    pub periods: u64,
    pub throttled_periods: u64,
    /// In nanoseconds.
    pub throttled_time: u64,
}

/// Memory, in bytes and pages; `total_*` with the cgroups below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pg_pg_in: u64,
    pub pg_pg_out: u64,
    pub pg_fault: u64,
    pub pg_maj_fault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pg_pg_in: u64,
    pub total_pg_pg_out: u64,
    pub total_pg_fault: u64,
    pub total_pg_maj_fault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    pub kernel: MemoryEntry,
    pub kernel_tcp: MemoryEntry,
}

/// One kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// What happens, and happened, when memory runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOomControl {
    pub oom_kill_disable: u64,
    pub under_oom: u64,
    pub oom_kill: u64,
}

/// Block devices, with the cgroups below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkIoStat {
    pub io_service_bytes_recursive: Vec<BlkIoEntry>,
    pub io_serviced_recursive: Vec<BlkIoEntry>,
    pub io_queued_recursive: Vec<BlkIoEntry>,
    pub io_service_time_recursive: Vec<BlkIoEntry>,
    pub io_wait_time_recursive: Vec<BlkIoEntry>,
    pub io_merged_recursive: Vec<BlkIoEntry>,
    pub io_time_recursive: Vec<BlkIoEntry>,
    pub sectors_recursive: Vec<BlkIoEntry>,
}

/// One operation on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlkIoEntry {
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`, or empty.
    pub op: String,
    /// `/dev/vda`, or empty when it is not known.
    pub device: String,
    pub major: u64,
    pub minor: u64,
    pub value: u64,
}

/// Adapters for remote direct memory access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaStat {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

/// One such adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkStat {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Processes by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupStats {
    pub nr_sleeping: u64,
    pub nr_running: u64,
    pub nr_stopped: u64,
    pub nr_uninterruptible: u64,
    pub nr_io_wait: u64,
}
