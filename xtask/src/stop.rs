// SPDX-License-Identifier: Apache-2.0
//! Being told to stop: nothing is abandoned, every wait ends and everything is cleaned up on the way
//! out.

use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGINT, SIGTERM and SIGHUP for as long as the program runs.
pub(crate) fn listen() {
    thread::spawn(|| {
        let Ok(runtime) = Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut int), Ok(mut term), Ok(mut hup)] = kinds.map(signal) else { return };
            loop {
                any(&mut int, &mut term, &mut hup).await;
                if !asked() {
                    eprintln!("\nstopping, and cleaning up");
                }
                e2e::wait::cancel();
            }
        });
    });
}

async fn any(int: &mut Signal, term: &mut Signal, hup: &mut Signal) {
    std::future::poll_fn(|context| {
        let one = int.poll_recv(context).is_ready();
        let two = term.poll_recv(context).is_ready();
        let three = hup.poll_recv(context).is_ready();
        if one || two || three { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Whether the program was told to stop.
pub(crate) fn asked() -> bool {
    e2e::wait::cancelled()
}
