// SPDX-License-Identifier: Apache-2.0
use std::path::Path;

use types::{Platform, Result};

use crate::{Device, capability, device};

/// What plans need to know of the machine that they are for.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Its architecture, in Go's words: `amd64`.
    pub architecture: String,
    /// What this process may do, and so give to privileged containers.
    pub capabilities: Vec<String>,
    /// Its devices, for privileged containers; see [`Host::with_devices`].
    pub devices: Vec<Device>,
    /// Where it tells how hot each processor is.
    pub thermal_paths: Vec<String>,
}

/// A host of which nothing is known but its architecture.
impl Default for Host {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            architecture: Platform::host().architecture,
            capabilities: Vec::new(),
            devices: Vec::new(),
            thermal_paths: Vec::new(),
        }
    }
}

impl Host {
    /// Looks at this machine. Devices are left out: there may be many, and few need them.
    pub fn read() -> Result<Self> {
        let name = rustix::system::uname();
        let status = fs_err::read_to_string("/proc/self/status")?;
        Ok(Self {
            hostname: name.nodename().to_string_lossy().into_owned(),
            capabilities: capability::names(effective(&status)),
            thermal_paths: thermal_paths(Path::new("/sys/devices/system/cpu")),
            ..Self::default()
        })
    }

    /// The same host with its devices.
    pub fn with_devices(self) -> Result<Self> {
        Ok(Self { devices: device::host_devices()?, ..self })
    }
}

/// The effective capabilities in a `/proc/<pid>/status`.
fn effective(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// In the order of the processors (containerd `pkg/oci/spec_linux.go`). Where there is no sysfs there
/// is nothing to hide.
fn thermal_paths(processors: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(processors) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("cpu")?.parse::<u32>().ok();
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut numbers: Vec<_> = names.filter_map(|name| number(name.to_str()?)).collect();
    numbers.sort_unstable();
    let paths = numbers.iter().map(|it| processors.join(format!("cpu{it}/thermal_throttle")));
    paths.filter(|path| path.exists()).map(|path| path.to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_and_lets_root_do_something() {
        let host = Host::read().unwrap();
        assert!(!host.hostname.is_empty());
        assert!(host.capabilities.contains(&"CAP_SYS_ADMIN".to_owned()));
    }

    #[test]
    fn processors_that_tell_their_heat_come_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cpu10/thermal_throttle", "cpu2/thermal_throttle", "cpu0", "cpufreq"] {
            fs_err::create_dir_all(folder.path().join(name)).unwrap();
        }
        let paths = thermal_paths(folder.path());
        let of = |name: &str| format!("{}/{name}/thermal_throttle", folder.path().display());
        assert_eq!(paths, [of("cpu2"), of("cpu10")]);
        assert!(thermal_paths(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn the_mask_is_found_in_the_status() {
        assert_eq!(effective("Name:\tx\nCapPrm:\tff\nCapEff:\t000000000000000a\n"), 10);
        assert_eq!(effective(""), 0);
    }
}
