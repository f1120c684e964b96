// SPDX-License-Identifier: Apache-2.0
//! A shim as a sandbox: what is started first and ended last of a group of containers.
//!
//! Compat: to runc there is no sandbox, so the shim itself stands for it, as in Go's (containerd
//! `cmd/containerd-shim-runc-v2/pause/sandbox.go`). It has no process but the shim's, stopping it
//! ends the shim, and while it is there a shim without tasks stays.
use std::{
    process,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use api::containerd::{
    runtime::sandbox::v1::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
        PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse,
        StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
        UpdateSandboxRequest, UpdateSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
    },
    types::Platform,
};
use async_trait::async_trait;
use bytes::Bytes;
use ttrpc::{Service, Status};

use crate::{
    Stop,
    task::{Activity, decode, encode},
};

/// How a sandbox is that can be used.
const READY: &str = "SANDBOX_READY";
/// How long the connection stays after the answer to who ended the sandbox.
const LINGER: Duration = Duration::from_millis(50);

/// The service. It is there from the start, and a sandbox once one is created.
pub(crate) struct Sandbox {
    activity: Arc<Activity>,
    stop: Stop,
    created_at: Mutex<Option<SystemTime>>,
}

impl Sandbox {
    pub(crate) fn new(activity: Arc<Activity>, stop: Stop) -> Self {
        Self { activity, stop, created_at: Mutex::new(None) }
    }

    fn create(&self, _: &CreateSandboxRequest) -> CreateSandboxResponse {
        *self.created_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        self.activity.keep();
        CreateSandboxResponse {}
    }

    fn start(&self, _: &StartSandboxRequest) -> StartSandboxResponse {
        StartSandboxResponse { pid: process::id(), created_at: self.created_at(), spec: None }
    }

    fn status(&self, request: SandboxStatusRequest) -> SandboxStatusResponse {
        SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: process::id(),
            state: READY.into(),
            created_at: self.created_at(),
            ..Default::default()
        }
    }

    /// Ends the shim, but not before its answer has been read.
    ///
    /// Compat: Go's client takes an answer that it finds beside the end of the connection for one
    /// that never came, every other time, and its daemon then fails the call ("ttrpc: closed").
    fn leave(&self) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            stop.now();
        });
    }

    async fn wait(&self) -> WaitSandboxResponse {
        self.stop.asked().await;
        WaitSandboxResponse { exit_status: 0, exited_at: Some(SystemTime::now().into()) }
    }

    fn created_at(&self) -> Option<prost_types::Timestamp> {
        let created_at = *self.created_at.lock().unwrap_or_else(PoisonError::into_inner);
        created_at.map(Into::into)
    }
}

#[async_trait]
impl Service for Sandbox {
    async fn call(&self, _: ttrpc::Context, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        match method {
            "CreateSandbox" => encode(Ok(self.create(&decode(payload)?))),
            "StartSandbox" => encode(Ok(self.start(&decode(payload)?))),
            "Platform" => {
                decode::<PlatformRequest>(payload)?;
                encode(Ok(PlatformResponse { platform: Some(platform()) }))
            }
            "StopSandbox" => {
                decode::<StopSandboxRequest>(payload)?;
                self.leave();
                encode(Ok(StopSandboxResponse {}))
            }
            "WaitSandbox" => {
                decode::<WaitSandboxRequest>(payload)?;
                encode(Ok(self.wait().await))
            }
            "SandboxStatus" => encode(Ok(self.status(decode(payload)?))),
            "PingSandbox" => {
                decode::<PingRequest>(payload)?;
                encode(Ok(PingResponse {}))
            }
            "ShutdownSandbox" => {
                decode::<ShutdownSandboxRequest>(payload)?;
                self.leave();
                encode(Ok(ShutdownSandboxResponse {}))
            }
            "SandboxMetrics" => {
                decode::<SandboxMetricsRequest>(payload)?;
                encode(Ok(SandboxMetricsResponse::default()))
            }
            "UpdateSandbox" => {
                decode::<UpdateSandboxRequest>(payload)?;
                encode(Ok(UpdateSandboxResponse {}))
            }
            other => Err(Status::unknown_method(other)),
        }
    }
}

/// What containers of this host run on, in OCI's words.
fn platform() -> Platform {
    let host = types::Platform::host();
    Platform { os: host.os, architecture: host.architecture, ..Default::default() }
}
