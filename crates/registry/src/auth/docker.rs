// SPDX-License-Identifier: Apache-2.0
//! Credentials as Docker keeps them: in its `config.json`, or with programs that it names there
//! (Docker `cli/config/configfile`, docker-credential-helpers `client/client.go`).
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use types::{Error, Kind, Result};

use super::{Credential, Credentials};

/// Under what name Docker keeps the credentials for its hub.
const HUB: &str = "https://index.docker.io/v1/";
/// How long a program may take to say who we are.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the programs say when they know nothing.
const UNKNOWN: &str = "credentials not found in native keychain";
/// The name in an answer whose secret is an identity token.
const TOKEN: &str = "<token>";

/// The credentials in a `config.json` of Docker's, and those that the programs know that it names.
/// The file is read anew each time somebody asks.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    path: PathBuf,
}

impl DockerConfig {
    /// The credentials in the file at `path`, or in `config.json` in the folder there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { path: if path.is_dir() { path.join("config.json") } else { path } }
    }

    fn read(&self) -> Result<File> {
        let text = match fs_err::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(File::default());
            }
            Err(error) => return Err(Error::caused(Kind::Unknown, "credentials", error)),
        };
        let bad =
            |error| Error::caused(Kind::InvalidArgument, self.path.display().to_string(), error);
        serde_json::from_slice(&text).map_err(bad)
    }
}

#[async_trait]
impl Credentials for DockerConfig {
    async fn credential(&self, host: &str) -> Result<Option<Credential>> {
        let file = self.read()?;
        if let Some(program) = file.program(host) {
            let found = ask(&program, host).await?;
            return Ok(found.map(|it| it.from_source(format!("docker-credential-{program}"))));
        }
        let found = file.entry(host).map(Entry::credential).transpose()?.flatten();
        Ok(found.map(|it| it.from_source(self.path.display().to_string())))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl File {
    /// The program that knows the credentials for `host`.
    fn program(&self, host: &str) -> Option<String> {
        let own = self.cred_helpers.iter().find(|(key, _)| is_for(key, host)).map(|it| it.1);
        let any = Some(&self.creds_store).filter(|program| !program.is_empty());
        own.or(any).cloned()
    }

    fn entry(&self, host: &str) -> Option<&Entry> {
        let exact = self.auths.get(host);
        exact.or_else(|| self.auths.iter().find(|(key, _)| is_for(key, host)).map(|it| it.1))
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::header(format!("Bearer {}", self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::identity_token(&*self.identitytoken)));
        }
        if self.auth.is_empty() {
            let is_said = !self.username.is_empty();
            return Ok(is_said.then(|| Credential::new(&*self.username, &*self.password)));
        }
        let bad = || Error::invalid("invalid auth configuration file");
        let plain =
            STANDARD.decode(self.auth.trim()).ok().and_then(|it| String::from_utf8(it).ok());
        let plain = plain.ok_or_else(bad)?;
        let (name, password) = plain.split_once(':').ok_or_else(bad)?;
        Ok(Some(Credential::new(name, password.trim_end_matches('\0'))))
    }
}

/// Whether a key such as `https://r.io/v1/` means `host`. The hub has several names.
fn is_for(key: &str, host: &str) -> bool {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or_default();
    let hub = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    bare == host || (hub(bare) && hub(host))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the program called `docker-credential-<program>` who we are to `host`.
async fn ask(program: &str, host: &str) -> Result<Option<Credential>> {
    if program.contains('/') {
        return Err(Error::invalid(format!("{program:?} is no name of a credential helper")));
    }
    let program = format!("docker-credential-{program}");
    let server = if is_for(HUB, host) { HUB } else { host };
    let answered = timeout(PATIENCE, run(Path::new(&program), server)).await;
    let late = |_elapsed| Error::deadline(format!("{program}: no answer within {PATIENCE:?}"));
    let output = answered
        .map_err(late)?
        .map_err(|error| Error::caused(Kind::Unknown, program.clone(), error))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = said.trim();
        return match said {
            UNKNOWN => Ok(None),
            _ => Err(Error::said(Kind::Unknown, format!("{program}: {}: {said}", output.status))),
        };
    }
    let answer: Answer = serde_json::from_str(&said)
        .map_err(|error| Error::caused(Kind::Unknown, format!("{program}: its answer"), error))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN => Credential::identity_token(answer.secret),
        name => Credential::new(name, answer.secret),
    }))
}

async fn run(program: &Path, server: &str) -> std::io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read what it is asked still has to answer.
        drop(stdin.write_all(server.as_bytes()).await);
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("config.json"), text).unwrap();
        let config = DockerConfig::new(folder.path());
        (folder, config)
    }

    async fn found(text: &str, host: &str) -> Option<Credential> {
        let (_folder, config) = config(text);
        let found = config.credential(host).await.unwrap();
        found.map(|it| it.from_source(""))
    }

    #[tokio::test]
    async fn names_and_passwords_are_kept_by_host_under_whatever_url() {
        let text = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOmE6Yg=="},
            "r.io:5000":{"username":"u","password":"p"},
            "https://t.io/v2/":{"identitytoken":"long"},
            "b.io":{"registrytoken":"ready"},
            "e.io":{}}}"#;
        let at = |host| found(text, host);
        for hub in ["docker.io", "registry-1.docker.io"] {
            assert_eq!(at(hub).await, Some(Credential::new("hub", "a:b")));
        }
        assert_eq!(at("r.io:5000").await, Some(Credential::new("u", "p")));
        assert_eq!(at("t.io").await, Some(Credential::identity_token("long")));
        assert_eq!(at("b.io").await, Some(Credential::header("Bearer ready")));
        assert_eq!(at("e.io").await, None);
        assert_eq!(at("r.io").await, None);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_knows_nobody_and_one_that_makes_no_sense_is_named() {
        assert_eq!(DockerConfig::new("/nowhere").credential("r.io").await.unwrap(), None);
        let (folder, config) = config("{");
        let error = config.credential("r.io").await.unwrap_err().to_string();
        assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_host_has_its_own_program_or_the_one_for_all() {
        let text = r#"{"credHelpers":{"gcr.io":"gcloud"},"credsStore":"pass"}"#;
        let file: File = serde_json::from_str(text).unwrap();
        assert_eq!(file.program("gcr.io").as_deref(), Some("gcloud"));
        assert_eq!(file.program("r.io").as_deref(), Some("pass"));
    }

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("docker-credential-test");
        sys::program::install(&path, format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_is_asked_by_its_protocol() {
        let folder = tempfile::tempdir().unwrap();
        let answer = r#"printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$(cat)" "$1""#;
        let path = script(folder.path(), answer);
        let output = run(&path, "r.io").await.unwrap();
        let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((answer.username.as_str(), answer.secret.as_str()), ("get", "s"));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"r.io\""));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_and_a_path_is_no_name() {
        let error = ask("of-nobody-at-all", "r.io").await.unwrap_err().to_string();
        assert!(error.starts_with("docker-credential-of-nobody-at-all: "), "{error}");
        assert!(ask("../sh", "r.io").await.is_err());
    }
}
