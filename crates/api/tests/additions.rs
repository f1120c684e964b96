// SPDX-License-Identifier: Apache-2.0

//! What `proto/` adds to the published definitions, of which no recording exists yet: the numbers
//! and wire types of the fields, against containerd's `api/next.txtpb`.

use std::fmt::Write;

use api::containerd::services::{
    mounts::v1 as mounts, sandbox::v1 as sandbox, snapshots::v1 as snapshots, tasks::v1 as tasks,
};
use api::containerd::types::{ActivationInfo, ActiveMount, Mount, Platform, transfer};
use api::containerd::{events, runc};
use api::grpc::health::v1 as health;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use prost::{Message, Name};
use prost_types::{Any, FieldMask, Timestamp};

/// Checks a message's name and the fields that are set in it: `v` is a varint, `b` is by length.
fn check<M: Message + Name>(message: &M, name: &str, fields: &str) {
    assert_eq!(M::full_name(), name);
    assert_eq!(keys(&message.encode_to_vec()), fields, "{name}");
}

/// Lists the fields of an encoded message, such as `1b 2v`.
fn keys(mut bytes: &[u8]) -> String {
    let mut keys = String::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).unwrap();
        skip_field(wire, number, &mut bytes, DecodeContext::default()).unwrap();
        let kind = if wire == WireType::Varint { 'v' } else { 'b' };
        write!(keys, "{number}{kind} ").unwrap();
    }
    keys.trim_end().to_owned()
}

fn text() -> String {
    "x".into()
}

fn labels() -> std::collections::BTreeMap<String, String> {
    [(text(), text())].into()
}

#[test]
fn a_task_can_be_created_where_a_task_service_listens() {
    let request = tasks::CreateTaskRequest {
        task_api_address: text(),
        task_api_version: 3,
        ..Default::default()
    };
    check(&request, "containerd.services.tasks.v1.CreateTaskRequest", "11b 12v");
}

#[test]
fn a_snapshot_can_be_committed_onto_a_parent() {
    let request = snapshots::CommitSnapshotRequest { parent: text(), ..Default::default() };
    check(&request, "containerd.services.snapshots.v1.CommitSnapshotRequest", "5b");
}

#[test]
fn a_started_sandbox_has_a_spec() {
    let reply =
        sandbox::ControllerStartResponse { spec: Some(Any::default()), ..Default::default() };
    check(&reply, "containerd.services.sandbox.v1.ControllerStartResponse", "7b");
}

#[test]
fn a_checkpoint_can_have_a_parent() {
    let options = runc::v1::CheckpointOptions { parent_path: text(), ..Default::default() };
    check(&options, "containerd.runc.v1.CheckpointOptions", "10b");
}

#[test]
fn created_content_has_a_media_type() {
    let event = events::ContentCreate { digest: text(), size: 1, media_type: text() };
    check(&event, "containerd.events.ContentCreate", "1b 2v 3b");
}

#[test]
fn a_platform_has_features() {
    let platform = Platform { os_features: vec![text()], ..Default::default() };
    check(&platform, "containerd.types.Platform", "5b");
}

#[test]
fn streams_and_paths_can_be_transferred() {
    let read = transfer::ReadStream { stream: text(), media_type: text() };
    check(&read, "containerd.types.transfer.ReadStream", "1b 2b");
    let write = transfer::WriteStream { stream: text(), media_type: text() };
    check(&write, "containerd.types.transfer.WriteStream", "1b 2b");
    let path = transfer::ContainerPath {
        container_id: text(),
        path: text(),
        no_walk: true,
        preserve_ownership: true,
    };
    check(&path, "containerd.types.transfer.ContainerPath", "1b 2b 3v 4v");
}

#[test]
fn mounts_can_be_activated() {
    let mount = ActiveMount {
        mount: Some(Mount::default()),
        mounted_at: Some(Timestamp::default()),
        mount_point: text(),
        data: labels(),
    };
    check(&mount, "containerd.types.ActiveMount", "1b 2b 3b 4b");
    let info = ActivationInfo {
        name: text(),
        active: vec![mount],
        system: vec![Mount::default()],
        labels: labels(),
    };
    check(&info, "containerd.types.ActivationInfo", "1b 2b 3b 4b");
    let request = mounts::ActivateRequest {
        name: text(),
        mounts: vec![Mount::default()],
        labels: labels(),
        temporary: true,
    };
    check(&request, "containerd.services.mounts.v1.ActivateRequest", "1b 2b 3b 4v");
    let reply = mounts::ActivateResponse { info: Some(info.clone()) };
    check(&reply, "containerd.services.mounts.v1.ActivateResponse", "1b");
    let request =
        mounts::UpdateRequest { info: Some(info), update_mask: Some(FieldMask::default()) };
    check(&request, "containerd.services.mounts.v1.UpdateRequest", "1b 2b");
}

#[test]
fn mounts_can_be_named_and_listed() {
    let request = mounts::InfoRequest { name: text() };
    check(&request, "containerd.services.mounts.v1.InfoRequest", "1b");
    let request = mounts::DeactivateRequest { name: text() };
    check(&request, "containerd.services.mounts.v1.DeactivateRequest", "1b");
    let request = mounts::ListRequest { filters: vec![text()] };
    check(&request, "containerd.services.mounts.v1.ListRequest", "1b");
    let message = mounts::ListMessage { info: Some(ActivationInfo::default()) };
    check(&message, "containerd.services.mounts.v1.ListMessage", "1b");
}

#[test]
fn health_is_grpcs_own_protocol() {
    let request = health::HealthCheckRequest { service: text() };
    check(&request, "grpc.health.v1.HealthCheckRequest", "1b");
    let status = health::health_check_response::ServingStatus::Serving;
    let reply = health::HealthCheckResponse { status: status.into() };
    check(&reply, "grpc.health.v1.HealthCheckResponse", "1v");
    assert_eq!(reply.encode_to_vec(), [8, 1]);
}
