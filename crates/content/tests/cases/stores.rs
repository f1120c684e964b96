// SPDX-License-Identifier: Apache-2.0
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use content::{Local, Memory, MemoryLabels, Store, suite};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_holds_every_claim() {
    let root = tempfile::tempdir().unwrap();
    let number = AtomicUsize::new(0);
    suite::run(async || {
        let root = root.path().join(number.fetch_add(1, Ordering::Relaxed).to_string());
        let labels = Arc::new(MemoryLabels::default());
        Arc::new(Local::with_labels(root, labels).unwrap()) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn memory_holds_every_claim() {
    suite::run(async || Arc::new(Memory::default()) as Arc<dyn Store>).await;
}
