// SPDX-License-Identifier: Apache-2.0
//! Which file fills which field is as in containerd/cgroups `cgroup2/manager.go`, `Stat`.
use std::path::Path;

use super::{
    CpuStat, HugeTlbStat, IoEntry, IoStat, MemoryEvents, MemoryStat, Metrics, PidsStat, PsiData,
    PsiStats, RdmaStat,
};
use crate::{
    huge_pages,
    v1::rdma_entries,
    values::{Table, limit, number, text},
};

/// Reads everything from one directory.
pub(crate) fn read(dir: &Path) -> Metrics {
    let entries = |file| text(dir, file).map(|text| rdma_entries(&text)).unwrap_or_default();
    Metrics {
        pids: Some(PidsStat {
            current: number(dir, "pids.current"),
            limit: number_or_max(dir, "pids.max"),
        }),
        cpu: Some(CpuStat {
            psi: pressure(dir, "cpu.pressure"),
            ..cpu(&Table::read(dir, "cpu.stat").unwrap_or_default())
        }),
        memory: Some(memory(dir)),
        rdma: Some(RdmaStat { current: entries("rdma.current"), limit: entries("rdma.max") }),
        io: Some(IoStat {
            usage: text(dir, "io.stat").map(|text| io_entries(&text)).unwrap_or_default(),
            psi: pressure(dir, "io.pressure"),
        }),
        hugetlb: huge_pages::sizes().into_iter().map(|size| hugetlb(dir, size)).collect(),
        memory_events: Table::read(dir, "memory.events").map(|table| memory_events(&table)),
        network: Vec::new(),
    }
}

fn cpu(stat: &Table) -> CpuStat {
    CpuStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        psi: None,
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
    }
}

fn memory(dir: &Path) -> MemoryStat {
    MemoryStat {
        usage: number(dir, "memory.current"),
        usage_limit: number_or_max(dir, "memory.max"),
        swap_usage: number(dir, "memory.swap.current"),
        swap_limit: number_or_max(dir, "memory.swap.max"),
        max_usage: number(dir, "memory.peak"),
        swap_max_usage: number(dir, "memory.swap.peak"),
        psi: pressure(dir, "memory.pressure"),
        ..memory_stat(&Table::read(dir, "memory.stat").unwrap_or_default())
    }
}

fn memory_stat(stat: &Table) -> MemoryStat {
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        workingset_refault: stat.get("workingset_refault"),
        workingset_activate: stat.get("workingset_activate"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        ..MemoryStat::default()
    }
}

fn memory_events(table: &Table) -> MemoryEvents {
    MemoryEvents {
        low: table.get("low"),
        high: table.get("high"),
        max: table.get("max"),
        oom: table.get("oom"),
        oom_kill: table.get("oom_kill"),
        oom_group_kill: table.get("oom_group_kill"),
    }
}

fn hugetlb(dir: &Path, pagesize: String) -> HugeTlbStat {
    let file = |name: &str| format!("hugetlb.{pagesize}.{name}");
    let events = Table::read(dir, &file("events")).unwrap_or_default();
    HugeTlbStat {
        current: number(dir, &file("current")),
        max: number_or_max(dir, &file("max")),
        failcnt: events.get("max"),
        pagesize,
    }
}

fn number_or_max(dir: &Path, file: &str) -> u64 {
    text(dir, file).and_then(|text| limit(&text)).unwrap_or_default()
}

/// Reads lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_entries(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let (device, values) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let mut entry = IoEntry { major, minor, ..IoEntry::default() };
        for (key, value) in values.split(' ').filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

fn pressure(dir: &Path, file: &str) -> Option<PsiStats> {
    text(dir, file).map(|text| parse_pressure(&text))
}

/// Reads lines like `some avg10=0.12 avg60=0.05 avg300=0.01 total=4711`.
fn parse_pressure(text: &str) -> PsiStats {
    let mut stats = PsiStats::default();
    for line in text.lines() {
        let Some((who, values)) = line.split_once(' ') else { continue };
        match who {
            "some" => stats.some = Some(parse_psi(values)),
            "full" => stats.full = Some(parse_psi(values)),
            _ => {}
        }
    }
    stats
}

fn parse_psi(values: &str) -> PsiData {
    let mut data = PsiData::default();
    for (key, value) in values.split(' ').filter_map(|word| word.split_once('=')) {
        let average = || value.parse().unwrap_or_default();
        match key {
            "avg10" => data.avg10 = average(),
            "avg60" => data.avg60 = average(),
            "avg300" => data.avg300 = average(),
            "total" => data.total = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_bytes_and_operations() {
        let text = "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n8:1 rbytes=x wios=9\nodd\n";
        let entries = io_entries(text);
        let vda = IoEntry { major: 254, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 };
        assert_eq!(entries[0], vda);
        assert_eq!(entries[1], IoEntry { major: 7, ..IoEntry::default() });
        assert_eq!(entries[2], IoEntry { major: 8, minor: 1, wios: 9, ..IoEntry::default() });
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn pressure_is_on_some_or_on_all() {
        let stats = parse_pressure(
            "some avg10=0.12 avg60=0.05 avg300=0.01 total=4711\nfull avg10=1.00 avg60=0 avg300=0 total=1\n",
        );
        let some = PsiData { avg10: 0.12, avg60: 0.05, avg300: 0.01, total: 4711 };
        assert_eq!(stats.some, Some(some));
        assert_eq!(stats.full, Some(PsiData { avg10: 1.0, total: 1, ..PsiData::default() }));
        assert_eq!(parse_pressure(""), PsiStats::default());
    }

    /// Files as the kernel has them where memory, processes and devices are controlled, which not
    /// every host can show.
    #[test]
    fn each_file_fills_what_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("pids.current", "3\n"),
            ("pids.max", "100\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "8192\n"),
            ("memory.swap.current", "0\n"),
            ("memory.swap.max", "1048576\n"),
            ("memory.stat", "anon 1\nfile 2\nkernel_stack 3\npgfault 4\nnew_one 5\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("memory.pressure", "some avg10=0.50 avg60=0.00 avg300=0.00 total=9\n"),
            ("io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ] {
            fs_err::write(dir.path().join(file), text).unwrap();
        }
        let metrics = read(dir.path());
        assert_eq!(metrics.pids, Some(PidsStat { current: 3, limit: 100 }));
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.usage, memory.usage_limit, memory.max_usage), (4096, u64::MAX, 8192));
        assert_eq!((memory.swap_usage, memory.swap_limit), (0, 1 << 20));
        assert_eq!((memory.anon, memory.file, memory.kernel_stack, memory.pgfault), (1, 2, 3, 4));
        assert_eq!(memory.psi.unwrap().some.unwrap().total, 9);
        let events =
            MemoryEvents { low: 1, high: 2, max: 3, oom: 4, oom_kill: 5, oom_group_kill: 6 };
        assert_eq!(metrics.memory_events, Some(events));
        assert_eq!(metrics.io.unwrap().usage[0].wios, 4);
        assert_eq!(metrics.rdma.unwrap().current[0].hca_objects, 2000);
    }

    #[test]
    fn processor_time_is_told_with_its_bursts() {
        let stat = cpu(&Table::parse(
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_bursts 1\nburst_usec 2\n",
        ));
        assert_eq!((stat.usage_usec, stat.user_usec, stat.system_usec), (9, 5, 4));
        assert_eq!((stat.nr_bursts, stat.burst_usec), (1, 2));
    }
}
