// SPDX-License-Identifier: Apache-2.0
//! What this process uses, under the names that Prometheus' clients share.
use super::Page;

/// The unit of times in `/proc/<pid>/stat`, per second: the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

impl Page {
    fn of_process(&mut self, name: &str, help: &'static str, value: f64) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        self.add(name, help, kind, String::new(), value);
    }
}

/// Adds what this process uses. What cannot be read is left out.
pub fn process(page: &mut Page) {
    let read = |name: &str| fs_err::read_to_string(format!("/proc/{name}")).unwrap_or_default();
    stat(page, &read("self/stat"), &read("stat"));
    limits(page, &read("self/limits"));
    if let Ok(open) = fs_err::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        page.of_process("process_open_fds", help, open.count() as f64);
    }
}

/// Times and sizes (`proc_pid_stat(5)`: fields from the third are behind the name).
fn stat(page: &mut Page, own: &str, machine: &str) {
    let Some((_, rest)) = own.rsplit_once(") ") else { return };
    let fields: Vec<f64> =
        rest.split(' ').map(|field| field.trim().parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    let help = "Total user and system CPU time spent in seconds.";
    page.of_process("process_cpu_seconds_total", help, (field(14) + field(15)) / TICKS);
    let page_size = rustix::param::page_size() as f64;
    let help = "Resident memory size in bytes.";
    page.of_process("process_resident_memory_bytes", help, field(24) * page_size);
    page.of_process("process_virtual_memory_bytes", "Virtual memory size in bytes.", field(23));
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    if let Some(booted) = booted {
        let help = "Start time of the process since unix epoch in seconds.";
        page.of_process("process_start_time_seconds", help, booted + field(22) / TICKS);
    }
}

fn limits(page: &mut Page, limits: &str) {
    let soft = |name: &str| {
        let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    if let Some(most) = soft("Max open files") {
        page.of_process("process_max_fds", "Maximum number of open file descriptors.", most);
    }
    // No limit is the greatest number, as Prometheus' clients have it.
    let most = soft("Max address space").unwrap_or(u64::MAX as f64);
    let help = "Maximum amount of virtual memory available in bytes.";
    page.of_process("process_virtual_memory_max_bytes", help, most);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let mut page = Page::default();
        process(&mut page);
        let text = page.text();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_virtual_memory_max_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_max_fds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
        }
        let resident =
            text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        assert!(resident.unwrap().parse::<f64>().unwrap() > 100_000.0);
    }

    #[test]
    fn fields_are_counted_behind_the_name() {
        let own = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 200 4096 3 184";
        let mut page = Page::default();
        stat(&mut page, own, "cpu 1\nbtime 1000\n");
        let text = page.text();
        assert!(text.contains("process_cpu_seconds_total 2\n"), "{text}");
        assert!(text.contains("process_start_time_seconds 1002\n"), "{text}");
        assert!(text.contains("process_virtual_memory_bytes 4096\n"), "{text}");
    }
}
