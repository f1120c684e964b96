// SPDX-License-Identifier: Apache-2.0
//! What a cgroup uses, as messages of the wire: the one place where they are made.
//!
//! The fields of both sides have the same names, which are listed here once.
use api::io::containerd::cgroups::{v1 as wire1, v2 as wire2};
use cgroups::{Metrics, v1, v2};
use prost_types::Any;

/// Packs metrics as `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`.
pub fn pack(metrics: Metrics) -> Any {
    match metrics {
        Metrics::V1(metrics) => api::pack::<wire1::Metrics>(&metrics.to_wire()),
        Metrics::V2(metrics) => api::pack::<wire2::Metrics>(&metrics.to_wire()),
    }
}

/// A value of ours as a value of the wire.
trait ToWire<T> {
    fn to_wire(self) -> T;
}

macro_rules! itself {
    ($($kind:ty),*) => {
        $(impl ToWire<$kind> for $kind {
            fn to_wire(self) -> $kind {
                self
            }
        })*
    };
}

itself!(u32, u64, f64, String);

impl<T: ToWire<W>, W> ToWire<Vec<W>> for Vec<T> {
    fn to_wire(self) -> Vec<W> {
        self.into_iter().map(ToWire::to_wire).collect()
    }
}

impl<T: ToWire<W>, W> ToWire<Option<W>> for Option<T> {
    fn to_wire(self) -> Option<W> {
        self.map(ToWire::to_wire)
    }
}

/// Fields after `always` are optional on the wire, and always there on our side.
macro_rules! same {
    ($($ours:ty => $wire:ty [$($field:ident)*] $(always [$($always:ident)*])?;)*) => {
        $(impl ToWire<$wire> for $ours {
            fn to_wire(self) -> $wire {
                type Wire = $wire;
                Wire {
                    $($field: self.$field.to_wire(),)*
                    $($($always: Some(self.$always.to_wire()),)*)?
                }
            }
        })*
    };
}

same! {
    v1::Metrics => wire1::Metrics
        [hugetlb pids cpu memory blkio rdma network cgroup_stats memory_oom_control];
    v1::HugetlbStat => wire1::HugetlbStat [usage max failcnt pagesize];
    v1::PidsStat => wire1::PidsStat [current limit];
    v1::CpuStat => wire1::CpuStat [] always [usage throttling];
    v1::CpuUsage => wire1::CpuUsage [total kernel user per_cpu];
    v1::Throttle => wire1::Throttle [periods throttled_periods throttled_time];
    v1::MemoryStat => wire1::MemoryStat [
        cache rss rss_huge mapped_file dirty writeback pg_pg_in pg_pg_out pg_fault pg_maj_fault
        inactive_anon active_anon inactive_file active_file unevictable hierarchical_memory_limit
        hierarchical_swap_limit total_cache total_rss total_rss_huge total_mapped_file total_dirty
        total_writeback total_pg_pg_in total_pg_pg_out total_pg_fault total_pg_maj_fault
        total_inactive_anon total_active_anon total_inactive_file total_active_file
        total_unevictable
    ] always [usage swap kernel kernel_tcp];
    v1::MemoryEntry => wire1::MemoryEntry [limit usage max failcnt];
    v1::MemoryOomControl => wire1::MemoryOomControl [oom_kill_disable under_oom oom_kill];
    v1::BlkIoStat => wire1::BlkIoStat [
        io_service_bytes_recursive io_serviced_recursive io_queued_recursive
        io_service_time_recursive io_wait_time_recursive io_merged_recursive io_time_recursive
        sectors_recursive
    ];
    v1::BlkIoEntry => wire1::BlkIoEntry [op device major minor value];
    v1::RdmaStat => wire1::RdmaStat [current limit];
    v1::RdmaEntry => wire1::RdmaEntry [device hca_handles hca_objects];
    v1::NetworkStat => wire1::NetworkStat [
        name rx_bytes rx_packets rx_errors rx_dropped tx_bytes tx_packets tx_errors tx_dropped
    ];
    v1::CgroupStats => wire1::CgroupStats
        [nr_sleeping nr_running nr_stopped nr_uninterruptible nr_io_wait];

    v2::Metrics => wire2::Metrics [pids cpu memory rdma io hugetlb memory_events network];
    v2::PsiData => wire2::PsiData [avg10 avg60 avg300 total];
    v2::PsiStats => wire2::PsiStats [some full];
    v2::PidsStat => wire2::PidsStat [current limit];
    v2::CpuStat => wire2::CpuStat [
        usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec psi nr_bursts
        burst_usec
    ];
    v2::MemoryStat => wire2::MemoryStat [
        anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp
        inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable
        slab_unreclaimable pgfault pgmajfault workingset_refault workingset_activate
        workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree
        pglazyfreed thp_fault_alloc thp_collapse_alloc usage usage_limit swap_usage swap_limit
        max_usage swap_max_usage psi
    ];
    v2::MemoryEvents => wire2::MemoryEvents [low high max oom oom_kill oom_group_kill];
    v2::RdmaStat => wire2::RdmaStat [current limit];
    v2::RdmaEntry => wire2::RdmaEntry [device hca_handles hca_objects];
    v2::IoStat => wire2::IoStat [usage psi];
    v2::IoEntry => wire2::IoEntry [major minor rbytes wbytes rios wios];
    v2::HugeTlbStat => wire2::HugeTlbStat [current max pagesize failcnt];
    v2::NetworkStat => wire2::NetworkStat [
        name rx_bytes rx_packets rx_errors rx_dropped tx_bytes tx_packets tx_errors tx_dropped
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_either_version_are_named_by_their_type() {
        let cpu = v1::CpuStat {
            usage: v1::CpuUsage { total: 7, per_cpu: vec![3, 4], ..Default::default() },
            ..Default::default()
        };
        let any = pack(Metrics::V1(Box::new(v1::Metrics { cpu: Some(cpu), ..Default::default() })));
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = api::unpack::<wire1::Metrics>(&any).unwrap().unwrap();
        let usage = metrics.cpu.unwrap().usage.unwrap();
        assert_eq!((usage.total, usage.per_cpu), (7, vec![3, 4]));

        let pids = Some(v2::PidsStat { current: 2, limit: 9 });
        let any = pack(Metrics::V2(Box::new(v2::Metrics { pids, ..Default::default() })));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = api::unpack::<wire2::Metrics>(&any).unwrap().unwrap();
        assert_eq!(metrics.pids.unwrap().limit, 9);
        assert_eq!(metrics.cpu, None);
    }
}
