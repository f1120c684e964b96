// SPDX-License-Identifier: Apache-2.0
//! Giving memory back a little after it was used: most of the time a daemon only waits.
//!
//! The allocator keeps what was freed, in an arena for each of the threads that work by turns, and so
//! a daemon that has seen a thousand containers would seem to have kept something of each.
use std::{sync::Arc, time::Duration};

use events::{Bus, Exchange};
use types::Filters;

/// How long after something has happened. While much happens, this often.
const PAUSE: Duration = Duration::from_secs(3);

/// Gives memory back whenever something has happened. It ends with the exchange.
pub(crate) async fn tidy_up(exchange: Arc<Exchange>) {
    // Nothing is listened to meanwhile: that something happens is all that counts.
    while happened(&exchange).await {
        tokio::time::sleep(PAUSE).await;
        // Nobody waits for it, and if it could not be done it is done the next time.
        drop(tokio::task::spawn_blocking(sys::memory::give_back).await);
    }
}

async fn happened(exchange: &Exchange) -> bool {
    match exchange.subscribe(Filters::default()).await {
        Ok(mut events) => events.next().await.is_some(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use events::Publisher;

    use super::*;

    #[tokio::test]
    async fn only_what_happens_is_followed_by_anything() {
        let exchange = Arc::new(Exchange::new());
        let quiet = tokio::time::timeout(Duration::from_millis(50), happened(&exchange)).await;
        assert!(quiet.is_err(), "nothing had happened");
        let publish = async {
            tokio::task::yield_now().await;
            let event = types::Any::new("a", "b");
            exchange.publish("ns", "/tasks/start", event).await.unwrap();
        };
        let (happened, ()) = tokio::join!(happened(&exchange), publish);
        assert!(happened);
    }
}
