// SPDX-License-Identifier: Apache-2.0
//! The text of a `hosts.toml`. Hosts are tried in the order in which they are written, which is why
//! it is read with places and not into a map.
use std::{
    borrow::Cow,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use types::{Error, Kind, Result};

use crate::{Capabilities, Scheme, reference::is_host};

/// One host of a file, or the server at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Where it is; none for a server that is where its name says.
    pub(super) place: Option<Place>,
    pub(super) capabilities: Capabilities,
    pub(super) authorities: Vec<PathBuf>,
    /// Certificates and their keys; without a key of its own, a certificate's file has it too.
    pub(super) identities: Vec<(PathBuf, Option<PathBuf>)>,
    pub(super) skip_verify: Option<bool>,
    pub(super) headers: HeaderMap,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) socket: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) path: String,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            place: None,
            capabilities: Capabilities::ALL,
            authorities: Vec::new(),
            identities: Vec::new(),
            skip_verify: None,
            headers: HeaderMap::new(),
            connect_timeout: None,
            socket: None,
        }
    }
}

impl Section {
    pub(super) fn says_tls(&self) -> bool {
        !self.authorities.is_empty() || !self.identities.is_empty() || self.skip_verify.is_some()
    }
}

/// Reads the text of the file at `path`: its hosts in order, and the server last. What has no effect
/// is added to `complaints`.
///
/// Errors: `InvalidArgument`, with `path:line:` before what is wrong there.
pub(super) fn parse(text: &str, path: &Path, complaints: &mut Vec<String>) -> Result<Vec<Section>> {
    let mut reader = Reader { text, path, complaints };
    let root = DeTable::parse(text)
        .map_err(|error| reader.bad(error.span().unwrap_or_default(), error.message()))?;
    let root = root.get_ref();
    let mut sections = Vec::new();
    if let Some((_, hosts)) = root.iter().find(|(key, _)| is(key, "host")) {
        let table = hosts.get_ref().as_table();
        let table = table.ok_or_else(|| reader.wrong("host", hosts, "a table of hosts"))?;
        let mut hosts: Vec<_> = table.iter().collect();
        hosts.sort_by_key(|(key, _)| key.span().start);
        for (url, value) in hosts {
            let table = value.get_ref().as_table();
            let table = table.ok_or_else(|| reader.wrong(url.get_ref(), value, "a table"))?;
            sections.push(reader.section(Some((url.get_ref(), url.span())), table, false)?);
        }
    }
    let server = root.iter().find(|(key, _)| is(key, "server"));
    let server = match server {
        Some((_, value)) => Some((reader.text("server", value)?, value.span())),
        None => None,
    };
    let server = server.filter(|(url, _)| !url.is_empty());
    sections.push(reader.section(server, root, true)?);
    Ok(sections)
}

/// Compat: keys are found whatever their case, as go-toml finds them.
fn is(key: &Spanned<Cow<'_, str>>, name: &str) -> bool {
    key.get_ref().eq_ignore_ascii_case(name)
}

type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    complaints: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn section(
        &mut self,
        url: Option<(&str, Range<usize>)>,
        table: &DeTable<'_>,
        is_root: bool,
    ) -> Result<Section> {
        let mut section = Section::default();
        let mut override_path = false;
        for (key, value) in table {
            let name = key.get_ref().to_ascii_lowercase();
            match name.as_str() {
                "capabilities" => section.capabilities = self.capabilities(value)?,
                "ca" => section.authorities = self.paths("ca", value)?,
                "client" => section.identities = self.identities(value)?,
                "skip_verify" => section.skip_verify = Some(self.flag("skip_verify", value)?),
                "override_path" => override_path = self.flag("override_path", value)?,
                "header" => section.headers = self.headers(value)?,
                "dial_timeout" => section.connect_timeout = self.timeout(value)?,
                "dial_addr" => section.socket = self.socket(value)?,
                "server" | "host" if is_root => {}
                _ => {
                    let what = format!("{:?} is not known, and has no effect", key.get_ref());
                    self.complaints.push(self.located(key.span(), &what));
                }
            }
        }
        if let Some((url, span)) = url {
            section.place = Some(self.place(url, span, override_path)?);
        }
        Ok(section)
    }

    /// Reads where a host is: `https://` is added, and the version of the protocol unless the path
    /// is said to be whole.
    fn place(&self, url: &str, span: Range<usize>, whole: bool) -> Result<Place> {
        let bad =
            |why: &str| self.bad(span.clone(), &format!("unable to parse server {url}: {why}"));
        let full = if url.starts_with("http") { url.to_owned() } else { format!("https://{url}") };
        let uri: Uri =
            full.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(bad("neither http:// nor https://")),
        };
        let authority = uri.authority().map_or("", |it| it.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if !is_host(host) {
            return Err(bad("no name of a host"));
        }
        let parts = clean(uri.path()).ok_or_else(|| bad("a path that climbs"))?;
        let version = (!whole && parts.last() != Some(&"v2")).then_some("v2");
        let path = parts.into_iter().chain(version).flat_map(|part| ["/", part]).collect();
        Ok(Place { scheme, host: host.to_owned(), path })
    }

    fn capabilities(&self, value: &Value<'_>) -> Result<Capabilities> {
        let names = self.array("capabilities", value)?;
        if names.is_empty() {
            return Ok(Capabilities::ALL);
        }
        let mut may = Capabilities { pull: false, resolve: false, push: false, referrers: false };
        for item in names {
            match self.text("capabilities", item)?.to_ascii_lowercase().as_str() {
                "pull" => may.pull = true,
                "resolve" => may.resolve = true,
                "push" => may.push = true,
                "referrers" => may.referrers = true,
                other => {
                    return Err(self.bad(item.span(), &format!("unknown capability {other}")));
                }
            }
        }
        Ok(may)
    }

    fn headers(&self, value: &Value<'_>) -> Result<HeaderMap> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.wrong("header", value, "a table of headers"))?;
        let mut headers = HeaderMap::new();
        for (key, value) in table {
            let name = HeaderName::from_bytes(key.get_ref().as_bytes())
                .map_err(|error| self.bad(key.span(), &format!("{:?}: {error}", key.get_ref())))?;
            for (text, span) in self.texts(key.get_ref(), value)? {
                let mut value = HeaderValue::from_str(text)
                    .map_err(|error| self.bad(span, &format!("header {name}: {error}")))?;
                value.set_sensitive(true);
                headers.append(&name, value);
            }
        }
        Ok(headers)
    }

    /// One file, several, or pairs of a certificate and its key.
    fn identities(&self, value: &Value<'_>) -> Result<Vec<(PathBuf, Option<PathBuf>)>> {
        let Some(items) = value.get_ref().as_array() else {
            return Ok(vec![(self.absolute(self.text("client", value)?), None)]);
        };
        let identity = |item: &Value<'_>| match item.get_ref().as_array() {
            None => Ok((self.absolute(self.text("client", item)?), None)),
            Some(_) => match self.paths("client", item)?.as_slice() {
                [certificate, key] => Ok((certificate.clone(), Some(key.clone()))),
                _ => Err(self.wrong("client", item, "a pair of a certificate and its key")),
            },
        };
        items.iter().map(identity).collect()
    }

    fn timeout(&self, value: &Value<'_>) -> Result<Option<Duration>> {
        let text = self.text("dial_timeout", value)?;
        if text.is_empty() {
            return Ok(None);
        }
        let what = || self.bad(value.span(), &format!("time: invalid duration {text:?}"));
        duration(text).map(Some).ok_or_else(what)
    }

    fn socket(&self, value: &Value<'_>) -> Result<Option<PathBuf>> {
        let text = self.text("dial_addr", value)?;
        if text.is_empty() {
            return Ok(None);
        }
        let path = text.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let what = || self.bad(value.span(), &format!("dial_addr {text:?} is not unix:///a/path"));
        path.map(|path| Some(path.into())).ok_or_else(what)
    }

    fn paths(&self, name: &str, value: &Value<'_>) -> Result<Vec<PathBuf>> {
        Ok(self.texts(name, value)?.into_iter().map(|(text, _)| self.absolute(text)).collect())
    }

    /// Paths are relative to the file's folder.
    fn absolute(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(path)
    }

    /// A text, or several.
    fn texts<'v>(&self, name: &str, value: &'v Value<'_>) -> Result<Vec<(&'v str, Range<usize>)>> {
        match value.get_ref().as_array() {
            None => Ok(vec![(self.text(name, value)?, value.span())]),
            Some(items) => {
                items.iter().map(|item| Ok((self.text(name, item)?, item.span()))).collect()
            }
        }
    }

    fn array<'v, 'i>(&self, name: &str, value: &'v Value<'i>) -> Result<Vec<&'v Value<'i>>> {
        let items = value.get_ref().as_array();
        Ok(items.ok_or_else(|| self.wrong(name, value, "an array"))?.iter().collect())
    }

    fn text<'v>(&self, name: &str, value: &'v Value<'_>) -> Result<&'v str> {
        value.get_ref().as_str().ok_or_else(|| self.wrong(name, value, "a string"))
    }

    fn flag(&self, name: &str, value: &Value<'_>) -> Result<bool> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    fn wrong(&self, name: &str, value: &Value<'_>, wanted: &str) -> Error {
        let what = format!("{name} is {} and not {wanted}", value.get_ref().type_str());
        self.bad(value.span(), &what)
    }

    fn bad(&self, span: Range<usize>, what: &str) -> Error {
        Error::said(Kind::InvalidArgument, self.located(span, what))
    }

    /// `path:line: what`.
    fn located(&self, span: Range<usize>, what: &str) -> String {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        format!("{}:{line}: {what}", self.path.display())
    }
}

/// The parts of a path, without those that say nothing; `None` when it climbs out of itself.
fn clean(path: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts)
}

/// A span as Go writes it: `3s`, `1m30s`, `200ms`, `1.5h` (Go `time.ParseDuration`).
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let seconds = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
        total = total.checked_add(seconds)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests;
