// SPDX-License-Identifier: Apache-2.0
//! Bundles: a specification, and a root filesystem that is busybox.
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use api::containerd::types::Mount;
use fs_err as fs;
use serde_json::{Value, json};

/// What busybox is called in the root filesystem.
const APPLETS: [&str; 16] = [
    "sh", "echo", "cat", "sleep", "true", "false", "seq", "ps", "stty", "ls", "kill", "tail", "dd",
    "head", "tty", "yes",
];

/// A directory with everything that a test has on disk.
pub(crate) struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    /// Makes the directory and a root filesystem in it.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("shim-test-").tempdir().unwrap();
        let rootfs = dir.path().join("image");
        for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        let busybox =
            ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
        fs::copy(busybox.expect("busybox-static is installed"), rootfs.join("bin/busybox"))
            .unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        fs::create_dir(dir.path().join("bundles")).unwrap();
        fs::create_dir(dir.path().join("failpoints")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The root filesystem that containers share.
    pub(crate) fn image(&self) -> PathBuf {
        self.path().join("image")
    }

    /// How a container gets it.
    pub(crate) fn rootfs(&self) -> Mount {
        Mount {
            r#type: "bind".into(),
            source: self.image().display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Default::default()
        }
    }

    /// Where runc keeps its state.
    pub(crate) fn runc_root(&self) -> PathBuf {
        self.path().join("runc")
    }

    /// Where it is said what happens to shims.
    pub(crate) fn failpoints(&self) -> PathBuf {
        self.path().join("failpoints")
    }

    /// Makes a bundle.
    pub(crate) fn bundle(&self, id: &str, spec: &Value) -> PathBuf {
        let bundle = self.path().join("bundles").join(id);
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }
}

/// A process of a container.
pub(crate) fn process(args: &[&str]) -> Value {
    let all = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"];
    json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": all, "effective": all, "permitted": all},
    })
}

/// A shell of a container.
pub(crate) fn shell(script: &str) -> Value {
    process(&["sh", "-c", script])
}

/// A container with namespaces of its own.
pub(crate) fn spec(id: &str, process: &Value) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs"},
        "hostname": id,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"},
            ],
        },
    })
}
