// SPDX-License-Identifier: Apache-2.0
//! What a runtime can do, asked of its program through the introspection service.
use std::{os::unix::fs::PermissionsExt, sync::Arc};

use api::containerd::{
    services::introspection::v1::{
        PluginInfoRequest, PluginInfoResponse, introspection_client::IntrospectionClient,
    },
    types::{RuntimeInfo, RuntimeRequest},
};
use events::Exchange;
use runtime::{Config, Shims, Timeouts};
use services::{
    Limits,
    introspection::{Identity, Plugin, serve_with_runtimes},
};
use tempfile::TempDir;
use tonic::{Code, Status, service::Routes};

use super::world::Served;

fn shims(directory: &TempDir) -> Arc<Shims> {
    let config = Config {
        root: directory.path().join("root"),
        state: directory.path().join("state"),
        address: String::new(),
        ttrpc_address: String::new(),
        publish_binary: "/bin/false".into(),
        beside: None,
        debug: false,
        version: String::new(),
        boot_id: String::new(),
        env: Vec::new(),
        grpc: None,
        timeouts: Timeouts::default(),
    };
    Shims::open(config, Arc::new(Exchange::new())).unwrap()
}

async fn ask(directory: &TempDir, runtime_path: &str) -> Result<PluginInfoResponse, Status> {
    let (kind, id) = ("io.containerd.runtime.v2".to_owned(), "task".to_owned());
    let plugin = Plugin { kind: kind.clone(), id: id.clone(), ..Plugin::default() };
    let plugins = vec![plugin].into();
    let shims = shims(directory);
    let service = serve_with_runtimes(Identity::default(), plugins, shims, Limits::default());
    let mut routes = Routes::builder();
    routes.add_service(service);
    let served = Served::new(routes.routes());
    let request = RuntimeRequest { runtime_path: runtime_path.to_owned(), options: None };
    let options = Some(api::pack(&request));
    let mut client = IntrospectionClient::new(served.channel().await);
    let answer = client.plugin_info(PluginInfoRequest { r#type: kind, id, options }).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_s_program_says_what_it_can_do() {
    let directory = TempDir::new().unwrap();
    let program = directory.path().join("shim");
    // A `containerd.types.RuntimeInfo` with a name.
    let script = "#!/bin/sh\n[ \"$1\" = -info ] && printf '\\012\\004mine'\n";
    fs_err::write(&program, script).unwrap();
    fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let answer = ask(&directory, program.to_str().unwrap()).await.unwrap();
    let info = api::unpack::<RuntimeInfo>(&answer.extra.unwrap()).unwrap().unwrap();
    assert_eq!(info.name, "mine");
    assert_eq!(answer.plugin.unwrap().id, "task");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_is_not_there_is_named() {
    let directory = TempDir::new().unwrap();
    let refused = ask(&directory, "io.containerd.bogus.v1").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(
        refused.message(),
        "failed to resolve runtime path: runtime \"io.containerd.bogus.v1\" binary not installed \
         \"containerd-shim-bogus-v1\": file does not exist"
    );
}
