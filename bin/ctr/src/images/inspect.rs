// SPDX-License-Identifier: Apache-2.0
//! What an image is made of, as a tree: each document above what it refers to.
use ::content::Store;
use clap::Args;
use futures_util::{FutureExt as _, future::BoxFuture};
use types::{Descriptor, Result, media_types};

use crate::{connection::Connection, labels, output, output::say, units};

/// The longest document that is shown.
const MAX_DOCUMENT: u64 = ::images::MAX_SIZE;

/// Print what an image is made of.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Print the documents too
    #[arg(long)]
    content: bool,
    /// The image's name
    #[arg(value_name = "REF")]
    reference: String,
}

/// A part of an image, and what it refers to.
struct Node {
    lines: Vec<String>,
    children: Vec<Node>,
}

impl Inspect {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let image = client.images.get(&self.reference).await?;
        let root = self.node(&*client.content, image.target).await?;
        say!("{}", image.name);
        say!(" Created: {}", units::time(image.created_at));
        say!(" Updated: {}", units::time(image.updated_at));
        say!(" Labels:  {}", labels::cell(&image.labels));
        let mut text = String::new();
        draw(&root, "", true, &mut text);
        output::text(&text);
        Ok(())
    }

    fn node<'a>(
        &'a self,
        store: &'a dyn Store,
        descriptor: Descriptor,
    ) -> BoxFuture<'a, Result<Node>> {
        async move {
            let is_there = match store.info(&descriptor.digest).await {
                Ok(_) => true,
                Err(error) if error.is_not_found() => false,
                Err(error) => return Err(error),
            };
            let mut node = Node { lines: describe(&descriptor, is_there), children: Vec::new() };
            if !is_there {
                return Ok(node);
            }
            if self.content && is_document(&descriptor.media_type) {
                let data = ::content::blob::read(store, &descriptor.digest, MAX_DOCUMENT).await?;
                node.lines.extend(pretty(&data));
            }
            for child in ::images::children(store, &descriptor).await? {
                node.children.push(self.node(store, child).await?);
            }
            Ok(node)
        }
        .boxed()
    }
}

fn is_document(media_type: &str) -> bool {
    media_types::is_index(media_type)
        || media_types::is_manifest(media_type)
        || media_types::is_config(media_type)
}

fn describe(descriptor: &Descriptor, is_there: bool) -> Vec<String> {
    let Descriptor { media_type, digest, size, platform, .. } = descriptor;
    let missing = if is_there { "" } else { ", not here" };
    let mut lines = vec![format!("{media_type} @{digest} ({size} bytes{missing})")];
    lines.extend(platform.as_ref().map(|platform| format!("Platform: {platform}")));
    lines
}

/// A document's lines, or as they are those of one that is no JSON.
fn pretty(data: &[u8]) -> Vec<String> {
    let text = match serde_json::from_slice::<serde_json::Value>(data) {
        Ok(value) => format!("{value:#}"),
        Err(_) => String::from_utf8_lossy(data).into_owned(),
    };
    text.lines().map(str::to_owned).collect()
}

fn draw(node: &Node, indent: &str, is_last: bool, text: &mut String) {
    let (branch, below) = if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
    let trunk = if node.children.is_empty() { "    " } else { "│   " };
    for (at, line) in node.lines.iter().enumerate() {
        let lead = if at == 0 { branch.to_owned() } else { format!("{below}{trunk}") };
        text.push_str(format!("{indent}{lead}{line}").trim_end());
        text.push('\n');
    }
    let indent = format!("{indent}{below}");
    for (at, child) in node.children.iter().enumerate() {
        draw(child, &indent, at + 1 == node.children.len(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(line: &str, children: Vec<Node>) -> Node {
        Node { lines: vec![line.to_owned()], children }
    }

    #[test]
    fn children_hang_below_their_parents() {
        let mut first = node("manifest", vec![node("config", vec![]), node("layer", vec![])]);
        first.lines.push("Platform: linux/amd64".to_owned());
        let root = node("index", vec![first, node("other", vec![])]);
        let mut text = String::new();
        draw(&root, "", true, &mut text);
        let want = "\
└── index
    ├── manifest
    │   │   Platform: linux/amd64
    │   ├── config
    │   └── layer
    └── other
";
        assert_eq!(text, want);
    }
}
