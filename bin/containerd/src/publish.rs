// SPDX-License-Identifier: Apache-2.0
//! `containerd publish`: an event from the standard input to a daemon, for shims that cannot speak
//! to it themselves (containerd `cmd/containerd/command/publish.go`).
use std::{io::Read, path::Path, time::Duration};

use clap::Args;
use prost::Message;
use types::{Any, Error, Kind, Result, Scope};

/// More than any event is.
const LONGEST: u64 = 4 << 20;
/// How long the daemon may take, to be reached and to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Binary to publish events to containerd
#[derive(Debug, Args)]
pub struct Publish {
    /// Namespace to publish to
    #[arg(long, default_value = "")]
    pub namespace: String,
    /// Topic of the event
    #[arg(long, default_value = "")]
    pub topic: String,
}

impl Publish {
    /// Reads an encoded `google.protobuf.Any` from `input` and publishes it at the daemon's
    /// `address`.
    ///
    /// Errors: what the daemon says; `Unavailable` when there is none.
    pub async fn run(self, address: &str, input: impl Read) -> Result<()> {
        if self.topic.is_empty() {
            return Err(Error::said(Kind::Unknown, "topic required to publish event"));
        }
        let event = event(input)?;
        let channel = services::dial(Path::new(address), PATIENCE).await?;
        let peer = services::peer(channel, &Scope::new(&self.namespace)?)?;
        let bus = services::events::connect(peer);
        let published = bus.publish(&self.namespace, &self.topic, event);
        tokio::time::timeout(PATIENCE, published)
            .await
            .map_err(|_elapsed| Error::deadline(format!("{address} does not answer")))?
    }
}

fn event(input: impl Read) -> Result<Any> {
    let mut data = Vec::new();
    input.take(LONGEST).read_to_end(&mut data)?;
    let any = prost_types::Any::decode(data.as_slice())
        .map_err(|e| Error::caused(Kind::Unknown, "event", e))?;
    Ok(Any::new(any.type_url, any.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_an_any() {
        let sent = prost_types::Any { type_url: "t".into(), value: b"v".to_vec() };
        assert_eq!(event(sent.encode_to_vec().as_slice()).unwrap(), Any::new("t", "v"));
        assert!(event(&b"\xff\xff"[..]).is_err());
    }

    #[tokio::test]
    async fn an_event_needs_a_topic() {
        let publish = Publish { namespace: "n".into(), topic: String::new() };
        let refused = publish.run("/nowhere", &b""[..]).await.unwrap_err();
        assert_eq!(refused.to_string(), "topic required to publish event");
    }
}
