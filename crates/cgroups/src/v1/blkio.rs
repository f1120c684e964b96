// SPDX-License-Identifier: Apache-2.0
//! Block devices. Kernels with the CFQ scheduler count everything; later ones only what is throttled
//! (containerd/cgroups `cgroup1/blkio.go`).
use std::{collections::HashMap, path::Path};

use super::{BlkIoEntry, BlkIoStat};
use crate::values::text;

/// Names of devices by their numbers.
type Devices = HashMap<(u64, u64), String>;

pub(super) fn read(dir: &Path) -> BlkIoStat {
    let devices = parse_devices(&text(Path::new("/proc"), "partitions").unwrap_or_default());
    let entries = |name: &str| {
        let text = text(dir, &format!("blkio.{name}")).unwrap_or_default();
        parse_entries(&text, &devices)
    };
    let counted = BlkIoStat {
        io_service_bytes_recursive: entries("io_service_bytes_recursive"),
        io_serviced_recursive: entries("io_serviced_recursive"),
        io_queued_recursive: entries("io_queued_recursive"),
        io_service_time_recursive: entries("io_service_time_recursive"),
        io_wait_time_recursive: entries("io_wait_time_recursive"),
        io_merged_recursive: entries("io_merged_recursive"),
        io_time_recursive: entries("time_recursive"),
        sectors_recursive: entries("sectors_recursive"),
    };
    if counted != BlkIoStat::default() {
        return counted;
    }
    BlkIoStat {
        io_serviced_recursive: entries("throttle.io_serviced"),
        io_service_bytes_recursive: entries("throttle.io_service_bytes"),
        ..counted
    }
}

/// Reads lines like `8:0 Read 4096` and `8:0 12`, and passes over the sum: `Total 4096`.
fn parse_entries(text: &str, devices: &Devices) -> Vec<BlkIoEntry> {
    let entry = |line: &str| {
        let fields: Vec<_> = line.split([' ', ':']).filter(|field| !field.is_empty()).collect();
        let (major, minor, op, value) = match fields[..] {
            [major, minor, op, value] => (major, minor, op, value),
            [major, minor, value] => (major, minor, "", value),
            _ => return None,
        };
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let device = devices.get(&(major, minor)).cloned().unwrap_or_default();
        Some(BlkIoEntry { op: op.to_owned(), device, major, minor, value: value.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

/// Reads `/proc/partitions`: two lines of heading, then `major minor blocks name`. The first of
/// several names counts.
fn parse_devices(text: &str) -> Devices {
    let mut devices = Devices::new();
    for line in text.lines().skip(2) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [major, minor, _blocks, name] = fields[..] else { continue };
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            devices.entry((major, minor)).or_insert_with(|| format!("/dev/{name}"));
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: &str = "\
major minor  #blocks  name

   7        0       4 loop0
 254        0  134217728 vda
";

    #[test]
    fn an_entry_has_the_name_of_its_device() {
        let devices = parse_devices(PARTITIONS);
        let entries =
            parse_entries("254:0 Read 4096\n254:0 Total 4096\n8:16 7\nTotal 4096\n", &devices);
        let entry = |op: &str, device: &str, major, minor, value| BlkIoEntry {
            op: op.into(),
            device: device.into(),
            major,
            minor,
            value,
        };
        let want = [
            entry("Read", "/dev/vda", 254, 0, 4096),
            entry("Total", "/dev/vda", 254, 0, 4096),
            entry("", "", 8, 16, 7),
        ];
        assert_eq!(entries, want);
    }

    #[test]
    fn odd_lines_are_passed_over() {
        assert!(
            parse_entries("a:b Read 1\n1:2 Read x\n\n1\n1:2 a b c\n", &Devices::new()).is_empty()
        );
    }
}
