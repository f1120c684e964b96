// SPDX-License-Identifier: Apache-2.0

//! That every service a client may call exists, under the name that clients call it by.

use api::containerd::{services, task};
use api::grpc::health;

#[test]
fn every_service_has_the_name_that_clients_call() {
    let generated = [
        health::v1::health_server::SERVICE_NAME,
        services::containers::v1::containers_server::SERVICE_NAME,
        services::content::v1::content_server::SERVICE_NAME,
        services::diff::v1::diff_server::SERVICE_NAME,
        services::events::v1::events_server::SERVICE_NAME,
        services::images::v1::images_server::SERVICE_NAME,
        services::introspection::v1::introspection_server::SERVICE_NAME,
        services::leases::v1::leases_server::SERVICE_NAME,
        services::mounts::v1::mounts_server::SERVICE_NAME,
        services::namespaces::v1::namespaces_server::SERVICE_NAME,
        services::sandbox::v1::controller_server::SERVICE_NAME,
        services::sandbox::v1::store_server::SERVICE_NAME,
        services::snapshots::v1::snapshots_server::SERVICE_NAME,
        services::streaming::v1::streaming_server::SERVICE_NAME,
        services::tasks::v1::tasks_server::SERVICE_NAME,
        services::transfer::v1::transfer_server::SERVICE_NAME,
        services::version::v1::version_server::SERVICE_NAME,
        task::v3::task_server::SERVICE_NAME,
    ];
    let called = [
        "grpc.health.v1.Health",
        "containerd.services.containers.v1.Containers",
        "containerd.services.content.v1.Content",
        "containerd.services.diff.v1.Diff",
        "containerd.services.events.v1.Events",
        "containerd.services.images.v1.Images",
        "containerd.services.introspection.v1.Introspection",
        "containerd.services.leases.v1.Leases",
        "containerd.services.mounts.v1.Mounts",
        "containerd.services.namespaces.v1.Namespaces",
        "containerd.services.sandbox.v1.Controller",
        "containerd.services.sandbox.v1.Store",
        "containerd.services.snapshots.v1.Snapshots",
        "containerd.services.streaming.v1.Streaming",
        "containerd.services.tasks.v1.Tasks",
        "containerd.services.transfer.v1.Transfer",
        "containerd.services.version.v1.Version",
        "containerd.task.v3.Task",
    ];
    assert_eq!(generated, called);
}
