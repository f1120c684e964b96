// SPDX-License-Identifier: Apache-2.0
//! `ctr version`.
use types::Result;

use crate::{connection::Connection, output::say};

/// The version of this program: that of containerd, for which it stands in.
pub(crate) const VERSION: &str = "2.2.0";

/// The line that `--version` prints.
pub(crate) const LINE: &str = "github.com/containerd/containerd/v2 2.2.0";

pub(crate) async fn run(connection: &Connection) -> Result<()> {
    say!("Client:\n  Version:  {VERSION}\n");
    let peer = connection.peer().await?;
    let server = services::version::fetch(peer.clone()).await?;
    let identity = services::introspection::identity(peer).await?;
    say!("Server:");
    say!("  Version:  {}", server.version);
    say!("  Revision: {}", server.revision);
    say!("  UUID: {}", identity.uuid);
    Ok(())
}
