// SPDX-License-Identifier: Apache-2.0
//! Which file fills which field is as in containerd/cgroups `cgroup1`, one file per controller.
use std::path::Path;

use super::{
    CpuStat, CpuUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics, PidsStat,
    RdmaEntry, RdmaStat, Throttle, blkio,
};
use crate::{
    huge_pages,
    values::{Table, number, text, uint},
};

/// `cpuacct.stat` counts in hundredths of a second (`USER_HZ`, fixed for programs).
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// Reads everything from the directories of the controllers.
pub(crate) fn read<'dir>(dir: impl Fn(&str) -> Option<&'dir Path>) -> Metrics {
    Metrics {
        hugetlb: dir("hugetlb").map(hugetlb).unwrap_or_default(),
        pids: dir("pids").map(pids),
        cpu: Some(CpuStat {
            usage: dir("cpuacct").map(cpu_usage).unwrap_or_default(),
            throttling: dir("cpu").map(throttling).unwrap_or_default(),
        }),
        memory: dir("memory").and_then(memory),
        blkio: dir("blkio").map(blkio::read),
        rdma: dir("rdma").and_then(rdma),
        network: Vec::new(),
        cgroup_stats: None,
        memory_oom_control: dir("memory").and_then(oom_control),
    }
}

fn hugetlb(dir: &Path) -> Vec<HugetlbStat> {
    let stat = |pagesize: String| {
        let value = |name: &str| number(dir, &format!("hugetlb.{pagesize}.{name}"));
        HugetlbStat {
            usage: value("usage_in_bytes"),
            max: value("max_usage_in_bytes"),
            failcnt: value("failcnt"),
            pagesize,
        }
    };
    huge_pages::sizes().into_iter().map(stat).collect()
}

/// Compat: no limit is zero here and the greatest number in version 2.
fn pids(dir: &Path) -> PidsStat {
    PidsStat { current: number(dir, "pids.current"), limit: number(dir, "pids.max") }
}

fn cpu_usage(dir: &Path) -> CpuUsage {
    let stat = Table::read(dir, "cpuacct.stat").unwrap_or_default();
    let per_cpu = text(dir, "cpuacct.usage_percpu").unwrap_or_default();
    CpuUsage {
        total: number(dir, "cpuacct.usage"),
        kernel: stat.get("system").saturating_mul(NANOSECONDS_PER_TICK),
        user: stat.get("user").saturating_mul(NANOSECONDS_PER_TICK),
        per_cpu: per_cpu.split_whitespace().filter_map(uint).collect(),
    }
}

fn throttling(dir: &Path) -> Throttle {
    let stat = Table::read(dir, "cpu.stat").unwrap_or_default();
    Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
    }
}

fn memory(dir: &Path) -> Option<MemoryStat> {
    let mut stat = memory_stat(&Table::read(dir, "memory.stat")?);
    stat.usage = memory_entry(dir, "memory");
    stat.swap = memory_entry(dir, "memory.memsw");
    stat.kernel = memory_entry(dir, "memory.kmem");
    stat.kernel_tcp = memory_entry(dir, "memory.kmem.tcp");
    Some(stat)
}

fn memory_entry(dir: &Path, prefix: &str) -> MemoryEntry {
    let value = |name: &str| number(dir, &format!("{prefix}.{name}"));
    MemoryEntry {
        limit: value("limit_in_bytes"),
        usage: value("usage_in_bytes"),
        max: value("max_usage_in_bytes"),
        failcnt: value("failcnt"),
    }
}

fn memory_stat(stat: &Table) -> MemoryStat {
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        ..MemoryStat::default()
    }
}

fn oom_control(dir: &Path) -> Option<MemoryOomControl> {
    let control = Table::read(dir, "memory.oom_control")?;
    Some(MemoryOomControl {
        oom_kill_disable: control.get("oom_kill_disable"),
        under_oom: control.get("under_oom"),
        oom_kill: control.get("oom_kill"),
    })
}

fn rdma(dir: &Path) -> Option<RdmaStat> {
    let (current, limit) = (text(dir, "rdma.current")?, text(dir, "rdma.max")?);
    Some(RdmaStat { current: rdma_entries(&current), limit: rdma_entries(&limit) })
}

/// Reads lines like `mlx4_0 hca_handle=2 hca_object=max`.
pub(crate) fn rdma_entries(text: &str) -> Vec<RdmaEntry> {
    let value = |text: &str| if text == "max" { Some(u32::MAX) } else { text.parse().ok() };
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let mut entry = RdmaEntry { device: words.next()?.to_owned(), ..RdmaEntry::default() };
        for (key, text) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "hca_handle" => entry.hca_handles = value(text)?,
                "hca_object" => entry.hca_objects = value(text)?,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_handles_and_objects() {
        let entries = rdma_entries(
            "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n",
        );
        assert_eq!(
            entries[0],
            RdmaEntry { device: "mlx4_0".into(), hca_handles: 2, hca_objects: 2000 }
        );
        assert_eq!(entries[1].hca_objects, u32::MAX);
    }

    #[test]
    fn memory_is_told_in_the_words_of_the_message() {
        let stat = memory_stat(&Table::parse(
            "cache 1\nrss 2\npgpgin 3\npgmajfault 4\nhierarchical_memsw_limit 5\ntotal_pgpgout 6\ntotal_unevictable 7\nworkingset 8\n",
        ));
        let want = MemoryStat {
            cache: 1,
            rss: 2,
            pg_pg_in: 3,
            pg_maj_fault: 4,
            hierarchical_swap_limit: 5,
            total_pg_pg_out: 6,
            total_unevictable: 7,
            ..MemoryStat::default()
        };
        assert_eq!(stat, want);
    }

    #[test]
    fn without_any_controller_only_processor_time_is_told_as_zero() {
        let want = Metrics { cpu: Some(CpuStat::default()), ..Metrics::default() };
        assert_eq!(read(|_| None), want);
    }
}
