// SPDX-License-Identifier: Apache-2.0
//! Capabilities by name (`capabilities(7)`).
use crate::Capabilities;

/// By number (`linux/capability.h`).
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What containers may do (containerd `pkg/oci/spec.go`, `defaultUnixCaps`).
pub(crate) const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The names of the bits that are set in `mask`. Those without a name are left out.
pub(crate) fn names(mask: u64) -> Vec<String> {
    let set = ALL.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
    set.map(|(_, &name)| name.to_owned()).collect()
}

impl Capabilities {
    /// Sets what a process may do to exactly `names` (containerd `pkg/oci/spec_opts.go`,
    /// `WithCapabilities`).
    pub(crate) fn set(&mut self, names: &[String]) {
        self.inheritable.retain(|name| names.contains(name));
        for set in [&mut self.bounding, &mut self.effective, &mut self.permitted] {
            *set = names.to_vec();
        }
    }

    pub(crate) fn add(&mut self, names: &[String]) {
        for set in [&mut self.bounding, &mut self.effective, &mut self.permitted] {
            let new: Vec<_> = names.iter().filter(|name| !set.contains(name)).cloned().collect();
            set.extend(new);
        }
    }

    pub(crate) fn drop(&mut self, names: &[String]) {
        let Self { bounding, effective, permitted, inheritable, ambient: _ } = self;
        for set in [bounding, effective, permitted, inheritable] {
            set.retain(|name| !names.contains(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names_as_far_as_known() {
        assert_eq!(names(0b10_0001), ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(names(u64::MAX).len(), ALL.len());
        assert_eq!(names(1 << 40), ["CAP_CHECKPOINT_RESTORE"]);
    }
}
