// SPDX-License-Identifier: Apache-2.0
//! The filter language of every list and subscription.
//!
//! ```text
//! filter   := selector ("," selector)*                all selectors must match
//! selector := path (("==" | "!=" | "~=") value)?      without an operator: the field is present
//! path     := field ("." field)*
//! field    := quoted | [A-Za-z_][A-Za-z0-9_]*
//! value    := quoted | [^\s,]+
//! quoted   := "..." with backslash escapes; after ~= also /.../ and |...|
//! ```
//!
//! The language, its error texts and its semantics are those of containerd `pkg/filters`.
use std::{borrow::Cow, sync::Arc};

use regex_lite::Regex;

use crate::{Error, Labels, Result};

/// Something that has fields to filter by.
pub trait Fields {
    /// The value of the field at `path`, if it is present.
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>>;
}

/// The value of the label whose key is `path` joined by dots: `labels.a.b` and `labels."a.b"` are
/// the same to containerd.
pub fn label<'a>(labels: &'a Labels, path: &[&str]) -> Option<Cow<'a, str>> {
    labels.get(&path.join(".")).map(|value| Cow::Borrowed(value.as_str()))
}

/// A set of filters, of which one has to match. An empty set matches everything.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    any: Arc<[Filter]>,
}

impl Filters {
    /// Reads each of `texts`.
    pub fn parse<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self> {
        let any =
            texts.into_iter().map(|text| Filter::parse(text.as_ref())).collect::<Result<_>>()?;
        Ok(Self { any })
    }

    /// Whether one of the filters matches `thing`, or there are none.
    pub fn matches(&self, thing: &(impl Fields + ?Sized)) -> bool {
        self.any.is_empty() || self.any.iter().any(|filter| filter.matches(thing))
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty()
    }

    /// The texts that were read, to be sent to a peer.
    pub fn texts(&self) -> Vec<String> {
        self.any.iter().map(|filter| filter.text.to_string()).collect()
    }

    /// The filters one by one, for a store that can answer some of them by an index.
    pub fn iter(&self) -> impl Iterator<Item = &Filter> {
        self.any.iter()
    }
}

/// One filter: selectors that all have to match. Without selectors it matches everything.
#[derive(Clone, Debug)]
pub struct Filter {
    text: Box<str>,
    all: Vec<Selector>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Option<Regex>),
}

impl FromIterator<Filter> for Filters {
    fn from_iter<I: IntoIterator<Item = Filter>>(filters: I) -> Self {
        Self { any: filters.into_iter().collect() }
    }
}

impl Filter {
    /// Reads one filter. The empty text matches everything.
    pub fn parse(text: &str) -> Result<Self> {
        let all = Parser { text, at: 0 }.selectors().map_err(|fault| fault.at(text))?;
        Ok(Self { text: text.into(), all })
    }

    /// Whether every selector matches `thing`.
    pub fn matches(&self, thing: &(impl Fields + ?Sized)) -> bool {
        self.all.iter().all(|selector| selector.matches(thing))
    }

    /// The values that this filter demands of fields, as (path, value): an index may use them.
    pub fn equalities(&self) -> impl Iterator<Item = (&[String], &str)> {
        self.all.iter().filter_map(|selector| match &selector.test {
            Test::Equal(value) => Some((selector.path.as_slice(), value.as_str())),
            _ => None,
        })
    }
}

impl Selector {
    /// A missing field is not equal to anything, differs from every value but the empty one, and
    /// is matched as if it were empty (containerd `pkg/filters/filter.go`).
    fn matches(&self, thing: &(impl Fields + ?Sized)) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = thing.field(&path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(want) => value.is_some_and(|value| value == want.as_str()),
            Test::NotEqual(want) => value.unwrap_or_default() != want.as_str(),
            Test::Matches(regex) => {
                regex.as_ref().is_some_and(|regex| regex.is_match(&value.unwrap_or_default()))
            }
        }
    }
}

struct Fault {
    position: usize,
    message: String,
}

impl Fault {
    fn at(self, text: &str) -> Error {
        let Self { position, message } = self;
        let place = match text[position.min(text.len())..].chars().next() {
            Some(c) => {
                let after = &text[position + c.len_utf8()..];
                format!("[{} >|{c}|< {after}]", &text[..position])
            }
            None => format!("[{text}]"),
        };
        Error::invalid(format!("filters: parse error: {place}: {message}"))
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn selectors(mut self) -> Result<Vec<Selector>, Fault> {
        if self.text.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = vec![self.selector()?];
        loop {
            match self.peek() {
                None => return Ok(all),
                Some(',') => self.at += 1,
                Some(c) => return Err(self.fault(format!("unexpected input: {c}"))),
            }
            all.push(self.selector()?);
        }
    }

    fn selector(&mut self) -> Result<Selector, Fault> {
        let path = self.path()?;
        let test = match self.peek() {
            None | Some(',') => Test::Present,
            _ => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, Fault> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, Fault> {
        self.skip_space();
        if let Some(quote @ ('"' | '/' | '|')) = self.peek() {
            return self.quoted(quote, false);
        }
        let is_field = |c: char| c == '_' || c.is_ascii_alphanumeric();
        match self.take_while(is_field) {
            "" => Err(self.fault("expected field or quoted")),
            field => Ok(field.to_owned()),
        }
    }

    fn test(&mut self) -> Result<Test, Fault> {
        self.skip_space();
        let operator = self.text.get(self.at..self.at + 2).unwrap_or_default();
        if !matches!(operator, "==" | "!=" | "~=") {
            return Err(self.fault(r#"expected an operator ("=="|"!="|"~=")"#));
        }
        self.at += 2;
        let value = self.value(operator == "~=")?;
        Ok(match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            // Compat: a pattern that does not compile matches nothing, and is no error.
            _ => Test::Matches(Regex::new(&value).ok()),
        })
    }

    fn value(&mut self, is_pattern: bool) -> Result<String, Fault> {
        self.skip_space();
        if let Some(quote @ ('"' | '/' | '|')) = self.peek() {
            return self.quoted(quote, is_pattern);
        }
        match self.take_while(|c| c != ',' && !c.is_whitespace()) {
            "" => Err(self.fault("expected value or quoted")),
            value => Ok(value.to_owned()),
        }
    }

    /// Between `/` and `|` a backslash is the pattern's own, except before the quote itself.
    fn quoted(&mut self, quote: char, is_pattern: bool) -> Result<String, Fault> {
        if quote != '"' && !is_pattern {
            return Err(self.fault("invalid quote encountered"));
        }
        let start = self.at;
        self.at += 1;
        let mut value = String::new();
        while let Some(c) = self.next() {
            match c {
                _ if c == quote => return Ok(value),
                '\\' => self.escape(quote, &mut value)?,
                '\n' => break,
                c => value.push(c),
            }
        }
        self.at = start;
        Err(self.fault("quoted literal not terminated"))
    }

    fn escape(&mut self, quote: char, value: &mut String) -> Result<(), Fault> {
        let Some(c) = self.next() else { return Ok(()) };
        match c {
            _ if c == quote => value.push(c),
            _ if quote != '"' => value.extend(['\\', c]),
            '\\' => value.push('\\'),
            'n' => value.push('\n'),
            't' => value.push('\t'),
            'r' => value.push('\r'),
            'a' => value.push('\u{7}'),
            'b' => value.push('\u{8}'),
            'f' => value.push('\u{c}'),
            'v' => value.push('\u{b}'),
            'x' => value.push(self.code_point(2)?),
            'u' => value.push(self.code_point(4)?),
            'U' => value.push(self.code_point(8)?),
            _ => return Err(self.fault("illegal escape sequence")),
        }
        Ok(())
    }

    fn code_point(&mut self, digits: usize) -> Result<char, Fault> {
        let hex = self.text.get(self.at..self.at + digits);
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let c = code.ok_or_else(|| self.fault("illegal numeric escape sequence"))?;
        self.at += digits;
        Ok(c)
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Compat: space before a token is passed over (containerd `pkg/filters/scanner.go`).
    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault { position: self.at, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Labels);

    impl Fields for Thing {
        fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
            match path {
                ["name"] => Some("redis".into()),
                ["labels", key @ ..] => label(&self.0, key),
                _ => None,
            }
        }
    }

    fn check(filter: &str, want: bool) {
        let labels = [("env", "prod"), ("a.b/c", "x y"), ("empty", "")];
        let thing = Thing(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(Filter::parse(filter).unwrap().matches(&thing), want, "{filter}");
    }

    #[test]
    fn filters_match_as_containerd_documents_them() {
        check("", true);
        check("name==redis", true);
        check("name==redi", false);
        check("name!=redis", false);
        check("name~=^re", true);
        check("name~=/^re.i/", true);
        check("name~=|s$|", true);
        check("name~=[", false);
        check("name==redis,labels.env==prod", true);
        check("name==redis,labels.env==test", false);
        check("labels.env", true);
        check("labels.none", false);
        check("labels.none!=x", true);
        check(r#"labels."a.b/c"=="x y""#, true);
        check(r#"labels."a.b/c"=="x\x20y""#, true);
        check("labels.empty==\"\"", true);
        check("nothing==x", false);
        check("labels.none~=.*", true);
        check(r#"name == redis, labels.env == "prod""#, true);
    }

    #[test]
    fn what_does_not_parse_says_where() {
        let error = Filter::parse("name=redis").unwrap_err();
        assert_eq!(
            error.to_string(),
            "filters: parse error: [name >|=|< redis]: expected an operator (\"==\"|\"!=\"|\"~=\"): invalid argument"
        );
        for bad in ["==x", "name==", "name==a,", "name==\"a", "a b", "name==/x/", "ü", "a.\"\\xé\""]
        {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_filter_of_a_set_is_enough_and_no_filter_is_all() {
        let thing = Thing(Labels::new());
        assert!(Filters::parse(["name==x", "name==redis"]).unwrap().matches(&thing));
        assert!(!Filters::parse(["name==x", "name==y"]).unwrap().matches(&thing));
        assert!(Filters::default().matches(&thing));
    }
}
