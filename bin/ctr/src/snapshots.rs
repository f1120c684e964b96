// SPDX-License-Identifier: Apache-2.0
//! `ctr snapshots`.
mod layers;
mod platforms;

use std::{collections::BTreeMap, sync::Arc};

use ::snapshots::{Commit, Info, Snapshotter};
use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use mount::Mount;
use types::{Error, FieldMask, Filters, Labels, Result};

pub(crate) use layers::changes;

use crate::{
    connection::Connection,
    labels,
    output::{self, say},
    table::Table,
    units,
};

/// The snapshotter where nothing else was said (containerd `defaults/defaults_unix.go`).
const DEFAULT: &str = "overlayfs";

/// Which snapshotter.
#[derive(Clone, Debug, Args)]
pub(crate) struct Chosen {
    /// Snapshotter to use
    #[arg(long, value_name = "NAME", default_value = DEFAULT, env = "CONTAINERD_SNAPSHOTTER")]
    #[arg(hide_env_values = true, global = true)]
    snapshotter: String,
}

impl Chosen {
    /// Its name. An empty one, as the variable may be, stands for the default.
    pub(crate) fn name(&self) -> &str {
        if self.snapshotter.is_empty() { DEFAULT } else { &self.snapshotter }
    }
}

#[derive(Debug, Subcommand)]
#[command(args_conflicts_with_subcommands = false)]
pub(crate) enum Action {
    /// Commit an active snapshot under a name
    Commit {
        /// The name
        name: String,
        /// The key of the active snapshot
        key: String,
    },
    /// Remove snapshots
    #[command(visible_aliases = ["remove", "rm", "del"])]
    Delete {
        /// Their keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Write what two snapshots differ in to the standard output, as a layer
    Diff(layers::Diff),
    /// Print what is known of a snapshot
    Info {
        /// Its key
        key: String,
    },
    /// Set or clear labels of a snapshot
    Label {
        /// Its key
        key: String,
        /// Labels, key=value; an empty value clears
        labels: Vec<String>,
    },
    /// List snapshots
    #[command(visible_alias = "ls")]
    List,
    /// Print the mount commands of a snapshot
    #[command(visible_aliases = ["m", "mount"])]
    Mounts {
        /// Where to mount it
        target: String,
        /// Its key
        key: String,
    },
    /// Make a writable snapshot
    Prepare {
        /// Where to mount it: prints the mount commands
        #[arg(long, short)]
        target: Option<String>,
        /// Print its mounts as JSON
        #[arg(long)]
        mounts: bool,
        /// Its key
        key: String,
        /// What it is made over
        parent: Option<String>,
    },
    /// Print the snapshots as a tree
    Tree,
    /// Unpack the layers of an image
    Unpack(layers::Unpack),
    /// Print what snapshots take on disk
    Usage {
        /// In bytes
        #[arg(short)]
        bytes: bool,
        /// Their keys; all where none is given
        keys: Vec<String>,
    },
    /// Make a read-only snapshot
    View {
        /// Where to mount it: prints the mount commands
        #[arg(long, short)]
        target: Option<String>,
        /// Print its mounts as JSON
        #[arg(long)]
        mounts: bool,
        /// Its key
        key: String,
        /// What it is made over
        parent: Option<String>,
    },
}

/// Manage snapshots.
#[derive(Debug, Args)]
pub(crate) struct Command {
    #[command(flatten)]
    chosen: Chosen,
    #[command(subcommand)]
    action: Action,
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let name = self.chosen.name();
        match self.action {
            Action::Diff(diff) => diff.run(connection, name).await,
            Action::Unpack(unpack) => unpack.run(connection, &self.chosen).await,
            action => action.run((connection.client().await?.snapshotters)(name)?).await,
        }
    }
}

impl Action {
    async fn run(self, snapshotter: Arc<dyn Snapshotter>) -> Result<()> {
        match self {
            Self::Commit { name, key } => {
                snapshotter.commit(&name, &key, Commit { labels: root(), parent: None }).await
            }
            Self::Delete { keys } => delete(&*snapshotter, &keys).await,
            Self::Info { key } => {
                say!("{:#}", json(&snapshotter.stat(&key).await?));
                Ok(())
            }
            Self::Label { key, labels } => label(&*snapshotter, key, &labels).await,
            Self::List => list(&*snapshotter).await,
            Self::Mounts { target, key } => {
                print_mounts(&target, &snapshotter.mounts(&key).await?);
                Ok(())
            }
            Self::Prepare { target, mounts: as_json, key, parent } => {
                let mounts = snapshotter.prepare(&key, parent.as_deref(), root()).await?;
                print_made(target.as_deref(), as_json, &mounts);
                Ok(())
            }
            Self::Diff(_) | Self::Unpack(_) => {
                Err(Error::internal("a command for more than a snapshotter"))
            }
            Self::Tree => tree(&*snapshotter).await,
            Self::Usage { bytes, keys } => usage(&*snapshotter, bytes, keys).await,
            Self::View { target, mounts: as_json, key, parent } => {
                let mounts = snapshotter.view(&key, parent.as_deref(), root()).await?;
                print_made(target.as_deref(), as_json, &mounts);
                Ok(())
            }
        }
    }
}

/// What is made by hand is kept from collection until it is removed by hand.
fn root() -> Labels {
    Labels::from([(types::labels::GC_ROOT.to_owned(), units::time(std::time::SystemTime::now()))])
}

async fn all(snapshotter: &dyn Snapshotter) -> Result<Vec<Info>> {
    snapshotter.walk(Filters::default()).try_collect().await
}

async fn delete(snapshotter: &dyn Snapshotter, keys: &[String]) -> Result<()> {
    let mut outcome = Ok(());
    for key in keys {
        outcome = outcome.and(snapshotter.remove(key).await);
    }
    outcome
}

async fn label(snapshotter: &dyn Snapshotter, key: String, pairs: &[String]) -> Result<()> {
    let mut info = snapshotter.stat(&key).await?;
    // A mask without fields would be all of them.
    if !pairs.is_empty() {
        let labels = labels::parse(pairs);
        let mask: FieldMask = labels::mask(&labels);
        info = snapshotter.update(Info { labels, ..info }, &mask).await?;
    }
    say!("{}", labels::cell(&info.labels));
    Ok(())
}

async fn list(snapshotter: &dyn Snapshotter) -> Result<()> {
    let mut table = Table::new(["KEY", "PARENT", "KIND"]);
    for info in all(snapshotter).await? {
        table.row([info.name, info.parent.unwrap_or_default(), info.kind.name().to_owned()]);
    }
    table.print();
    Ok(())
}

async fn tree(snapshotter: &dyn Snapshotter) -> Result<()> {
    let mut children: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for info in all(snapshotter).await? {
        children.entry(info.parent).or_default().push(info.name);
    }
    output::text(&branches(&children, None, 0));
    Ok(())
}

fn branches(
    children: &BTreeMap<Option<String>, Vec<String>>,
    parent: Option<&String>,
    depth: usize,
) -> String {
    let mut text = String::new();
    for name in children.get(&parent.cloned()).into_iter().flatten() {
        let indent = match depth {
            0 => String::new(),
            depth => format!("{}\\_", " ".repeat(2 * depth)),
        };
        text.extend([&indent, " ", name, "\n"]);
        text.push_str(&branches(children, Some(name), depth + 1));
    }
    text
}

async fn usage(snapshotter: &dyn Snapshotter, in_bytes: bool, keys: Vec<String>) -> Result<()> {
    let keys = if keys.is_empty() {
        all(snapshotter).await?.into_iter().map(|info| info.name).collect()
    } else {
        keys
    };
    let mut table = Table::new(["KEY", "SIZE", "INODES"]);
    for key in keys {
        let usage = snapshotter.usage(&key).await?;
        let size = if in_bytes { usage.size.to_string() } else { units::bytes(usage.size) };
        table.row([key, size, usage.inodes.to_string()]);
    }
    table.print();
    Ok(())
}

/// What was asked to be printed of a new snapshot (containerd `cmd/ctr/commands/snapshots`).
fn print_made(target: Option<&str>, as_json: bool, mounts: &[Mount]) {
    if let Some(target) = target {
        print_mounts(target, mounts);
    }
    if as_json {
        let json = |it: &Mount| {
            serde_json::json!({
                "Type": it.kind, "Source": it.source, "Target": it.target, "Options": it.options,
            })
        };
        say!("{:#}", mounts.iter().map(json).collect::<serde_json::Value>());
    }
}

/// The commands that mount a snapshot at `target`.
fn print_mounts(target: &str, mounts: &[Mount]) {
    for Mount { kind, source, options, .. } in mounts {
        say!("mount -t {kind} {source} {target} -o {}", options.join(","));
    }
}

fn json(info: &Info) -> serde_json::Value {
    serde_json::json!({
        "Kind": info.kind.name(),
        "Name": info.name,
        "Parent": info.parent.as_deref().unwrap_or_default(),
        "Labels": info.labels,
        "Created": units::time(info.created_at),
        "Updated": units::time(info.updated_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_shows_children_below_their_parents() {
        let children = BTreeMap::from([
            (None, vec!["a".to_owned(), "c".to_owned()]),
            (Some("a".to_owned()), vec!["b".to_owned()]),
        ]);
        assert_eq!(branches(&children, None, 0), " a\n  \\_ b\n c\n");
    }
}
