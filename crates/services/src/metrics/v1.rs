// SPDX-License-Identifier: Apache-2.0
//! The names of version 1 (containerd `core/metrics/cgroups/v1`).
use api::io::containerd::cgroups::v1 as wire;

use super::Task;

/// Adds what there is.
pub(super) fn add(metrics: &wire::Metrics, task: &mut Task<'_>) {
    if let Some(pids) = &metrics.pids {
        task.gauge("pids_limit", "The limit to the number of pids allowed", pids.limit);
        task.gauge("pids_current", "The current number of pids", pids.current);
    }
    if let Some(cpu) = &metrics.cpu {
        self::cpu(cpu, task);
    }
    if let Some(memory) = &metrics.memory {
        self::memory(memory, task);
    }
    for entry in &metrics.hugetlb {
        huge_pages(entry, task);
    }
    if let Some(devices) = &metrics.blkio {
        self::devices(devices, task);
    }
    if let Some(oom) = &metrics.memory_oom_control {
        let help = "The number of times a container has received an oom event";
        task.counter("memory_oom_total", help, oom.oom_kill);
    }
}

fn cpu(cpu: &wire::CpuStat, task: &mut Task<'_>) {
    let usage = cpu.usage.clone().unwrap_or_default();
    task.gauge("cpu_total_nanoseconds", "The total cpu time", usage.total);
    task.gauge("cpu_kernel_nanoseconds", "The total kernel cpu time", usage.kernel);
    task.gauge("cpu_user_nanoseconds", "The total user cpu time", usage.user);
    for (number, time) in usage.per_cpu.iter().enumerate() {
        let labels = [("cpu", &*number.to_string())];
        task.labelled("per_cpu_nanoseconds", "The total cpu time per cpu", &labels, *time);
    }
    let held = cpu.throttling.unwrap_or_default();
    let help = "The total cpu throttle periods";
    task.gauge("cpu_throttle_periods_total", help, held.periods);
    let help = "The total cpu throttled periods";
    task.gauge("cpu_throttled_periods_total", help, held.throttled_periods);
    let help = "The total cpu throttled time";
    task.gauge("cpu_throttled_time_nanoseconds", help, held.throttled_time);
}

fn memory(memory: &wire::MemoryStat, task: &mut Task<'_>) {
    for (name, help, value) in [
        ("memory_cache_bytes", "The cache amount used", memory.cache),
        ("memory_rss_bytes", "The rss amount used", memory.rss),
        ("memory_rss_huge_bytes", "The rss_huge amount used", memory.rss_huge),
        ("memory_mapped_file_bytes", "The mapped_file amount used", memory.mapped_file),
        ("memory_dirty_bytes", "The dirty amount", memory.dirty),
        ("memory_writeback_bytes", "The writeback amount", memory.writeback),
        ("memory_pgpgin_bytes", "The pgpgin amount", memory.pg_pg_in),
        ("memory_pgpgout_bytes", "The pgpgout amount", memory.pg_pg_out),
        ("memory_pgfault_bytes", "The pgfault amount", memory.pg_fault),
        ("memory_pgmajfault_bytes", "The pgmajfault amount", memory.pg_maj_fault),
        ("memory_inactive_anon_bytes", "The inactive_anon amount", memory.inactive_anon),
        ("memory_active_anon_bytes", "The active_anon amount", memory.active_anon),
        ("memory_inactive_file_bytes", "The inactive_file amount", memory.inactive_file),
        ("memory_active_file_bytes", "The active_file amount", memory.active_file),
        ("memory_unevictable_bytes", "The unevictable amount", memory.unevictable),
        (
            "memory_hierarchical_memory_limit_bytes",
            "The hierarchical_memory_limit amount",
            memory.hierarchical_memory_limit,
        ),
        (
            "memory_hierarchical_memsw_limit_bytes",
            "The hierarchical_memsw_limit amount",
            memory.hierarchical_swap_limit,
        ),
        ("memory_total_cache_bytes", "The total_cache amount used", memory.total_cache),
        ("memory_total_rss_bytes", "The total_rss amount used", memory.total_rss),
        ("memory_total_rss_huge_bytes", "The total_rss_huge amount used", memory.total_rss_huge),
        (
            "memory_total_mapped_file_bytes",
            "The total_mapped_file amount used",
            memory.total_mapped_file,
        ),
        ("memory_total_dirty_bytes", "The total_dirty amount", memory.total_dirty),
        ("memory_total_writeback_bytes", "The total_writeback amount", memory.total_writeback),
        ("memory_total_pgpgin_bytes", "The total_pgpgin amount", memory.total_pg_pg_in),
        ("memory_total_pgpgout_bytes", "The total_pgpgout amount", memory.total_pg_pg_out),
        ("memory_total_pgfault_bytes", "The total_pgfault amount", memory.total_pg_fault),
        ("memory_total_pgmajfault_bytes", "The total_pgmajfault amount", memory.total_pg_maj_fault),
        (
            "memory_total_inactive_anon_bytes",
            "The total_inactive_anon amount",
            memory.total_inactive_anon,
        ),
        (
            "memory_total_active_anon_bytes",
            "The total_active_anon amount",
            memory.total_active_anon,
        ),
        (
            "memory_total_inactive_file_bytes",
            "The total_inactive_file amount",
            memory.total_inactive_file,
        ),
        (
            "memory_total_active_file_bytes",
            "The total_active_file amount",
            memory.total_active_file,
        ),
        (
            "memory_total_unevictable_bytes",
            "The total_unevictable amount",
            memory.total_unevictable,
        ),
    ] {
        task.gauge(name, help, value);
    }
    let kinds = [
        (&memory.usage, USAGE),
        (&memory.swap, SWAP),
        (&memory.kernel, KERNEL),
        (&memory.kernel_tcp, KERNEL_TCP),
    ];
    for (entry, names) in kinds {
        if let Some(entry) = entry {
            let values = [entry.failcnt, entry.limit, entry.max, entry.usage];
            for ((name, help), value) in names.into_iter().zip(values) {
                task.gauge(name, help, value);
            }
        }
    }
}

/// Failures, limit, maximum and usage of one kind of memory.
type Names = [(&'static str, &'static str); 4];

const USAGE: Names = [
    ("memory_usage_failcnt_total", "The usage failcnt"),
    ("memory_usage_limit_bytes", "The memory limit"),
    ("memory_usage_max_bytes", "The memory maximum usage"),
    ("memory_usage_usage_bytes", "The memory usage"),
];

const SWAP: Names = [
    ("memory_swap_failcnt_total", "The swap failcnt"),
    ("memory_swap_limit_bytes", "The swap limit"),
    ("memory_swap_max_bytes", "The swap maximum usage"),
    ("memory_swap_usage_bytes", "The swap usage"),
];

const KERNEL: Names = [
    ("memory_kernel_failcnt_total", "The kernel failcnt"),
    ("memory_kernel_limit_bytes", "The kernel limit"),
    ("memory_kernel_max_bytes", "The kernel maximum usage"),
    ("memory_kernel_usage_bytes", "The kernel usage"),
];

const KERNEL_TCP: Names = [
    ("memory_kerneltcp_failcnt_total", "The kerneltcp failcnt"),
    ("memory_kerneltcp_limit_bytes", "The kerneltcp limit"),
    ("memory_kerneltcp_max_bytes", "The kerneltcp maximum usage"),
    ("memory_kerneltcp_usage_bytes", "The kerneltcp usage"),
];

fn huge_pages(entry: &wire::HugetlbStat, task: &mut Task<'_>) {
    let page = [("page", entry.pagesize.as_str())];
    task.labelled("hugetlb_usage_bytes", "The hugetlb usage", &page, entry.usage);
    task.labelled("hugetlb_failcnt_total", "The hugetlb failcnt", &page, entry.failcnt);
    task.labelled("hugetlb_max_bytes", "The hugetlb maximum usage", &page, entry.max);
}

fn devices(devices: &wire::BlkIoStat, task: &mut Task<'_>) {
    for (name, help, entries) in [
        (
            "blkio_io_merged_recursive_total",
            "The blkio io merged recursive",
            &devices.io_merged_recursive,
        ),
        (
            "blkio_io_queued_recursive_total",
            "The blkio io queued recursive",
            &devices.io_queued_recursive,
        ),
        (
            "blkio_io_service_bytes_recursive_bytes",
            "The blkio io service bytes recursive",
            &devices.io_service_bytes_recursive,
        ),
        (
            "blkio_io_service_time_recursive_total",
            "The blkio io service time recursive",
            &devices.io_service_time_recursive,
        ),
        (
            "blkio_io_serviced_recursive_total",
            "The blkio io serviced recursive",
            &devices.io_serviced_recursive,
        ),
        (
            "blkio_io_time_recursive_total",
            "The blkio io time recursive",
            &devices.io_time_recursive,
        ),
        (
            "blkio_sectors_recursive_total",
            "The blkio sectors recursive",
            &devices.sectors_recursive,
        ),
    ] {
        for entry in entries {
            let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
            let labels = [
                ("op", entry.op.as_str()),
                ("device", &entry.device),
                ("major", &major),
                ("minor", &minor),
            ];
            task.labelled(name, help, &labels, entry.value);
        }
    }
}
