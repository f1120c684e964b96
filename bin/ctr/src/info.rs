// SPDX-License-Identifier: Apache-2.0
//! `ctr info`.
use types::Result;

use crate::{connection::Connection, output::say};

pub(crate) async fn run(connection: &Connection) -> Result<()> {
    let identity = services::introspection::identity(connection.peer().await?).await?;
    let info = serde_json::json!({
        "server": {
            "uuid": identity.uuid,
            "pid": identity.pid,
            "pidns": identity.pidns,
        }
    });
    say!("{info:#}");
    Ok(())
}
