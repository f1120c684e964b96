// SPDX-License-Identifier: Apache-2.0
use api::containerd::task::v3 as pb;
use serde_json::{Value, json};

use super::{bundle::process, driver::Driver};

fn grouped(spec: &mut Value, _: &mut pb::CreateTaskRequest) {
    spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "pod"});
}

#[tokio::test]
async fn containers_of_a_pod_share_a_shim_that_ends_with_the_last() {
    let driver = Driver::new();
    let sleep = process(&["sleep", "100"]);
    let first = driver.container("a", &sleep, grouped).await;
    let second = driver.container("b", &sleep, grouped).await;
    let alone = driver.container("c", &sleep, |_, _| {}).await;
    assert_eq!((first.pid, &first.address), (second.pid, &second.address));
    assert_ne!(first.pid, alone.pid);
    let address = fs_err::read_to_string(second.bundle.join("address")).unwrap();
    assert_eq!(address, first.address);

    for shim in [&first, &second, &alone] {
        shim.start("").await.unwrap();
        shim.kill("", 9, false).await.unwrap();
        shim.wait("").await.unwrap();
    }
    first.delete("").await.unwrap();
    first.nothing_is_left();
    first.shutdown().await.unwrap();
    second.state("").await.unwrap();
    second.delete("").await.unwrap();
    second.shutdown().await.unwrap();
    first.gone().await;
    alone.finish().await;
}
