// SPDX-License-Identifier: Apache-2.0
//! The distribution's own kernel, in a machine that qemu emulates.
//!
//! ```text
//! <target>/kernels/debs/    what was fetched
//!                  root/    unpacked: nothing is installed
//!                  first/   the files that the kernel starts with: busybox and a few modules
//! ```
//!
//! The machine sees the files of this one through 9p, read-only, with room in memory for what tests
//! write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Outcome, ensure, process};

use super::Suite;
use crate::{install, run, show};

const SUITES: &[Suite] = &[
    Suite { package: "containerd-content", target: "main", filters: "" },
    Suite { package: "containerd-snapshots", target: "main", filters: "verity quota::" },
    Suite { package: "containerd-services", target: "main", filters: "come_back" },
    Suite { package: "containerd-cgroups", target: "main", filters: "version_2" },
];

/// The package that needs whatever the newest kernel is called, and the emulator with what it needs
/// and few machines have.
const NEWEST: &str = "linux-image-amd64";
const EMULATOR: &[&str] = &[
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
    "libaio1",
    "libbpf1",
    "libcapstone4",
    "libdaxctl1",
    "libelf1",
    "libfdt1",
    "libglib2.0-0",
    "libibverbs1",
    "libjpeg62-turbo",
    "libkmod2",
    "libndctl6",
    "libnl-route-3-200",
    "libnuma1",
    "libpixman-1-0",
    "libpmem1",
    "libpng16-16",
    "librdmacm1",
    "libsasl2-2",
    "libseccomp2",
    "libslirp0",
    "liburing2",
    "libvdeplug2",
];

/// What has to be there before this machine's files are: the rest is among them.
const FIRST: &[&str] =
    &["kernel/drivers/virtio/virtio_pci.ko", "kernel/net/9p/9pnet_virtio.ko", "kernel/fs/9p/9p.ko"];

/// What the kernel starts as its first process. What tests write is on a filesystem that seals files.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
modules="/lib/modules/$($b uname -r)"
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for name in virtio_pci 9pnet_virtio 9p; do $b modprobe $name; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host
$b mount --bind "/host@ROOT@$modules" "$modules"
for name in loop crc32c_generic ext4 overlay erofs xfs btrfs quota_v2; do $b modprobe $name; done
$b mount -t tmpfs -o size=90% tmp /host/mnt
$b mount -t tmpfs tmp /host/run
$b mount -t proc proc /host/proc
$b mount -t sysfs sys /host/sys
$b mount -t cgroup2 cgroup2 /host/sys/fs/cgroup
$b mount --bind /dev /host/dev
$b cat > /host/mnt/tests <<'END'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin RUST_BACKTRACE=0 TERM=dumb
truncate -s 2G /mnt/image
mkfs.ext4 -q -O verity /mnt/image
mkdir /mnt/sealing
mount -o loop /mnt/image /mnt/sealing
export TMPDIR=/mnt/sealing
cd /
@TESTS@END
$b chroot /host /bin/sh /mnt/tests
$b poweroff -f
"#;

/// Plays the tests that need fs-verity.
pub(super) fn run() -> Outcome {
    show::chapter("fs-verity and an older kernel, in an emulated machine");
    install::packages(&["busybox-static", "e2fsprogs", "xfsprogs", "btrfs-progs", "erofs-utils"])?;
    let tests = super::script(SUITES)?;
    let place = place()?;
    let release = fetch(&place)?;
    println!("kernel {release}, emulated: this takes minutes");
    let root = place.join("root").display().to_string();
    let init = INIT.replace("@ROOT@", &root).replace("@TESTS@", &tests);
    let first = first(&place, &release, &init)?;
    super::play(&mut machine(&place, &release, &first), SUITES.len())
}

/// The folder for what is fetched, in cargo's.
fn place() -> Outcome<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let target = own.ancestors().nth(2).context("this program is in a folder of the target")?;
    Ok(target.join("kernels"))
}

/// Fetches and unpacks what is not there yet. Returns the kernel's release.
fn fetch(place: &Path) -> Outcome<String> {
    let (debs, root) = (place.join("debs"), place.join("root"));
    if let Some(release) = release(&root) {
        return Ok(release);
    }
    fs_err::create_dir_all(&debs)?;
    fs_err::create_dir_all(&root)?;
    let mut asked = Command::new("apt-cache");
    let depends = process::run(asked.args(["depends", NEWEST]), Duration::from_secs(30))?.ok()?;
    let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let image = image.context(format!("{NEWEST} needs no kernel: `apt-get update` may help"))?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "-o", "APT::Sandbox::User=root", "download", image]).args(EMULATOR);
    println!("$ {}", process::shown(&download));
    show::flush();
    let limit = Duration::from_mins(15);
    let done = run::watched(download.current_dir(&debs), limit, |line| println!("{line}"))?;
    ensure!(done, "apt-get failed");
    for package in fs_err::read_dir(&debs)? {
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(package?.path()).arg(&root);
        process::run(&mut unpack, Duration::from_mins(2))?.ok()?;
    }
    fs_err::remove_dir_all(debs)?;
    let release = release(&root).context(format!("{image} has no kernel"))?;
    let mut depmod = Command::new("busybox");
    depmod.arg("depmod").arg("-b").arg(&root).arg(&release);
    process::run(&mut depmod, Duration::from_mins(2))?.ok()?;
    Ok(release)
}

/// What the unpacked kernel is called, if there is one.
fn release(root: &Path) -> Option<String> {
    let names = fs_err::read_dir(root.join("boot")).ok()?;
    let mut names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
}

/// Packs the files that the kernel starts with: a first process, what it runs, and modules.
fn first(place: &Path, release: &str, init: &str) -> Outcome<PathBuf> {
    let (files, packed) = (place.join("first"), place.join("first.cpio"));
    if files.exists() {
        fs_err::remove_dir_all(&files)?;
    }
    for directory in ["bin", "proc", "sys", "dev", "host"] {
        fs_err::create_dir_all(files.join(directory))?;
    }
    fs_err::copy("/bin/busybox", files.join("bin/busybox"))?;
    super::write_program(&files.join("init"), init)?;
    let modules = Path::new("lib/modules").join(release);
    let (from, to) = (place.join("root").join(&modules), files.join(&modules));
    let told = fs_err::read_to_string(from.join("modules.dep"))?;
    let needs = needs(&told);
    let mut list = String::new();
    for module in closure(&needs, FIRST) {
        let path = to.join(module);
        fs_err::create_dir_all(path.parent().context("modules are in folders")?)?;
        fs_err::copy(from.join(module), path)?;
        let needed = needs.get(module).map(|all| all.join(" ")).unwrap_or_default();
        writeln!(list, "{module}: {needed}").context("a string takes it")?;
    }
    fs_err::write(to.join("modules.dep"), list)?;
    let mut pack = Command::new("sh");
    pack.args(["-c", "busybox find . | busybox cpio -o -H newc > ../first.cpio"]);
    process::run(pack.current_dir(&files), Duration::from_mins(1))?.ok()?;
    Ok(packed)
}

/// What `modules.dep` says: for each module, those that it needs.
fn needs(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let line = |line| str::split_once(line, ':');
    text.lines().filter_map(line).map(|(it, all)| (it, all.split_whitespace().collect())).collect()
}

/// Modules, and those that they need.
fn closure<'a>(needs: &BTreeMap<&'a str, Vec<&'a str>>, wanted: &[&'a str]) -> BTreeSet<&'a str> {
    let (mut found, mut todo) = (BTreeSet::new(), wanted.to_vec());
    while let Some(module) = todo.pop() {
        if found.insert(module) {
            todo.extend(needs.get(module).into_iter().flatten());
        }
    }
    found
}

/// The emulated machine. It emulates the processor too: a machine in a machine often cannot do better.
fn machine(place: &Path, release: &str, first: &Path) -> Command {
    let root = place.join("root");
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let libraries = libraries.map(|folder| root.join(folder).display().to_string()).join(":");
    let mut machine = Command::new(root.join("usr/bin/qemu-system-x86_64"));
    machine.env("LD_LIBRARY_PATH", libraries);
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        machine.arg("-L").arg(root.join(folder));
    }
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4G"]);
    machine.args(["-nographic", "-no-reboot", "-nic", "none"]);
    machine.arg("-kernel").arg(root.join("boot").join(format!("vmlinuz-{release}")));
    machine
        .arg("-initrd")
        .arg(first)
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"]);
    machine.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host", "-fsdev"]);
    machine.arg("local,id=host,path=/,security_model=none,readonly=on,multidevs=remap");
    machine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_with_all_that_it_needs() {
        let needs = needs("a.ko: b.ko c.ko\nb.ko: d.ko\nc.ko:\nd.ko:\ne.ko: a.ko\n");
        assert_eq!(
            closure(&needs, &["a.ko"]).into_iter().collect::<Vec<_>>(),
            ["a.ko", "b.ko", "c.ko", "d.ko"]
        );
        assert_eq!(closure(&needs, &["d.ko", "f.ko"]).len(), 2);
    }
}
