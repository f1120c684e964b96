// SPDX-License-Identifier: Apache-2.0
//! The events service over ttrpc (`containerd.services.events.ttrpc.v1`): shims publish here.
use std::sync::Arc;

use ::events::{Bus, Envelope};
use api::containerd::services::events::ttrpc::v1::ForwardRequest;
use ttrpc::{Code, Server, Status};

use crate::convert::{FromWire, present};

/// Adds the service to a ttrpc server: what shims forward goes to `bus`.
pub fn serve_shims(server: Server, bus: Arc<dyn Bus>) -> Server {
    server.method(api::service::EVENTS, "Forward", move |_, request: ForwardRequest| {
        let bus = bus.clone();
        async move { forward(&*bus, request).await.map_err(status) }
    })
}

async fn forward(bus: &dyn Bus, request: ForwardRequest) -> types::Result<()> {
    let envelope = present(request.envelope, "envelope").and_then(Envelope::from_wire)?;
    bus.forward(envelope).await
}

#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err")]
fn status(error: types::Error) -> Status {
    Status::new(Code::from(error.kind().code()), error.to_string())
}
