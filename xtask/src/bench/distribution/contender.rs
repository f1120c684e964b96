// SPDX-License-Identifier: Apache-2.0
//! Who is measured: daemons with their clients, and skopeo with umoci, each with its own words for
//! the same deeds.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Ctr, Daemon, Estate, Outcome, Parts, Profile};

/// Who is measured, and with which words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    play: Play,
}

#[derive(Debug, Clone, Copy)]
enum Play {
    Daemon { parts: Parts, best: bool },
    Skopeo,
}

/// The first one is what the others are compared with.
pub(super) const ENTRIES: [Entry; 5] = [
    Entry { name: "Go", play: Play::Daemon { parts: Parts::REFERENCE, best: false } },
    Entry { name: "Go, 8 at once", play: Play::Daemon { parts: Parts::REFERENCE, best: true } },
    Entry { name: "ours, Go's ctr", play: Play::Daemon { parts: Parts::GO_CTR, best: false } },
    Entry { name: "ours", play: Play::Daemon { parts: Parts::OURS, best: false } },
    Entry { name: "skopeo and umoci", play: Play::Skopeo },
];

/// One of them, on a place of its own.
pub(super) enum Contender {
    Daemon { daemon: Box<Daemon>, ctr: Ctr, best: bool },
    Skopeo { estate: Estate },
}

impl Contender {
    pub(super) fn start(entry: Entry, profile: Profile) -> Outcome<Self> {
        match entry.play {
            Play::Daemon { parts, best } => {
                let daemon = Daemon::start(parts, profile)?;
                Ok(Self::Daemon { ctr: daemon.ctr(), daemon: Box::new(daemon), best })
            }
            Play::Skopeo => Ok(Self::Skopeo { estate: Estate::new()? }),
        }
    }

    /// The daemon, if it is one.
    pub(super) fn daemon(&self) -> Option<i32> {
        match self {
            Self::Daemon { daemon, .. } => daemon.pid().ok(),
            Self::Skopeo { .. } => None,
        }
    }

    /// Where its files are.
    pub(super) fn home(&self) -> &Path {
        match self {
            Self::Daemon { daemon, .. } => daemon.home(),
            Self::Skopeo { estate } => estate.home(),
        }
    }

    /// The archive that it exports to and imports from.
    fn archive(&self) -> PathBuf {
        self.home().join("archive.tar")
    }

    fn layout(&self) -> String {
        format!("oci:{}:image", self.home().join("layout").display())
    }

    /// From a registry to a tree of files.
    pub(super) fn pull(&self, image: &str) -> Vec<Command> {
        match self {
            Self::Daemon { ctr, best, .. } => {
                let mut command = ctr.command(["images", "pull", "--plain-http"]);
                if *best {
                    command.args(["--max-concurrent-downloads", "8"]);
                }
                command.arg(image);
                vec![command]
            }
            Self::Skopeo { .. } => {
                let from = format!("docker://{image}");
                let layout = format!("{}:image", self.home().join("layout").display());
                let mut unpack = Command::new("umoci");
                unpack.args(["unpack", "--image", &layout]).arg(self.home().join("bundle"));
                vec![skopeo(&["--src-tls-verify=false", &from, &self.layout()]), unpack]
            }
        }
    }

    /// From here to a registry.
    pub(super) fn push(&self, local: &str, remote: &str) -> Vec<Command> {
        match self {
            Self::Daemon { ctr, best, .. } => {
                let mut command = ctr.command(["images", "push", "--plain-http"]);
                if *best {
                    command.args(["--max-concurrent-uploaded-layers", "8"]);
                }
                command.args([remote, local]);
                vec![command]
            }
            Self::Skopeo { .. } => {
                let to = format!("docker://{remote}");
                vec![skopeo(&["--dest-tls-verify=false", &self.layout(), &to])]
            }
        }
    }

    /// From here to an archive.
    pub(super) fn export(&self, image: &str) -> Vec<Command> {
        let archive = self.archive();
        match self {
            Self::Daemon { ctr, .. } => {
                let mut command = ctr.command(["images", "export"]);
                command.arg(archive).arg(image);
                vec![command]
            }
            Self::Skopeo { .. } => {
                vec![skopeo(&[&self.layout(), &format!("oci-archive:{}:image", archive.display())])]
            }
        }
    }

    /// From an archive to here; daemons unpack it too.
    pub(super) fn import(&self) -> Vec<Command> {
        let archive = self.archive();
        match self {
            Self::Daemon { ctr, .. } => {
                let mut command = ctr.command(["images", "import"]);
                command.arg(archive);
                vec![command]
            }
            Self::Skopeo { .. } => {
                vec![skopeo(&[&format!("oci-archive:{}:image", archive.display()), &self.layout()])]
            }
        }
    }

    /// Forgets every image and all that is of them, but not the archive.
    pub(super) fn forget(&self) -> Outcome {
        match self {
            Self::Daemon { ctr, .. } => {
                for image in ctr.lines(["images", "ls", "-q"])? {
                    ctr.ok(["images", "rm", "--sync", &image])?;
                }
            }
            Self::Skopeo { estate } => {
                for part in ["layout", "bundle"] {
                    drop(fs_err::remove_dir_all(estate.home().join(part)));
                }
            }
        }
        Ok(())
    }

    /// Removes the archive.
    pub(super) fn drop_archive(&self) -> Outcome {
        Ok(fs_err::remove_file(self.archive())?)
    }
}

fn skopeo(words: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet"]).args(words);
    command
}
