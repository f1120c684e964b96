// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde::Deserialize;
use types::{Error, Kind, Result};

use super::{Credential, basic};
use crate::{
    Host, refusal,
    transport::{Answer, Message, Transport, encode},
};

/// The name under which containerd asks for tokens (containerd `core/remotes/docker/authorizer.go`).
const CLIENT_ID: &str = "containerd-client";
/// The longest answer of a token server that is read.
const MAX_ANSWER: usize = 1 << 20;
/// How long a token without a lifetime lives: the least that servers may give (Docker's token
/// authentication specification, `expires_in`).
const SHORTEST: Duration = Duration::from_mins(1);

/// Where a host's tokens come from: the answer to its challenge, without the scope.
pub(super) struct Issuer {
    pub(super) realm: Uri,
    pub(super) service: String,
    pub(super) credential: Option<Credential>,
}

/// A token, and until when it is worth trying.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    expires: Instant,
}

impl Token {
    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.expires
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Issuer {
    /// Asks for a token that is good for `scopes`: with a secret by POST as OAuth has it, and where
    /// that is not spoken, or without a secret, by GET.
    pub(super) async fn issue(
        &self,
        transport: &Transport,
        host: &Host,
        agent: &HeaderMap,
        scopes: &[String],
    ) -> Result<Token> {
        let what = match self.credential {
            Some(_) => "failed to fetch oauth token",
            None => "failed to fetch anonymous token",
        };
        let answer = match &self.credential {
            None => transport.exchange(host, &self.get(agent, scopes)?).await,
            Some(credential) => {
                let asked = transport.exchange(host, &self.post(agent, scopes, credential)).await;
                match asked {
                    Ok(answer) if !speaks_oauth(answer.status, credential) => {
                        transport.exchange(host, &self.get(agent, scopes)?).await
                    }
                    asked => asked,
                }
            }
        };
        let answer = answer.map_err(|lost| lost.error.context(what))?;
        read(answer).await.map_err(|error| error.context(what))
    }

    fn get(&self, agent: &HeaderMap, scopes: &[String]) -> Result<Message> {
        let mut query: Vec<String> = self.realm.query().map(str::to_owned).into_iter().collect();
        if !self.service.is_empty() {
            query.push(format!("service={}", encode(&self.service)));
        }
        query.extend(scopes.iter().map(|scope| format!("scope={}", encode(scope))));
        let bare = self.realm.to_string();
        let bare = bare.split('?').next().unwrap_or_default();
        let uri = format!("{bare}?{}", query.join("&"));
        let uri = uri.parse().map_err(|error| Error::caused(Kind::Unknown, uri, error))?;
        let private = self.credential.iter().map(|it| (header::AUTHORIZATION, basic(it))).collect();
        let open = agent.clone();
        Ok(Message { method: Method::GET, uri, open, private, body: Bytes::new(), listener: None })
    }

    fn post(&self, agent: &HeaderMap, scopes: &[String], credential: &Credential) -> Message {
        let secret = &credential.secret;
        let mut form = vec![("service", self.service.as_str()), ("client_id", CLIENT_ID)];
        let scope = scopes.join(" ");
        if !scope.is_empty() {
            form.push(("scope", &scope));
        }
        match credential.username.as_str() {
            "" => form.extend([("grant_type", "refresh_token"), ("refresh_token", secret)]),
            name => {
                let password =
                    [("grant_type", "password"), ("username", name), ("password", secret)];
                form.extend(password);
            }
        }
        let form: Vec<_> = form.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect();
        let mut open = agent.clone();
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        open.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Message {
            method: Method::POST,
            uri: self.realm.clone(),
            open,
            private: HeaderMap::new(),
            body: form.join("&").into(),
            listener: None,
        }
    }
}

/// Whether an answer is to be taken at its word. Registries without OAuth give these statuses:
/// GCR 404, Artifactory 401, ACR 400 (containerd `core/remotes/docker/authorizer.go`).
fn speaks_oauth(status: StatusCode, credential: &Credential) -> bool {
    match status.as_u16() {
        405 => credential.username.is_empty(),
        400 | 401 | 404 => false,
        _ => true,
    }
}

async fn read(mut answer: Answer) -> Result<Token> {
    if !answer.status.is_success() {
        return Err(refusal::unexpected(answer).await);
    }
    let (body, _) = answer.whole(MAX_ANSWER).await?;
    let reply: Reply = serde_json::from_slice(&body)
        .map_err(|error| Error::caused(Kind::Unknown, "unable to decode token response", error))?;
    token(&reply, Instant::now())
}

/// A token is used for nine tenths of its life, so that it does not expire on its way.
fn token(reply: &Reply, now: Instant) -> Result<Token> {
    let text = if reply.access_token.is_empty() { &reply.token } else { &reply.access_token };
    if text.is_empty() {
        let what = "authorization server did not include a token in the response";
        return Err(Error::said(Kind::Unknown, what));
    }
    let mut header = HeaderValue::try_from(format!("Bearer {text}"))
        .map_err(|error| Error::caused(Kind::Unknown, "token", error))?;
    header.set_sensitive(true);
    let said = Duration::from_secs(reply.expires_in.min(86_400));
    let life = if said.is_zero() { SHORTEST } else { said };
    Ok(Token { header, expires: now + life.mul_f32(0.9) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(credential: Option<Credential>) -> Issuer {
        let realm = "https://auth/token?a=b".parse().unwrap();
        Issuer { realm, service: "r.io".into(), credential }
    }

    #[test]
    fn a_token_is_asked_for_by_service_and_scope() {
        let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull".to_owned()];
        let asked = issuer(None).get(&HeaderMap::new(), &scopes).unwrap();
        let query = "a=b&service=r.io&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull";
        assert_eq!(asked.uri.query(), Some(query));
        assert!(asked.private.is_empty());
    }

    #[test]
    fn an_identity_token_is_exchanged_and_a_password_presented() {
        let scopes = ["s".to_owned()];
        let form = |credential: Credential| {
            let asked = issuer(None).post(&HeaderMap::new(), &scopes, &credential);
            String::from_utf8(asked.body.to_vec()).unwrap()
        };
        let start = "service=r.io&client_id=containerd-client&scope=s&grant_type=";
        let identity = form(Credential::identity_token("t&k"));
        assert_eq!(identity, format!("{start}refresh_token&refresh_token=t%26k"));
        let password = form(Credential::new("u", "p"));
        assert_eq!(password, format!("{start}password&username=u&password=p"));
    }

    #[test]
    fn a_token_lives_as_long_as_it_says_less_a_margin() {
        let now = Instant::now();
        let life = |json: &str| {
            let reply = serde_json::from_str(json).unwrap();
            token(&reply, now).map(|token| token.expires - now)
        };
        assert_eq!(life(r#"{"token":"t","expires_in":100}"#).unwrap().as_secs(), 90);
        assert_eq!(life(r#"{"access_token":"t"}"#).unwrap().as_secs(), 54);
        assert!(life(r#"{"token":""}"#).is_err());
    }
}
