// SPDX-License-Identifier: Apache-2.0
//! How fast layers are made and unpacked: `cargo run --release -p containerd-diff --example pace`.
//!
//! It makes a tree of 200 MB in 6,000 files below a directory (the first argument, `/var/tmp` unless
//! said otherwise), and prints milliseconds and megabytes per second of the tree for each format.
use std::{path::Path, sync::Arc, time::Instant};

use content::{Memory, Store};
use diff::{Apply, Compare, Differ, Walking};
use fs_err as fs;
use mount::Mount;
use types::{Result, media_types};

const FILES: usize = 6000;
const SIZE: u32 = 200 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let base = std::env::args().nth(1).unwrap_or_else(|| "/var/tmp".to_owned());
    let folder = tempfile::tempdir_in(base)?;
    let tree = folder.path().join("tree");
    make(&tree)?;
    for media_type in [media_types::LAYER, media_types::LAYER_GZIP, media_types::LAYER_ZSTD] {
        measure(folder.path(), &tree, media_type).await?;
    }
    Ok(())
}

async fn measure(folder: &Path, tree: &Path, media_type: &str) -> Result<()> {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let differ = Walking::new(store, folder);
    let how = Compare { media_type: media_type.to_owned(), ..Compare::default() };
    let began = Instant::now();
    let layer = differ.compare(&[], &bind(tree), how).await?;
    report(&format!("compare {media_type}"), began, layer.size);
    let target = tempfile::tempdir_in(folder)?;
    let began = Instant::now();
    differ.apply(&layer, &bind(target.path()), Apply::default()).await?;
    report(&format!("apply   {media_type}"), began, layer.size);
    Ok(())
}

fn report(what: &str, began: Instant, size: u64) {
    let took = began.elapsed();
    let speed = f64::from(SIZE >> 20) / took.as_secs_f64();
    println!("{what:55} {:6} ms {speed:6.0} MB/s  blob {} MB", took.as_millis(), size >> 20);
}

fn bind(path: &Path) -> [Mount; 1] {
    [Mount::bind(path.display().to_string(), ["rbind", "rw"])]
}

/// Words in random order, which deflate to about a third, in files of very different lengths.
fn make(tree: &Path) -> Result<()> {
    let mut state = 1_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    let words: Vec<String> = (0..4096).map(|n| format!("{:x} ", n * 2_654_435_761_usize)).collect();
    let average = SIZE as usize / FILES;
    for file in 0..FILES {
        let directory = tree.join(format!("d{}/e{}", file % 40, file % 200));
        fs::create_dir_all(&directory)?;
        let length = if file % 10 == 0 { average * 8 } else { average * 2 / 9 };
        let mut text = String::with_capacity(length + 16);
        while text.len() < length {
            text.push_str(&words[next(words.len())]);
        }
        fs::write(directory.join(format!("f{file}")), text)?;
    }
    Ok(())
}
