// SPDX-License-Identifier: Apache-2.0
//! Registries that are reached through proxies.
use std::{path::Path, sync::Arc};

use registry::{Host, Options, Proxies, Registry, Scheme, Tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use types::Kind;

use crate::{
    bytes,
    docker::{certificate, docker, push_image},
    fake::{Fake, Reply},
    fetch, layer, options,
};

fn through(scheme: Scheme, host: &str, variable: &str, proxy: &str) -> Registry {
    by(scheme, host, variable, &format!("http://u:p@{proxy}"))
}

fn by(scheme: Scheme, host: &str, variable: &str, proxy: &str) -> Registry {
    with(Tls { skip_verify: true, ..Tls::default() }, scheme, host, variable, proxy)
}

fn with(tls: Tls, scheme: Scheme, host: &str, variable: &str, proxy: &str) -> Registry {
    let host = Host { tls, ..Host::new(scheme, host) };
    let value = |name: &str| (name == variable).then(|| proxy.to_owned());
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

/// Speaks TLS with whoever comes, and passes on to `target` what they say.
async fn sealed(folder: &Path, target: String) -> (String, tokio::task::JoinHandle<()>) {
    let chain = CertificateDer::pem_file_iter(folder.join("cert.pem")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                // Who does not believe in us goes away.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect(target).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    (host, task)
}

#[tokio::test]
async fn a_proxy_may_be_reached_over_tls() {
    let Some(docker) = docker(true) else { return };
    let (plain, tunnelling) = tunnels(docker.host.clone()).await;
    let (proxy, sealing) = sealed(docker.folder.path(), plain).await;
    let registry = by(Scheme::Https, "r.example", "HTTPS_PROXY", &format!("https://u:p@{proxy}"));
    let data = bytes(2_000_000);
    push_image(&registry, "r.example/a:1", &data).await;
    assert_eq!(fetch(&registry, "r.example/a:1", &layer(&data), 0).await.unwrap(), data);
    let nobody = by(Scheme::Https, "r.example", "HTTPS_PROXY", &format!("https://u:q@{proxy}"));
    let error = fetch(&nobody, "r.example/a:1", &layer(&data), 0).await.unwrap_err();
    assert!(error.to_string().contains("proxyconnect tcp: 407 Proxy Auth"), "{error}");
    tunnelling.abort();
    sealing.abort();
}

/// What goes to a registry in plain text goes to such a proxy over TLS, and so does who we are.
#[tokio::test]
async fn a_proxy_that_nobody_vouches_for_is_told_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = certificate(folder.path()) else { return };
    let far = Fake::new(|_| Reply::ok("hi")).await;
    let (proxy, task) = sealed(folder.path(), far.host.clone()).await;
    let what = layer(b"hi");
    let pem = fs_err::read(folder.path().join("cert.pem")).unwrap();
    let with = |tls: Tls| {
        with(tls, Scheme::Http, "r.example", "HTTP_PROXY", &format!("https://u:p@{proxy}"))
    };
    let refused = fetch(&with(Tls::default()), "r.example/a:1", &what, 0).await.unwrap_err();
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    assert!(far.seen().is_empty());
    let trusting = with(Tls { authorities: vec![pem.into()], ..Tls::default() });
    assert_eq!(fetch(&trusting, "r.example/a:1", &what, 0).await.unwrap(), b"hi");
    let seen = &far.seen()[0];
    assert_eq!(seen.line(), format!("GET http://r.example/v2/a/blobs/{}", what.digest));
    assert_eq!(seen.header("proxy-authorization"), "Basic dTpw");
    task.abort();
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

/// A SOCKS proxy that connects whoever is `u` with the password `p` to `target`, if they ask for
/// `r.example`, port 80.
async fn socks(target: String) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move { serve_socks(&mut near, target).await });
        }
    });
    (host, task)
}

async fn serve_socks(near: &mut TcpStream, target: String) -> std::io::Result<()> {
    let mut methods = [0; 4];
    near.read_exact(&mut methods).await?;
    assert_eq!(methods, [5, 2, 0, 2]);
    near.write_all(&[5, 2]).await?;
    let mut login = [0; 5];
    near.read_exact(&mut login).await?;
    near.write_all(&[1, u8::from(login != *b"\x01\x01u\x01p")]).await?;
    let mut head = [0; 5];
    near.read_exact(&mut head).await?;
    let mut wanted = vec![0; usize::from(head[4]) + 2];
    near.read_exact(&mut wanted).await?;
    if wanted != b"r.example\0\x50" {
        return near.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    }
    let mut far = TcpStream::connect(target).await?;
    near.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 9]).await?;
    tokio::io::copy_bidirectional(near, &mut far).await.map(drop)
}

#[tokio::test]
async fn a_socks_proxy_is_told_who_we_are_and_where_to() {
    let far = Fake::new(|_| Reply::ok("hi")).await;
    let (proxy, task) = socks(far.host.clone()).await;
    let what = layer(b"hi");
    let with = |host: &str, user: &str| {
        by(Scheme::Http, host, "HTTP_PROXY", &format!("socks5://{user}@{proxy}"))
    };
    let data = fetch(&with("r.example", "u:p"), "r.example/a:1", &what, 0).await.unwrap();
    assert_eq!(data, b"hi");
    let seen = &far.seen()[0];
    assert_eq!(seen.line(), format!("GET /v2/a/blobs/{}", what.digest));
    assert_eq!(seen.header("proxy-authorization"), "");
    for (host, user, why) in [
        ("other.example", "u:p", "proxyconnect tcp: connection not allowed by ruleset"),
        ("r.example", "u:q", "proxyconnect tcp: username/password authentication failed"),
    ] {
        let refused = fetch(&with(host, user), "r.example/a:1", &what, 0).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
        assert_eq!(refused.kind(), Kind::Unavailable);
    }
    task.abort();
}
