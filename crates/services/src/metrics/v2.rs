// SPDX-License-Identifier: Apache-2.0
//! The names of version 2 (containerd `core/metrics/cgroups/v2`).
use api::io::containerd::cgroups::v2 as wire;

use super::Task;

/// Adds what there is.
pub(super) fn add(metrics: &wire::Metrics, task: &mut Task<'_>) {
    if let Some(pids) = &metrics.pids {
        let help = "The limit to the number of pids allowed (cgroup v2)";
        task.gauge("pids_limit", help, pids.limit);
        task.gauge("pids_current", "The current number of pids (cgroup v2)", pids.current);
    }
    if let Some(cpu) = &metrics.cpu {
        self::cpu(cpu, task);
    }
    if let Some(memory) = &metrics.memory {
        self::memory(memory, task);
    }
    if let Some(events) = &metrics.memory_events {
        let help = "The number of times a container has received an oom event";
        task.gauge("memory_oom_total", help, events.oom);
    }
    for entry in metrics.io.iter().flat_map(|io| &io.usage) {
        device(entry, task);
    }
}

fn cpu(cpu: &wire::CpuStat, task: &mut Task<'_>) {
    for (name, help, value) in [
        ("cpu_usage_usec_microseconds", "Total cpu usage (cgroup v2)", cpu.usage_usec),
        (
            "cpu_user_usec_microseconds",
            "Current cpu usage in user space (cgroup v2)",
            cpu.user_usec,
        ),
        (
            "cpu_system_usec_microseconds",
            "Current cpu usage in kernel space (cgroup v2)",
            cpu.system_usec,
        ),
        (
            "cpu_nr_periods_total",
            "Current cpu number of periods (only if controller is enabled)",
            cpu.nr_periods,
        ),
        (
            "cpu_nr_throttled_total",
            "Total number of times tasks have been throttled (only if controller is enabled)",
            cpu.nr_throttled,
        ),
        (
            "cpu_throttled_usec_microseconds",
            "Total time duration for which tasks have been throttled. (only if controller is enabled)",
            cpu.throttled_usec,
        ),
    ] {
        task.gauge(name, help, value);
    }
}

fn memory(memory: &wire::MemoryStat, task: &mut Task<'_>) {
    for (name, help, value) in [
        ("memory_usage_bytes", "Current memory usage (cgroup v2)", memory.usage),
        ("memory_usage_limit_bytes", "Current memory usage limit (cgroup v2)", memory.usage_limit),
        ("memory_swap_usage_bytes", "Current swap usage (cgroup v2)", memory.swap_usage),
        ("memory_swap_limit_bytes", "Current swap usage limit (cgroup v2)", memory.swap_limit),
        ("memory_file_mapped_bytes", "The file_mapped amount", memory.file_mapped),
        ("memory_file_dirty_bytes", "The file_dirty amount", memory.file_dirty),
        ("memory_file_writeback_bytes", "The file_writeback amount", memory.file_writeback),
        ("memory_pgactivate_bytes", "The pgactivate amount", memory.pgactivate),
        ("memory_pgdeactivate_bytes", "The pgdeactivate amount", memory.pgdeactivate),
        ("memory_pgfault_bytes", "The pgfault amount", memory.pgfault),
        ("memory_pgmajfault_bytes", "The pgmajfault amount", memory.pgmajfault),
        ("memory_pglazyfree_bytes", "The pglazyfree amount", memory.pglazyfree),
        ("memory_pgrefill_bytes", "The pgrefill amount", memory.pgrefill),
        ("memory_pglazyfreed_bytes", "The pglazyfreed amount", memory.pglazyfreed),
        ("memory_pgscan_bytes", "The pgscan amount", memory.pgscan),
        ("memory_pgsteal_bytes", "The pgsteal amount", memory.pgsteal),
        ("memory_inactive_anon_bytes", "The inactive_anon amount", memory.inactive_anon),
        ("memory_active_anon_bytes", "The active_anon amount", memory.active_anon),
        ("memory_inactive_file_bytes", "The inactive_file amount", memory.inactive_file),
        ("memory_active_file_bytes", "The active_file amount", memory.active_file),
        ("memory_unevictable_bytes", "The unevictable amount", memory.unevictable),
        ("memory_anon_bytes", "The anon amount", memory.anon),
        ("memory_file_bytes", "The file amount", memory.file),
        ("memory_kernel_stack_bytes", "The kernel_stack amount", memory.kernel_stack),
        ("memory_slab_bytes", "The slab amount", memory.slab),
        ("memory_sock_bytes", "The sock amount", memory.sock),
        ("memory_shmem_bytes", "The shmem amount", memory.shmem),
        ("memory_anon_thp_bytes", "The anon_thp amount", memory.anon_thp),
        ("memory_slab_reclaimable_bytes", "The slab_reclaimable amount", memory.slab_reclaimable),
        (
            "memory_slab_unreclaimable_bytes",
            "The slab_unreclaimable amount",
            memory.slab_unreclaimable,
        ),
        (
            "memory_workingset_refault_bytes",
            "The workingset_refault amount",
            memory.workingset_refault,
        ),
        (
            "memory_workingset_activate_bytes",
            "The workingset_activate amount",
            memory.workingset_activate,
        ),
        (
            "memory_workingset_nodereclaim_bytes",
            "The workingset_nodereclaim amount",
            memory.workingset_nodereclaim,
        ),
        ("memory_thp_fault_alloc_bytes", "The thp_fault_alloc amount", memory.thp_fault_alloc),
        (
            "memory_thp_collapse_alloc_bytes",
            "The thp_collapse_alloc amount",
            memory.thp_collapse_alloc,
        ),
    ] {
        task.gauge(name, help, value);
    }
}

fn device(entry: &wire::IoEntry, task: &mut Task<'_>) {
    let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
    let labels = [("major", major.as_str()), ("minor", &minor)];
    task.labelled("io_rbytes_bytes", "IO bytes read", &labels, entry.rbytes);
    task.labelled("io_wbytes_bytes", "IO bytes written", &labels, entry.wbytes);
    task.labelled("io_rios_total", "Number of read IOs", &labels, entry.rios);
    task.labelled("io_wios_total", "Number of write IOs", &labels, entry.wios);
}
