// SPDX-License-Identifier: Apache-2.0
//! Waiting for programs without holding up everything else.
use std::io;

use sys::{Child, Exit};

use crate::Ready;

/// Waits for a child to end.
///
/// # Cancel safety
///
/// The child goes on when this is dropped, and can be waited for again.
pub async fn finished(child: &mut Child) -> io::Result<Exit> {
    Ready::to_read(child.pidfd().try_clone_to_owned()?)?.readable().await?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_waited_for() {
        let mut child = sys::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(finished(&mut child).await.unwrap(), Exit::Code(3));
    }
}
