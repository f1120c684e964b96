// SPDX-License-Identifier: Apache-2.0
//! What the kernel says about processes and mounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Context, Outcome};

/// A live process, as far as it can be told from outside.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, words joined by blanks.
    pub command: String,
    /// Its cgroups, one per line, as `/proc/<pid>/cgroup` has them.
    pub cgroups: String,
}

impl Process {
    /// Whether it is a shim, by the name of its program.
    pub fn is_shim(&self) -> bool {
        let program = self.command.split(' ').next().unwrap_or_default();
        program.rsplit('/').next().unwrap_or_default().starts_with("containerd-shim")
    }
}

/// Every process but this one, kernel threads and those that are only waiting to be collected.
pub fn processes() -> Vec<Process> {
    let own = std::process::id() as i32;
    let Ok(entries) = fs_err::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own).filter_map(process).collect()
}

fn process(pid: i32) -> Option<Process> {
    let line = fs_err::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
    let command = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
    let cgroups = fs_err::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    Some(Process { pid, command, cgroups })
}

/// Whether a process is there and more than a zombie.
pub fn alive(pid: i32) -> bool {
    fs_err::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Where things are mounted, in the order in which they were.
pub fn mount_points() -> Vec<PathBuf> {
    let table = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped).collect()
}

/// Undoes what proc(5) does to blanks, tabs, line ends and backslashes.
fn unescaped(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (code, meaning) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, meaning);
    }
    PathBuf::from(text)
}

/// The hierarchies of control groups that are mounted, v1 and v2.
pub(crate) fn cgroup_trees() -> Vec<PathBuf> {
    let table = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| {
        let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next());
        matches!(kind, Some("cgroup" | "cgroup2"))
    };
    let point = |line: &str| line.split(' ').nth(4).map(unescaped);
    table.lines().filter(is_cgroup).filter_map(point).collect()
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages counted in full.
    pub resident: u64,
    /// Proportional: shared pages divided by those who share them.
    pub proportional: u64,
    /// Private: what would be freed if it ended.
    pub private: u64,
    /// What of that it has written: the rest is code, which comes and goes.
    pub written: u64,
}

/// Measures the memory of a process.
pub fn memory(pid: i32) -> Outcome<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs_err::read_to_string(&path)?;
    let field = |name: &str| -> Outcome<u64> {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(value.context(format!("{path} has no {name}"))?.parse()?)
    };
    let written = field("Private_Dirty:")?;
    Ok(Memory {
        resident: field("Rss:")?,
        proportional: field("Pss:")?,
        private: field("Private_Clean:")? + written,
        written,
    })
}

/// Processor time that a process has used, and with it those of its children that it has waited for
/// (proc(5), fields 14 to 17 of `stat`; a tick is a hundredth of a second on every Linux that matters
/// here).
pub fn processor_time(pid: i32) -> Outcome<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs_err::read_to_string(&path)?;
    // The name of the program is in parentheses and may hold anything, also blanks.
    let (_, rest) = text.rsplit_once(')').context(format!("{path} names no program"))?;
    let ticks = rest.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// The most memory that a process has had at once, in KiB, since it was last told to
/// [forget](forget_peak).
pub fn peak(pid: i32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs_err::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    Ok(value.context(format!("{path} has no VmHWM"))?.parse()?)
}

/// Begins anew to look for the most memory that a process has (proc(5), `clear_refs`).
pub fn forget_peak(pid: i32) -> Outcome {
    Ok(fs_err::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Directories directly under `dir` whose names satisfy `wanted`.
pub(crate) fn directories(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(dir) else { return Vec::new() };
    let entries = entries.filter_map(Result::ok);
    let chosen = entries.filter(|entry| wanted(&entry.file_name().to_string_lossy()));
    chosen.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_can_be_measured() -> Outcome {
        let memory = memory(std::process::id() as i32)?;
        assert!(memory.private > 0 && memory.private <= memory.resident, "{memory:?}");
        Ok(())
    }

    #[test]
    fn work_shows_in_time_and_in_the_peak() -> Outcome {
        let own = std::process::id() as i32;
        let before = processor_time(own)?;
        forget_peak(own)?;
        let calm = peak(own)?;
        let much = vec![1_u8; 64 << 20];
        let mut sum = much.len();
        while processor_time(own)? == before {
            sum += much.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        }
        assert!(sum > 0 && peak(own)? >= calm + (60 << 10));
        Ok(())
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mount_points().contains(&PathBuf::from("/")));
    }

    #[test]
    fn a_blank_in_a_mount_point_is_understood() {
        assert_eq!(unescaped("/a\\040b"), PathBuf::from("/a b"));
    }
}
