// SPDX-License-Identifier: Apache-2.0
//! Statistics of a task, in the words of its cgroup.
use api::io::containerd::cgroups::{v1, v2};
use clap::{Args, ValueEnum};
use client::Client;
use types::{Any, Error, Filters, Result};

use crate::{
    json::{Field as _, messages},
    output::say,
    table::Table,
    units,
};

/// Print statistics of a task.
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// How to print them: a table of the most important, or all as JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The container's name
    id: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Statistics as their cgroup version has them.
enum Data {
    V1(Box<v1::Metrics>),
    V2(Box<v2::Metrics>),
}

type Row = (&'static str, String);

impl Metrics {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        client.tasks.get(&self.id, "").await?;
        let filters = Filters::parse([format!("id=={}", self.id)])?;
        let mut metrics = client.tasks.metrics(&filters).await?;
        let Some(metric) = metrics.pop() else {
            return Err(Error::not_found(format!("metrics of {}", self.id)));
        };
        let data = Data::read(&metric.data)?;
        match self.format {
            Format::Json => say!("{:#}", data.json()),
            Format::Table => {
                let mut table = Table::new(["ID", "TIMESTAMP"]);
                table.row([metric.id, units::time(metric.at)]);
                table.print();
                say!();
                let mut table = Table::new(["METRIC", "VALUE"]);
                for (name, value) in data.rows() {
                    table.row([name.to_owned(), value]);
                }
                table.print();
            }
        }
        Ok(())
    }
}

impl Data {
    fn read(data: &Any) -> Result<Self> {
        let any = prost_types::Any { type_url: data.type_url.clone(), value: data.value.to_vec() };
        let bad = |error| Error::caused(types::Kind::Internal, "decode metrics", error);
        if let Some(metrics) = api::unpack(&any) {
            return metrics.map(|metrics| Self::V1(Box::new(metrics))).map_err(bad);
        }
        if let Some(metrics) = api::unpack(&any) {
            return metrics.map(|metrics| Self::V2(Box::new(metrics))).map_err(bad);
        }
        Err(Error::unimplemented(format!("metrics of type {:?}", data.type_url)))
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::V1(metrics) => metrics.value(),
            Self::V2(metrics) => metrics.value(),
        }
    }

    /// What Go's `ctr` shows (containerd `cmd/ctr/commands/tasks/metrics.go`).
    fn rows(&self) -> Vec<Row> {
        match self {
            Self::V1(metrics) => rows_of_v1(metrics),
            Self::V2(metrics) => rows_of_v2(metrics),
        }
    }
}

fn rows_of_v1(metrics: &v1::Metrics) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(memory) = &metrics.memory {
        let usage = memory.usage.unwrap_or_default();
        rows.push(("memory.usage_in_bytes", usage.usage.to_string()));
        rows.push(("memory.limit_in_bytes", usage.limit.to_string()));
        rows.push(("memory.stat.cache", memory.total_cache.to_string()));
    }
    if let Some(cpu) = &metrics.cpu {
        let usage = cpu.usage.clone().unwrap_or_default();
        let each: Vec<String> = usage.per_cpu.iter().map(u64::to_string).collect();
        rows.push(("cpuacct.usage", usage.total.to_string()));
        rows.push(("cpuacct.usage_percpu", format!("[{}]", each.join(" "))));
    }
    if let Some(pids) = &metrics.pids {
        rows.push(("pids.current", pids.current.to_string()));
        rows.push(("pids.limit", pids.limit.to_string()));
    }
    rows
}

fn rows_of_v2(metrics: &v2::Metrics) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut push = |name, value: u64| rows.push((name, value.to_string()));
    if let Some(pids) = &metrics.pids {
        push("pids.current", pids.current);
        push("pids.limit", pids.limit);
    }
    if let Some(cpu) = &metrics.cpu {
        push("cpu.usage_usec", cpu.usage_usec);
        push("cpu.user_usec", cpu.user_usec);
        push("cpu.system_usec", cpu.system_usec);
        push("cpu.nr_periods", cpu.nr_periods);
        push("cpu.nr_throttled", cpu.nr_throttled);
        push("cpu.throttled_usec", cpu.throttled_usec);
    }
    if let Some(memory) = &metrics.memory {
        push("memory.usage", memory.usage);
        push("memory.usage_limit", memory.usage_limit);
        push("memory.swap_usage", memory.swap_usage);
        push("memory.swap_limit", memory.swap_limit);
    }
    rows
}

messages! {
    v1::Metrics {
        hugetlb, pids, cpu, memory, blkio, rdma, network, cgroup_stats, memory_oom_control
    }
    v1::HugetlbStat { usage, max, failcnt, pagesize }
    v1::PidsStat { current, limit }
    v1::CpuStat { usage, throttling }
    v1::CpuUsage { total, kernel, user, per_cpu }
    v1::Throttle { periods, throttled_periods, throttled_time }
    v1::MemoryStat {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault,
        pg_maj_fault, inactive_anon, active_anon, inactive_file, active_file, unevictable,
        hierarchical_memory_limit, hierarchical_swap_limit, total_cache, total_rss, total_rss_huge,
        total_mapped_file, total_dirty, total_writeback, total_pg_pg_in, total_pg_pg_out,
        total_pg_fault, total_pg_maj_fault, total_inactive_anon, total_active_anon,
        total_inactive_file, total_active_file, total_unevictable, usage, swap, kernel, kernel_tcp
    }
    v1::MemoryEntry { limit, usage, max, failcnt }
    v1::MemoryOomControl { oom_kill_disable, under_oom, oom_kill }
    v1::BlkIoStat {
        io_service_bytes_recursive, io_serviced_recursive, io_queued_recursive,
        io_service_time_recursive, io_wait_time_recursive, io_merged_recursive, io_time_recursive,
        sectors_recursive
    }
    v1::BlkIoEntry { op, device, major, minor, value }
    v1::RdmaStat { current, limit }
    v1::RdmaEntry { device, hca_handles, hca_objects }
    v1::NetworkStat {
        name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors,
        tx_dropped
    }
    v1::CgroupStats { nr_sleeping, nr_running, nr_stopped, nr_uninterruptible, nr_io_wait }
    v2::Metrics { pids, cpu, memory, rdma, io, hugetlb, memory_events, network }
    v2::PsiData { avg10, avg60, avg300, total }
    v2::PsiStats { some, full }
    v2::PidsStat { current, limit }
    v2::CpuStat {
        usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, psi,
        nr_bursts, burst_usec
    }
    v2::MemoryStat {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback,
        anon_thp, inactive_anon, active_anon, inactive_file, active_file, unevictable,
        slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault, workingset_refault,
        workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate,
        pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc, usage,
        usage_limit, swap_usage, swap_limit, max_usage, swap_max_usage, psi
    }
    v2::MemoryEvents { low, high, max, oom, oom_kill, oom_group_kill }
    v2::RdmaStat { current, limit }
    v2::RdmaEntry { device, hca_handles, hca_objects }
    v2::IoStat { usage, psi }
    v2::IoEntry { major, minor, rbytes, wbytes, rios, wios }
    v2::HugeTlbStat { current, max, pagesize, failcnt }
    v2::NetworkStat {
        name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors,
        tx_dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(message: prost_types::Any) -> Data {
        Data::read(&Any::new(message.type_url, message.value)).unwrap()
    }

    #[test]
    fn both_versions_of_statistics_are_read() {
        let cpu = v1::CpuStat {
            usage: Some(v1::CpuUsage { total: 9, per_cpu: vec![4, 0, 5], ..Default::default() }),
            ..Default::default()
        };
        let metrics = v1::Metrics { cpu: Some(cpu), ..Default::default() };
        let shown = data(api::pack(&metrics));
        assert_eq!(shown.rows()[1], ("cpuacct.usage_percpu", "[4 0 5]".to_owned()));
        let json = r#"{"cpu":{"usage":{"per_cpu":[4,0,5],"total":9}}}"#;
        assert_eq!(shown.json().to_string(), json);

        let pids = v2::PidsStat { current: 3, limit: 7 };
        let metrics = v2::Metrics { pids: Some(pids), ..Default::default() };
        assert_eq!(data(api::pack(&metrics)).rows()[0], ("pids.current", "3".to_owned()));
    }

    #[test]
    fn other_statistics_are_refused_by_name() {
        let error = Data::read(&Any::new("x.Y", "")).err().map(|error| error.to_string());
        assert_eq!(error.unwrap(), "metrics of type \"x.Y\": not implemented");
    }
}
