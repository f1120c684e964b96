// SPDX-License-Identifier: Apache-2.0
//! Debian's docker-registry with tokens that it checks, and a server that issues them
//! (Docker's token authentication specification).
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use percent_encoding::percent_decode_str;
use registry::distribution_source;
use serde_json::{Value, json};
use types::Kind;

use crate::{
    bytes, client, client_as,
    docker::{Docker, docker_with, push_image},
    fake::{Fake, Reply, Seen},
    fetch, layer, reference,
};

/// `Basic u:p`.
const BASIC: &str = "Basic dTpw";

/// Signs as the registry's certificate says.
fn signed(folder: &Path, text: &str) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign", "key.pem"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

fn token(folder: &Path, access: &[Value]) -> String {
    let pem = fs_err::read_to_string(folder.join("cert.pem")).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    assert!(STANDARD.decode(&der).is_ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let body = json!({
        "iss": "tests", "sub": "u", "aud": "registry", "exp": now + 300, "nbf": now - 10,
        "iat": now, "jti": "1", "access": access,
    });
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(head), encode(body));
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signed(folder, &text)))
}

/// The scopes of a question, by GET or by POST.
fn scopes(seen: &Seen) -> Vec<String> {
    let form = String::from_utf8_lossy(&seen.body).into_owned();
    let query = seen.path.split_once('?').map_or("", |it| it.1);
    let values = query.split('&').chain(form.split('&')).filter_map(|it| it.strip_prefix("scope="));
    let plain = values.map(|value| percent_decode_str(value).decode_utf8().unwrap().into_owned());
    plain.flat_map(|scopes| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Everybody may pull; `u` with the password `p` may push.
fn issue(folder: &Path, seen: &Seen) -> Reply {
    let form = String::from_utf8_lossy(&seen.body);
    let is_known = seen.header("authorization") == BASIC
        || (form.contains("username=u") && form.contains("password=p"));
    let grant = |scope: String| {
        let mut parts = scope.splitn(3, ':').map(str::to_owned);
        let (kind, name) = (parts.next()?, parts.next()?);
        let wanted = parts.next()?;
        let actions: Vec<_> = wanted.split(',').filter(|it| is_known || *it == "pull").collect();
        Some(json!({ "type": kind, "name": name, "actions": actions }))
    };
    let access: Vec<_> = scopes(seen).into_iter().filter_map(grant).collect();
    let token = token(folder, &access);
    Reply::ok(json!({ "token": token, "access_token": token, "expires_in": 300 }).to_string())
}

/// A registry and its token server.
async fn guarded() -> Option<(Docker, Fake)> {
    let folder = Arc::<Mutex<PathBuf>>::default();
    let known = Arc::clone(&folder);
    let tokens = Fake::new(move |seen| issue(&known.lock().unwrap().clone(), seen)).await;
    let sections = format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: registry\n    issuer: tests\n    \
         rootcertbundle: FOLDER/cert.pem\n",
        tokens.host
    );
    let docker = docker_with(false, &sections)?;
    docker.folder.path().clone_into(&mut folder.lock().unwrap());
    Some((docker, tokens))
}

#[tokio::test]
async fn tokens_of_a_real_registry_are_fetched_per_scope() {
    let Some((docker, tokens)) = guarded().await else { return };
    let (name, data) = (format!("{}/some/image:1", docker.host), bytes(500_000));
    let registry = client_as("u", "p");
    let (manifest, _) = push_image(&registry, &name, &data).await;
    // One token pushes a whole image.
    assert_eq!(tokens.lines(), ["POST /token"]);
    let anonymous = client();
    assert_eq!(anonymous.resolve(&reference(&name)).await.unwrap(), manifest);
    assert_eq!(fetch(&anonymous, &name, &layer(&data), 0).await.unwrap(), data);
    assert_eq!(tokens.lines().len(), 2);
    let refused = anonymous.pusher(&reference(&format!("{}/other:1", docker.host))).unwrap();
    let error = refused.push(&layer(b"new")).await.err().unwrap();
    assert!(error.to_string().starts_with("push access denied"), "{error}");
    assert_eq!(error.kind(), Kind::Unknown);
}

#[tokio::test]
async fn a_token_for_both_repositories_mounts_a_blob_across() {
    let Some((docker, tokens)) = guarded().await else { return };
    let (base, target) = (format!("{}/base:1", docker.host), format!("{}/new:1", docker.host));
    let (registry, data) = (client_as("u", "p"), bytes(100_000));
    push_image(&registry, &base, &data).await;
    let mut what = layer(&data);
    what.annotations.extend([distribution_source(&reference(&base), None)]);
    let mounted = registry.pusher(&reference(&target)).unwrap().push(&what).await;
    assert_eq!(mounted.err().unwrap().kind(), Kind::AlreadyExists);
    let asked = tokens.seen().iter().map(scopes).collect::<Vec<_>>();
    let both = ["repository:base:pull", "repository:new:pull,push"].map(str::to_owned);
    assert!(asked.contains(&both.to_vec()), "{asked:?}");
    assert_eq!(fetch(&registry, &target, &layer(&data), 0).await.unwrap(), data);
}
