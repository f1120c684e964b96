// SPDX-License-Identifier: Apache-2.0
//! A registry that misbehaves on demand.
//!
//! It serves images from memory as the OCI distribution spec says, except where a [`Fault`] has
//! been set for a [`Part`] of it. Everything asked of it is kept, so that a test can tell whether
//! a second attempt went on where the first stopped.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::http::{Request, endless_head, head};
use crate::image::{Blob, Packed};
use crate::process::locked;
use crate::{Context, Outcome};

/// What a fault is tied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Manifests by tag or digest.
    Manifests,
    /// Every blob.
    Blobs,
    /// The blob with this digest.
    Blob(String),
    /// The token endpoint.
    Tokens,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error status with the registry's kind of body.
    Status(u16),
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// The body stops after this many bytes, and the connection stays until the client ends it.
    Held(usize),
    /// The body comes in pieces of this many bytes, a pause after each.
    Slow(usize, Duration),
    /// The body has the right length and the wrong bytes.
    Corrupt,
    /// Too many requests: come back after this many seconds.
    Busy(u32),
    /// The same path at another host: `127.0.0.1:<port>`.
    Elsewhere(String),
    /// Whoever wants a part gets everything.
    NoRanges,
    /// This many bytes more than there are.
    Padded(usize),
    /// Zeros without end, and no word of how many.
    Endless,
}

/// Who may pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    Open,
    /// Whoever has this name and password.
    Basic(&'static str, &'static str),
    /// Whoever has a token, which the registry's own endpoint gives for this name and password.
    Bearer(&'static str, &'static str),
    /// Whoever has a token, which anybody is given.
    Anonymous,
    /// The same, but each token is good for this many requests.
    Fleeting(usize),
}

const TOKEN: &str = "a-token-of-the-tests";

/// One thing that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// GET or HEAD.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The first byte wanted, when the client asked for a range.
    pub from: Option<u64>,
    /// What it was answered.
    pub status: u16,
    /// What the client showed of who it is.
    pub authorization: Option<String>,
}

/// The registry. Dropping it ends it.
#[derive(Debug)]
pub struct KnobRegistry {
    address: SocketAddr,
    shelf: Arc<Shelf>,
    listener: Option<JoinHandle<()>>,
}

/// A fault that has been set.
#[derive(Debug)]
struct Set {
    part: Part,
    fault: Fault,
    /// How often it is still to happen; without end if none.
    left: Option<usize>,
}

#[derive(Debug, Default)]
struct Shelf {
    manifests: Mutex<HashMap<String, Blob>>,
    blobs: Mutex<HashMap<String, Blob>>,
    faults: Mutex<Vec<Set>>,
    /// How many tokens were given, and how often the last one was shown.
    tokens: Mutex<(usize, usize)>,
    /// How many blobs are being sent, and how many were at most.
    sending: Mutex<(usize, usize)>,
    auth: Mutex<Option<Auth>>,
    seen: Mutex<Vec<Seen>>,
    closed: AtomicBool,
}

impl KnobRegistry {
    /// Starts an empty one with nothing wrong with it.
    pub fn start() -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let address = listener.local_addr()?;
        let shelf = Arc::new(Shelf::default());
        let served = Arc::clone(&shelf);
        let thread = thread::spawn(move || accept(&listener, address, &served));
        Ok(Self { address, shelf, listener: Some(thread) })
    }

    /// Stores an image under `name:tag`; gives the reference to pull it by.
    pub fn put(&self, image: &Packed, name_and_tag: &str) -> Outcome<String> {
        let (name, tag) = name_and_tag.split_once(':').context("a name and a tag")?;
        let mut manifests = locked(&self.shelf.manifests);
        manifests.insert(format!("{name}/{tag}"), image.root.clone());
        for manifest in std::iter::once(&image.root).chain(&image.manifests) {
            manifests.insert(format!("{name}/{}", manifest.digest), manifest.clone());
        }
        let mut blobs = locked(&self.shelf.blobs);
        image.blobs().for_each(|blob| drop(blobs.insert(blob.digest.clone(), blob.clone())));
        Ok(format!("{}/{name_and_tag}", self.address))
    }

    /// `127.0.0.1:<port>`: where it is.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Makes a part of it go wrong from now on.
    pub fn fault(&self, part: Part, fault: Fault) {
        locked(&self.shelf.faults).push(Set { part, fault, left: None });
    }

    /// Makes a part of it go wrong the next `times` that it is asked for, before what else is set.
    pub fn fault_at_first(&self, times: usize, part: Part, fault: Fault) {
        locked(&self.shelf.faults).insert(0, Set { part, fault, left: Some(times) });
    }

    /// Stores a manifest under `name:tag` and its digest; gives the reference to pull it by.
    pub fn put_manifest(&self, manifest: &Blob, name_and_tag: &str) -> Outcome<String> {
        let (name, tag) = name_and_tag.split_once(':').context("a name and a tag")?;
        let mut manifests = locked(&self.shelf.manifests);
        for reference in [tag, &manifest.digest] {
            manifests.insert(format!("{name}/{reference}"), manifest.clone());
        }
        Ok(format!("{}/{name_and_tag}", self.address))
    }

    /// Makes everything right again.
    pub fn heal(&self) {
        locked(&self.shelf.faults).clear();
    }

    /// Says who may pull.
    pub fn auth(&self, auth: Auth) {
        *locked(&self.shelf.auth) = Some(auth);
    }

    /// How many blobs were on their way at once, at most.
    pub fn most_blobs_at_once(&self) -> usize {
        locked(&self.shelf.sending).1
    }

    /// Everything that was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.shelf.seen).clone()
    }
}

impl Drop for KnobRegistry {
    fn drop(&mut self) {
        self.shelf.closed.store(true, Ordering::SeqCst);
        // The listener looks at the flag when somebody connects.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.listener.take() {
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, address: SocketAddr, shelf: &Arc<Shelf>) {
    for stream in listener.incoming() {
        if shelf.closed.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shelf = Arc::clone(shelf);
        // A client that goes away in the middle is part of what is tested.
        thread::spawn(move || drop(serve(&stream, address, &shelf)));
    }
}

fn serve(stream: &TcpStream, address: SocketAddr, shelf: &Shelf) -> Outcome {
    let request = Request::read(stream)?;
    let reply = shelf.reply(&request, address);
    locked(&shelf.seen).push(Seen {
        method: request.method.clone(),
        path: request.path.clone(),
        from: range(&request).map(|(first, _)| first),
        status: reply.status,
        authorization: request.headers.first("authorization").map(str::to_owned),
    });
    let is_blob = request.path.contains("/blobs/") && reply.status < 300;
    if is_blob {
        let mut sending = locked(&shelf.sending);
        *sending = (sending.0 + 1, sending.1.max(sending.0 + 1));
    }
    // It counts until its last bytes are sent: from then on, the client may want something else.
    let ending = Ending { shelf: is_blob.then_some(shelf) };
    reply.send(stream, request.method == "HEAD", &shelf.closed, ending)
}

/// A blob that is being sent, until this is dropped.
struct Ending<'a> {
    shelf: Option<&'a Shelf>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(shelf) = self.shelf {
            locked(&shelf.sending).0 -= 1;
        }
    }
}

impl Shelf {
    fn reply(&self, request: &Request, address: SocketAddr) -> Reply {
        let path = request.path.trim_start_matches("/v2/");
        let fault = self.fault_for(&request.path);
        if let Some(Fault::Status(status)) = fault {
            return Reply::error(status, "DENIED_BY_TEST", "this registry was told to say so");
        }
        if let Some(Fault::Busy(seconds)) = fault {
            let mut reply = Reply::error(429, "TOOMANYREQUESTS", "slow down");
            reply.headers.push(("Retry-After", seconds.to_string()));
            return reply;
        }
        let auth = locked(&self.auth).clone().unwrap_or(Auth::Open);
        if request.path == "/token" {
            return self.token(&auth, request);
        }
        if !self.admitted(&auth, request) {
            return challenge(&auth, address, path);
        }
        if let Some(Fault::Elsewhere(host)) = fault {
            let mut reply = Reply::json(307, &json!({}));
            reply.headers.push(("Location", format!("http://{host}{}", request.path)));
            return reply;
        }
        let found = match (path.rsplit_once("/manifests/"), path.rsplit_once("/blobs/")) {
            (Some((name, reference)), _) => {
                locked(&self.manifests).get(&format!("{name}/{reference}")).cloned()
            }
            (_, Some((_, digest))) => locked(&self.blobs).get(digest).cloned(),
            _ => return Reply::json(200, &json!({})),
        };
        match found {
            Some(blob) => Reply::blob(blob, range(request), fault),
            None => Reply::error(404, "MANIFEST_UNKNOWN", "nothing of that name"),
        }
    }

    fn fault_for(&self, path: &str) -> Option<Fault> {
        let hit = |part: &Part| match part {
            Part::Manifests => path.contains("/manifests/"),
            Part::Blobs => path.contains("/blobs/"),
            Part::Blob(digest) => path.ends_with(digest.as_str()),
            Part::Tokens => path == "/token",
        };
        let mut faults = locked(&self.faults);
        let set = faults.iter_mut().find(|set| hit(&set.part) && set.left != Some(0))?;
        set.left = set.left.map(|left| left - 1);
        Some(set.fault.clone())
    }

    fn admitted(&self, auth: &Auth, request: &Request) -> bool {
        let given = request.headers.first("authorization");
        match auth {
            Auth::Open => true,
            Auth::Basic(name, password) => given == Some(basic(name, password).as_str()),
            Auth::Bearer(..) | Auth::Anonymous => given == Some(&format!("Bearer {TOKEN}")),
            Auth::Fleeting(uses) => {
                let mut tokens = locked(&self.tokens);
                let is_last = given == Some(&format!("Bearer {TOKEN}-{}", tokens.0));
                tokens.1 += usize::from(is_last);
                is_last && tokens.1 <= *uses
            }
        }
    }

    /// Distribution's token specification: <https://distribution.github.io/distribution/spec/auth/token/>.
    fn token(&self, auth: &Auth, request: &Request) -> Reply {
        if let Auth::Fleeting(_) = auth {
            let mut tokens = locked(&self.tokens);
            *tokens = (tokens.0 + 1, 0);
            let token = format!("{TOKEN}-{}", tokens.0);
            return Reply::json(200, &json!({ "token": token, "expires_in": 300 }));
        }
        token(auth, request)
    }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn token(auth: &Auth, request: &Request) -> Reply {
    let given = request.headers.first("authorization");
    let form = String::from_utf8_lossy(&request.body);
    let known = match auth {
        Auth::Bearer(name, password) => {
            // Either kind of request carries it: GET in a header, OAuth2's POST in a form.
            given == Some(basic(name, password).as_str())
                || (form.contains(&format!("username={name}"))
                    && form.contains(&format!("password={password}")))
        }
        _ => true,
    };
    if known {
        Reply::json(200, &json!({ "token": TOKEN, "access_token": TOKEN, "expires_in": 300 }))
    } else {
        Reply::error(401, "UNAUTHORIZED", "who are you")
    }
}

fn challenge(auth: &Auth, address: SocketAddr, path: &str) -> Reply {
    let name = path.split("/manifests/").next().unwrap_or(path);
    let name = name.split("/blobs/").next().unwrap_or(name);
    let words = match auth {
        Auth::Basic(..) => "Basic realm=\"tests\"".to_owned(),
        _ => format!(
            "Bearer realm=\"http://{address}/token\",service=\"tests\",scope=\"repository:{name}:pull\""
        ),
    };
    let mut reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
    reply.headers.push(("WWW-Authenticate", words));
    reply
}

/// The first byte that a client wants, and the last if it says so, from `Range: bytes=<first>-<last>`.
fn range(request: &Request) -> Option<(u64, Option<u64>)> {
    let range = request.headers.first("range")?.strip_prefix("bytes=")?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    fault: Option<Fault>,
}

impl Reply {
    fn json(status: u16, value: &serde_json::Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self { status, headers, body: value.to_string().into_bytes(), fault: None }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))
    }

    fn blob(blob: Blob, range: Option<(u64, Option<u64>)>, fault: Option<Fault>) -> Self {
        let total = blob.bytes.len();
        let mut body = blob.bytes;
        if matches!(fault, Some(Fault::Corrupt)) {
            body = body.iter().map(|byte| byte ^ 0x55).collect();
        }
        let mut headers =
            vec![("Content-Type", blob.media_type), ("Docker-Content-Digest", blob.digest)];
        if let Some(Fault::Padded(count)) = fault {
            body.resize(total + count, 0);
        }
        let range = range.filter(|_| !matches!(fault, Some(Fault::NoRanges)));
        let Some((first, last)) = range else {
            return Self { status: 200, headers, body, fault };
        };
        let from = (first as usize).min(total);
        let end = last.map_or(total, |last| (last as usize + 1).clamp(from, total));
        headers.push(("Content-Range", format!("bytes {from}-{}/{total}", end.max(1) - 1)));
        body.truncate(end);
        Self { status: 206, headers, body: body.split_off(from), fault }
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        head_only: bool,
        closed: &AtomicBool,
        ending: Ending<'_>,
    ) -> Outcome {
        let mut ending = Some(ending);
        if let (Some(Fault::Endless), false) = (&self.fault, head_only) {
            stream.write_all(endless_head().as_bytes())?;
            let zeros = vec![0; 64 * 1024];
            while !closed.load(Ordering::SeqCst) {
                stream.write_all(&zeros)?;
            }
            return Ok(());
        }
        stream.write_all(head(self.status, self.body.len(), &self.headers).as_bytes())?;
        if head_only {
            return Ok(());
        }
        match self.fault {
            Some(Fault::Cut(after)) => {
                stream.write_all(&self.body[..after.min(self.body.len())])?;
            }
            Some(Fault::Held(after)) => {
                stream.write_all(&self.body[..after.min(self.body.len())])?;
                hold(stream, closed)?;
            }
            Some(Fault::Slow(piece, pause)) => {
                let mut rest = self.body.len();
                for chunk in self.body.chunks(piece.max(1)) {
                    rest -= chunk.len();
                    if rest == 0 {
                        drop(ending.take());
                    }
                    stream.write_all(chunk)?;
                    if closed.load(Ordering::SeqCst) {
                        break;
                    }
                    thread::sleep(pause);
                }
            }
            _ => {
                drop(ending.take());
                stream.write_all(&self.body)?;
            }
        }
        Ok(())
    }
}

/// Waits until the client is gone, or the registry closes.
fn hold(mut stream: &TcpStream, closed: &AtomicBool) -> Outcome {
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    while !closed.load(Ordering::SeqCst) {
        match stream.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::http::ask;
    use crate::image::{Image, Layer};

    use super::*;

    fn stocked() -> Outcome<(KnobRegistry, Packed)> {
        let registry = KnobRegistry::start()?;
        let image = Image::new(vec![Layer::text("a", 1000, 1)]).pack()?;
        registry.put(&image, "tools/a:1")?;
        Ok((registry, image))
    }

    fn get(registry: &KnobRegistry, path: &str) -> Outcome<(u16, Vec<u8>)> {
        let answer = ask(registry.address, "GET", path, &[], b"")?;
        Ok((answer.status, answer.body))
    }

    #[test]
    fn a_manifest_is_served_by_tag_and_by_digest() -> Outcome {
        let (registry, image) = stocked()?;
        let digest = &image.root.digest;
        assert_eq!(get(&registry, "/v2/tools/a/manifests/1")?, (200, image.root.bytes.clone()));
        assert_eq!(get(&registry, &format!("/v2/tools/a/manifests/{digest}"))?.0, 200);
        assert_eq!(get(&registry, "/v2/tools/a/manifests/2")?.0, 404);
        Ok(())
    }

    #[test]
    fn a_cut_body_is_shorter_than_it_says() -> Outcome {
        let (registry, image) = stocked()?;
        registry.fault(Part::Blobs, Fault::Cut(10));
        let path = format!("/v2/tools/a/blobs/{}", image.layers[0].digest);
        assert_eq!(get(&registry, &path)?.1.len(), 10);
        registry.heal();
        assert_eq!(get(&registry, &path)?.1, image.layers[0].bytes);
        Ok(())
    }

    #[test]
    fn without_a_token_nobody_is_served() -> Outcome {
        let (registry, _) = stocked()?;
        registry.auth(Auth::Bearer("me", "secret"));
        assert_eq!(get(&registry, "/v2/tools/a/manifests/1")?.0, 401);
        assert_eq!(get(&registry, "/token")?.0, 401);
        assert_eq!(registry.seen().len(), 2);
        Ok(())
    }
}
