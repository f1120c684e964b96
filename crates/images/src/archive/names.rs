// SPDX-License-Identifier: Apache-2.0
//! What images are called: in an archive, here, and at Docker.
//!
//! | written in | by | example |
//! |---|---|---|
//! | `io.containerd.image.name` | containerd | `docker.io/library/busybox:1` |
//! | `org.opencontainers.image.ref.name` | everybody | `1`, or a full name |
//! | `manifest.json`, `RepoTags` | Docker | `busybox:1` |
use types::{Descriptor, Error, Result};

use super::{IMAGE_NAME, REF_NAME};

/// How the images of an archive are named here (containerd `core/transfer/image/imagestore.go`,
/// `Reference`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRule {
    /// A name, or the part of names before the tag.
    pub name: String,
    /// Whether it is only that part. Otherwise it names the index of the archive.
    pub is_prefix: bool,
    /// Whether a full name in the archive counts although it does not begin with the prefix.
    pub allow_overwrite: bool,
    /// Whether the digest is put behind the name too: `name@sha256:...`.
    pub add_digest: bool,
    /// Whether that is left out for what has another name.
    pub skip_named_digest: bool,
}

/// The names of an image of the archive by `rules`; of the index itself with `is_index`.
pub fn names(rules: &[NameRule], image: &Descriptor, is_index: bool) -> Vec<String> {
    let with_digest = |rule: &NameRule| format!("{}@{}", rule.name, image.digest);
    let mut names = Vec::new();
    for rule in rules.iter().filter(|rule| rule.is_prefix != is_index) {
        if is_index {
            let name = if rule.add_digest { with_digest(rule) } else { rule.name.clone() };
            names.push(name);
            continue;
        }
        let named = annotated(image, rule);
        if rule.add_digest && (named.is_none() || !rule.skip_named_digest) {
            names.extend(named);
            names.push(with_digest(rule));
        } else {
            names.extend(named);
        }
    }
    names
}

/// The name that an image has in the archive, if it is one by `rule`.
fn annotated(image: &Descriptor, rule: &NameRule) -> Option<String> {
    let said = |key| image.annotations.get(key).filter(|name| !name.is_empty());
    match said(IMAGE_NAME) {
        // A full name is taken as it is or not at all.
        Some(name) => translate(name, rule).filter(|translated| translated == name),
        None => translate(said(REF_NAME)?, rule),
    }
}

/// A tag gets the prefix; a full name has to have it (containerd `core/images/archive/reference.go`,
/// `refTranslator`).
fn translate(name: &str, rule: &NameRule) -> Option<String> {
    let NameRule { name: prefix, allow_overwrite, .. } = rule;
    if prefix.is_empty() {
        return None;
    }
    if !name.contains(['/', ':', '@']) {
        return Some(format!("{prefix}:{name}"));
    }
    let begins = |name: &str, with: &[char]| {
        let rest = name.strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(with))
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let is_ours = begins(name, &['/', ':', '@']) || begins(last, &[':', '@']);
    (*allow_overwrite || is_ours).then(|| name.to_owned())
}

/// The tag or digest of a name; all of what is no full name (containerd `pkg/reference`, `Parse`).
pub(super) fn tag(name: &str) -> &str {
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = !host.is_empty()
        && host.rsplit_once(':').is_none_or(|(_, port)| is_port(port))
        && !host.contains(['@', ' ']);
    if !is_host {
        return name;
    }
    match path.find([':', '@']) {
        Some(at) if path[at..].starts_with(':') => &path[at + 1..],
        Some(at) => &path[at..],
        None => "",
    }
}

const DOCKER_HOST: &str = "docker.io";
const DOCKER_LIBRARY: &str = "library/";

/// A name as Docker writes it, in full: `busybox` is `docker.io/library/busybox:latest`
/// (distribution/reference `normalize.go`, `ParseDockerRef`).
pub(super) fn normalized(name: &str) -> Result<String> {
    let parts = Parts::of(name)?;
    let Parts { host, path, tag, digest } = &parts;
    Ok(match (tag, digest) {
        (_, Some(digest)) => format!("{host}/{path}@{digest}"),
        (Some(tag), None) => format!("{host}/{path}:{tag}"),
        (None, None) => format!("{host}/{path}:latest"),
    })
}

/// A name as people write it: `docker.io/library/busybox:1` is `busybox:1`
/// (distribution/reference `helpers.go`, `FamiliarString`).
pub(super) fn familiar(name: &str) -> Result<String> {
    let Parts { host, path, tag, digest } = Parts::of(name)?;
    let mut familiar = match host.as_str() {
        DOCKER_HOST => path.strip_prefix(DOCKER_LIBRARY).unwrap_or(&path).to_owned(),
        host => format!("{host}/{path}"),
    };
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    familiar.extend(tag.map(|tag| format!(":{tag}")));
    familiar.extend(digest.map(|digest| format!("@{digest}")));
    Ok(familiar)
}

/// The parts of a name.
struct Parts {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Parts {
    fn of(name: &str) -> Result<Self> {
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (name, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
            _ => (rest, None),
        };
        let is_host = |it: &str| {
            it.contains(['.', ':']) || it == "localhost" || it.chars().any(char::is_uppercase)
        };
        let (host, path) = match rest.split_once('/') {
            Some(("index.docker.io", path)) => (DOCKER_HOST, path.to_owned()),
            Some((host, path)) if is_host(host) => (host, path.to_owned()),
            _ => (DOCKER_HOST, rest.to_owned()),
        };
        let is_short = host == DOCKER_HOST && !path.contains('/');
        let path = if is_short { format!("{DOCKER_LIBRARY}{path}") } else { path };
        let is_digest = |text: &str| text.parse::<types::Digest>().is_ok();
        if !is_domain(host)
            || !path.split('/').all(is_component)
            || !tag.is_none_or(is_tag)
            || !digest.is_none_or(is_digest)
        {
            return Err(Error::invalid(format!(
                "normalize image ref {name:?}: invalid reference format"
            )));
        }
        let (tag, digest) = (tag.map(str::to_owned), digest.map(str::to_owned));
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }
}

/// Words with dots between them, or an IPv6 address in brackets; and a port or none
/// (distribution/reference `regexp.go`, `domainAndPort`).
fn is_domain(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_word = |word: &str| {
        let ends = word.bytes().next().zip(word.bytes().last());
        ends.is_some_and(|(first, last)| [first, last].iter().all(u8::is_ascii_alphanumeric))
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_name = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_word),
    };
    is_name && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    ends.is_some_and(|(first, last)| is_word(*first) && is_word(*last))
        && bytes.iter().all(|&byte| is_word(byte) || matches!(byte, b'.' | b'_' | b'-'))
        && !["..", "___", "._", "_.", ".-", "-."].iter().any(|pair| text.contains(pair))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use types::{Digest, media_types};

    use super::*;

    fn image(full: &str, tag: &str) -> Descriptor {
        let mut image = Descriptor::new(media_types::MANIFEST, Digest::of("x"), 1);
        for (key, value) in [(IMAGE_NAME, full), (REF_NAME, tag)] {
            image.annotations.insert(key.to_owned(), value.to_owned());
        }
        image
    }

    fn rule(name: &str) -> NameRule {
        NameRule { name: name.to_owned(), is_prefix: true, ..NameRule::default() }
    }

    #[track_caller]
    fn check(rule: &NameRule, image: &Descriptor, want: &[&str]) {
        assert_eq!(names(std::slice::from_ref(rule), image, false), want, "{rule:?}");
    }

    #[test]
    fn a_tag_gets_the_prefix_and_a_full_name_has_to_have_it() {
        check(&rule("r.io/a"), &image("", "v1"), &["r.io/a:v1"]);
        check(&rule("r.io/a"), &image("r.io/a:v1", "v1"), &["r.io/a:v1"]);
        check(&rule("r.io/a"), &image("r.io/ab:v1", "v1"), &[]);
        check(
            &rule("nginx"),
            &image("docker.io/library/nginx:1", "1"),
            &["docker.io/library/nginx:1"],
        );
        let overwrite = NameRule { allow_overwrite: true, ..rule("import-2026-01-01") };
        check(&overwrite, &image("r.io/ab:v1", "v1"), &["r.io/ab:v1"]);
        check(&overwrite, &image("", "v1"), &["import-2026-01-01:v1"]);
        check(&overwrite, &image("", ""), &[]);
    }

    #[test]
    fn a_digest_is_a_name_too_where_that_is_wanted() {
        let digest = format!("r.io/a@{}", Digest::of("x"));
        let digests = NameRule { add_digest: true, ..rule("r.io/a") };
        check(&digests, &image("", "v1"), &["r.io/a:v1", &digest]);
        check(&digests, &image("", ""), &[&digest]);
        let unnamed = NameRule { skip_named_digest: true, ..digests };
        check(&unnamed, &image("", "v1"), &["r.io/a:v1"]);
        check(&unnamed, &image("", ""), &[&digest]);
    }

    #[test]
    fn the_index_has_the_names_that_are_no_prefix() {
        let rules = [rule("r.io/a"), NameRule { name: "r.io/all:1".into(), ..NameRule::default() }];
        assert_eq!(names(&rules, &image("", "v1"), true), ["r.io/all:1"]);
    }

    #[test]
    fn docker_writes_names_its_own_way() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1"),
            ("me/app:1", "docker.io/me/app:1"),
            ("localhost/app:1", "localhost/app:1"),
            ("r.io:5000/a/b", "r.io:5000/a/b:latest"),
            ("[::2]:5000/a", "[::2]:5000/a:latest"),
        ] {
            assert_eq!(normalized(short).unwrap(), full);
            let tagged =
                if short.contains(":1") { short.into() } else { format!("{short}:latest") };
            assert_eq!(familiar(full).unwrap(), tagged);
        }
        for bad in
            ["", "a//b", "A", "../etc", "a:", "a@sha256:0", "a b", "-a", "r.io:x/a", "[1]/a.b"]
        {
            let error = normalized(bad).unwrap_err();
            assert_eq!(error.kind(), types::Kind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn the_tag_of_a_name_is_behind_its_path() {
        for (name, want) in [
            ("r.io:5000/a:1", "1"),
            ("r.io/a", ""),
            ("r.io/a@sha256:0", "@sha256:0"),
            ("r.io/a:1@sha256:0", "1@sha256:0"),
            ("import:latest", "import:latest"),
        ] {
            assert_eq!(tag(name), want);
        }
    }
}
