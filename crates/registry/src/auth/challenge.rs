// SPDX-License-Identifier: Apache-2.0
use std::collections::HashMap;

use http::{HeaderMap, header};

/// What a host asks for before it lets us in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: Scheme,
    pub(super) parameters: HashMap<String, String>,
}

/// The schemes that registries use, the preferred one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    Basic,
    Bearer,
}

/// The challenges in an answer's `WWW-Authenticate` headers that we can meet, best first. One header
/// holds one challenge, as containerd reads them (`core/remotes/docker/auth/parse.go`).
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut challenges: Vec<_> = texts.filter_map(challenge).collect();
    challenges.sort_by_key(|challenge| std::cmp::Reverse(challenge.scheme));
    challenges
}

fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = token(text);
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "basic" => Scheme::Basic,
        "bearer" => Scheme::Bearer,
        _ => return None,
    };
    let mut parameters = HashMap::new();
    while let Some((name, value, after)) = parameter(rest) {
        parameters.insert(name, value);
        rest = after;
    }
    Some(Challenge { scheme, parameters })
}

/// Reads `name=value` and a comma, if there is one.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = token(text.trim_start());
    let rest = rest.strip_prefix('=').filter(|_| !name.is_empty())?;
    let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
        quoted_string(quoted)?
    } else {
        let (value, rest) = token(rest);
        (value.to_owned(), rest)
    };
    let rest = rest.trim_start();
    Some((name.to_ascii_lowercase(), value, rest.strip_prefix(',').unwrap_or("")))
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |b: u8| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[]\\{}".contains(&b);
    text.split_at(text.bytes().position(|b| !is_token(b)).unwrap_or(text.len()))
}

/// Reads up to the closing quote, taking `\x` for `x`.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Vec<Challenge> {
        let headers = values.iter().map(|value| (header::WWW_AUTHENTICATE, value.parse().unwrap()));
        parse(&headers.collect())
    }

    #[test]
    fn bearer_comes_before_basic_and_what_is_unknown_is_left_out() {
        let challenges = read(&[
            "Basic realm=\"r\"",
            "Negotiate",
            "Bearer realm=\"https://auth/token\",service=\"r.io\" , scope=\"repository:a:pull\"",
        ]);
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].scheme, Scheme::Bearer);
        assert_eq!(challenges[0].parameters["realm"], "https://auth/token");
        assert_eq!(challenges[0].parameters["scope"], "repository:a:pull");
        assert_eq!(challenges[1].parameters["realm"], "r");
    }

    #[test]
    fn quotes_may_be_escaped_and_left_out_but_not_left_open() {
        let challenges = read(&[r#"bearer Realm="a\"b\\c",error=invalid_token"#]);
        assert_eq!(challenges[0].parameters["realm"], r#"a"b\c"#);
        assert_eq!(challenges[0].parameters["error"], "invalid_token");
        assert!(read(&["bearer realm=\"open"])[0].parameters.is_empty());
    }
}
