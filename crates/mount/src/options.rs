// SPDX-License-Identifier: Apache-2.0
use rustix::mount::{MountFlags, MountPropagationFlags};

/// `MS_REMOUNT`, which rustix keeps to itself.
pub(crate) const REMOUNT: MountFlags = MountFlags::from_bits_retain(0x20);

/// Options in the words of `fstab(5)`, sorted by who understands them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Flags of the mount call.
    pub(crate) flags: MountFlags,
    /// How mounts below spread to and from copies: a call of its own, after the mount.
    pub(crate) propagation: MountPropagationFlags,
    /// What only the filesystem understands.
    pub(crate) data: Vec<String>,
    /// The source is a file, to be mounted through a loop device.
    pub(crate) through_loop: bool,
    /// That loop device passes by the page cache of the file.
    pub(crate) direct_io: bool,
    /// Ranges of user ids to shift, as `container:host:size,...`.
    pub(crate) uid_map: Option<String>,
    /// The same for groups.
    pub(crate) gid_map: Option<String>,
}

/// One option word and what it does to the flags.
enum Word {
    Set(MountFlags),
    Clear(MountFlags),
    Propagate(MountPropagationFlags),
    Nothing,
}

impl Options {
    /// Sorts the options. What is not known is for the filesystem, as in containerd
    /// (`core/mount/mount_linux.go`, `parseMountOptions`); comments (`x-...`, `X-...`), which
    /// `mount(8)` never hands to a filesystem either, are dropped.
    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: Vec::new(),
            through_loop: options.iter().any(|option| option == "loop"),
            direct_io: false,
            uid_map: None,
            gid_map: None,
        };
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        match word(option) {
            Some(Word::Set(flags)) => self.flags |= flags,
            Some(Word::Clear(flags)) => self.flags -= flags,
            Some(Word::Propagate(how)) => self.propagation = how,
            Some(Word::Nothing) => {}
            None => self.add_other(option),
        }
    }

    fn add_other(&mut self, option: &str) {
        if let Some(map) = option.strip_prefix("uidmap=") {
            self.uid_map = Some(map.to_owned());
        } else if let Some(map) = option.strip_prefix("gidmap=") {
            self.gid_map = Some(map.to_owned());
        } else if option == "direct-io" && self.through_loop {
            self.direct_io = true;
        } else if !(option == "loop" || option.starts_with("x-") || option.starts_with("X-")) {
            self.data.push(option.to_owned());
        }
    }

    /// Both maps, if the mount shall be id-mapped: one alone does nothing, as in containerd.
    pub(crate) fn id_maps(&self) -> Option<(&str, &str)> {
        self.uid_map.as_deref().zip(self.gid_map.as_deref())
    }

    /// The data as one string.
    pub(crate) fn data_string(&self) -> String {
        self.data.join(",")
    }
}

fn word(option: &str) -> Option<Word> {
    use MountFlags as F;
    use MountPropagationFlags as P;
    Some(match option {
        "async" => Word::Clear(F::SYNCHRONOUS),
        "atime" => Word::Clear(F::NOATIME),
        "bind" => Word::Set(F::BIND),
        "defaults" => Word::Nothing,
        "dev" => Word::Clear(F::NODEV),
        "diratime" => Word::Clear(F::NODIRATIME),
        "dirsync" => Word::Set(F::DIRSYNC),
        "exec" => Word::Clear(F::NOEXEC),
        "mand" => Word::Set(F::PERMIT_MANDATORY_FILE_LOCKING),
        "noatime" => Word::Set(F::NOATIME),
        "nodev" => Word::Set(F::NODEV),
        "nodiratime" => Word::Set(F::NODIRATIME),
        "noexec" => Word::Set(F::NOEXEC),
        "nomand" => Word::Clear(F::PERMIT_MANDATORY_FILE_LOCKING),
        "norelatime" => Word::Clear(F::RELATIME),
        "nostrictatime" => Word::Clear(F::STRICTATIME),
        "nosuid" => Word::Set(F::NOSUID),
        "rbind" => Word::Set(F::BIND.union(F::REC)),
        "relatime" => Word::Set(F::RELATIME),
        "remount" => Word::Set(REMOUNT),
        "ro" => Word::Set(F::RDONLY),
        "rw" => Word::Clear(F::RDONLY),
        "strictatime" => Word::Set(F::STRICTATIME),
        "suid" => Word::Clear(F::NOSUID),
        "sync" => Word::Set(F::SYNCHRONOUS),
        "private" => Word::Propagate(P::PRIVATE),
        "rprivate" => Word::Propagate(P::PRIVATE.union(P::REC)),
        "shared" => Word::Propagate(P::SHARED),
        "rshared" => Word::Propagate(P::SHARED.union(P::REC)),
        "slave" => Word::Propagate(P::DOWNSTREAM),
        "rslave" => Word::Propagate(P::DOWNSTREAM.union(P::REC)),
        "unbindable" => Word::Propagate(P::UNBINDABLE),
        "runbindable" => Word::Propagate(P::UNBINDABLE.union(P::REC)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Options {
        let options: Vec<_> = options.split(',').map(str::to_owned).collect();
        Options::parse(&options)
    }

    fn check(options: &str, flags: MountFlags, data: &str) {
        let parsed = parse(options);
        assert_eq!((parsed.flags, parsed.data_string().as_str()), (flags, data), "{options}");
    }

    #[test]
    fn a_word_of_fstab_is_a_flag_and_the_rest_is_data() {
        check("ro,nosuid,size=1m", MountFlags::RDONLY | MountFlags::NOSUID, "size=1m");
        check("rbind,ro", MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY, "");
        check("defaults", MountFlags::empty(), "");
        check("lowerdir=/a:/b,index=off", MountFlags::empty(), "lowerdir=/a:/b,index=off");
    }

    #[test]
    fn a_later_word_undoes_an_earlier_one() {
        check("ro,rw", MountFlags::empty(), "");
        check("noexec,exec,nodev", MountFlags::NODEV, "");
    }

    #[test]
    fn comments_are_not_for_the_filesystem() {
        check("X-containerd.mkfs.fs=ext4,x-systemd.automount,ro", MountFlags::RDONLY, "");
    }

    #[test]
    fn propagation_is_kept_apart() {
        let parsed = parse("rbind,rslave");
        assert_eq!(parsed.flags, MountFlags::BIND | MountFlags::REC);
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(parsed.propagation, slave);
    }

    #[test]
    fn direct_io_belongs_to_the_loop_device_wherever_it_stands() {
        let parsed = parse("direct-io,loop");
        assert!(parsed.through_loop && parsed.direct_io && parsed.data.is_empty());
        assert_eq!(parse("direct-io").data, ["direct-io"]);
    }

    #[test]
    fn ids_are_mapped_only_with_both_maps() {
        assert_eq!(parse("uidmap=0:1:2,gidmap=0:3:4").id_maps(), Some(("0:1:2", "0:3:4")));
        assert_eq!(parse("uidmap=0:1:2").id_maps(), None);
    }
}
