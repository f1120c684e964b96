// SPDX-License-Identifier: Apache-2.0
//! Registries that are reached through proxies.
use std::sync::Arc;

use registry::{Host, Options, Proxies, Registry, Scheme, Tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use types::Kind;

use crate::{
    bytes,
    docker::{docker, push_image},
    fake::{Fake, Reply},
    fetch, layer, options,
};

fn through(scheme: Scheme, host: &str, variable: &str, proxy: &str) -> Registry {
    let tls = Tls { skip_verify: true, ..Tls::default() };
    let host = Host { tls, ..Host::new(scheme, host) };
    let value = |name: &str| (name == variable).then(|| format!("http://u:p@{proxy}"));
    Registry::new(Options {
        hosts: Arc::new(move |_| Ok(vec![host.clone()])),
        proxies: Proxies::new(value).unwrap(),
        ..options()
    })
}

#[tokio::test]
async fn plain_text_goes_through_a_proxy_that_is_told_where_to() {
    let proxy = Fake::new(|_| Reply::ok("hi")).await;
    let registry = through(Scheme::Http, "r.example", "HTTP_PROXY", &proxy.host);
    let what = layer(b"hi");
    assert_eq!(fetch(&registry, "r.example/a:1", &what, 0).await.unwrap(), b"hi");
    let seen = &proxy.seen()[0];
    assert_eq!(seen.line(), format!("GET http://r.example/v2/a/blobs/{}", what.digest));
    assert_eq!(seen.header("proxy-authorization"), "Basic dTpw");
}

/// A proxy that connects whoever shows `Basic dTpw` to `target`, whatever they ask for.
async fn tunnels(target: String) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    near.read_buf(&mut head).await.unwrap();
                }
                let head = String::from_utf8(head).unwrap();
                if !head.starts_with("CONNECT r.example:443 ") || !head.contains("Basic dTpw") {
                    near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                        .await
                        .unwrap();
                    return;
                }
                let mut far = TcpStream::connect(target).await.unwrap();
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    (host, task)
}

#[tokio::test]
async fn tls_goes_through_a_tunnel() {
    let Some(docker) = docker(true) else { return };
    let (proxy, task) = tunnels(docker.host.clone()).await;
    let registry = through(Scheme::Https, "r.example", "HTTPS_PROXY", &proxy);
    let data = bytes(2_000_000);
    push_image(&registry, "r.example/a:1", &data).await;
    assert_eq!(fetch(&registry, "r.example/a:1", &layer(&data), 0).await.unwrap(), data);
    // Another host is not let through.
    let refused = through(Scheme::Https, "other.example", "HTTPS_PROXY", &proxy);
    let error = fetch(&refused, "r.example/a:1", &layer(&data), 0).await.unwrap_err();
    assert!(error.to_string().contains("proxyconnect tcp: 407 Proxy Auth"), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
    task.abort();
}
