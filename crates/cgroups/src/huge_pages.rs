// SPDX-License-Identifier: Apache-2.0
use fs_err as fs;

/// The sizes of huge pages that this host has, as files of cgroups name them: `2MB`, `1GB`.
pub(crate) fn sizes() -> Vec<String> {
    let Ok(dir) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let names = dir.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<_> = names.filter_map(|name| size(&name)).collect();
    sizes.sort();
    sizes
}

/// `hugepages-2048kB` is `2MB` (`mm/hugetlb_cgroup.c`, `mem_fmt`).
fn size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        0x10_0000.. => format!("{}GB", kilobytes >> 20),
        0x400.. => format!("{}MB", kilobytes >> 10),
        _ => format!("{kilobytes}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_as_the_kernel_names_them() {
        assert_eq!(size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(size("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(size("hugepages-64MB"), None);
        assert_eq!(size("other"), None);
    }
}
