// SPDX-License-Identifier: Apache-2.0
//! Documents in YAML, as Go programs of this field read them (`sigs.k8s.io/yaml`): they become what
//! they would be in JSON, and plain words are told apart by the rules of YAML 1.1, so that `0666` is
//! octal.
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};
use types::{Error, Result};

/// How deep lists may be in lists.
const DEPTH: usize = 64;
/// How many values there may be. A few lines of aliases can stand for more than memory holds.
const VALUES: usize = 100_000;

/// The first document of a text; nothing at all is `null`.
///
/// Errors: `InvalidArgument`, with the place in the text.
pub(crate) fn parse(text: &str) -> Result<Value> {
    let parser = Parser::new_from_str(text);
    let mut composer = Composer { parser, anchors: HashMap::new(), left: VALUES };
    loop {
        match composer.next()? {
            Event::StreamEnd => return Ok(Value::Null),
            Event::DocumentStart(_) => {
                let first = composer.next()?;
                return composer.value(first, DEPTH);
            }
            _ => {}
        }
    }
}

/// A text that may have been written without quotes, and so looks like a number.
pub(crate) fn text<'de, D: Deserializer<'de>>(source: D) -> std::result::Result<String, D::Error> {
    Scalar::deserialize(source).map(Scalar::text)
}

/// The same of a list of them.
pub(crate) fn texts<'de, D>(source: D) -> std::result::Result<Vec<String>, D::Error>
where
    D: Deserializer<'de>,
{
    let all = Option::<Vec<Scalar>>::deserialize(source)?.unwrap_or_default();
    Ok(all.into_iter().map(Scalar::text).collect())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(Number),
    Bool(bool),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
            Self::Bool(it) => it.to_string(),
        }
    }
}

/// Makes values of what the parser finds.
struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What aliases stand for.
    anchors: HashMap<usize, Value>,
    /// How many more values there may be.
    left: usize,
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<Event<'a>> {
        match self.parser.next() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(Error::invalid(format!("yaml: {error}"))),
            None => Ok(Event::StreamEnd),
        }
    }

    fn value(&mut self, first: Event<'a>, depth: usize) -> Result<Value> {
        let depth =
            depth.checked_sub(1).ok_or_else(|| Error::invalid("yaml: nested too deeply"))?;
        self.spend(1)?;
        let (anchor, value) = match first {
            Event::Alias(anchor) => return self.alias(anchor),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar(&text, style, tag.as_deref()))
            }
            Event::SequenceStart(anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.map(depth)?),
            other => return Err(Error::invalid(format!("yaml: a value is missing at {other:?}"))),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    /// An alias within what it stands for is none that is known yet.
    fn alias(&mut self, anchor: usize) -> Result<Value> {
        let value = self.anchors.get(&anchor).cloned();
        let value =
            value.ok_or_else(|| Error::invalid("yaml: an alias of nothing that is known"))?;
        self.spend(weight(&value))?;
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Value> {
        let mut all = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::Array(all)),
                first => all.push(self.value(first, depth)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value> {
        let (mut map, mut merged) = (Map::new(), Map::new());
        loop {
            let key = match self.next()? {
                Event::MappingEnd => break,
                first => key(self.value(first, depth)?)?,
            };
            let first = self.next()?;
            let value = self.value(first, depth)?;
            if key == "<<" {
                merge(&mut merged, value)?;
            } else if map.insert(key.clone(), value).is_some() {
                return Err(Error::invalid(format!("yaml: key {key:?} is there twice")));
            }
        }
        // What is said itself counts for more than what is merged into it.
        for (key, value) in merged {
            map.entry(key).or_insert(value);
        }
        Ok(Value::Object(map))
    }

    fn spend(&mut self, values: usize) -> Result<()> {
        let left = self.left.checked_sub(values);
        self.left = left.ok_or_else(|| Error::invalid("yaml: too many values"))?;
        Ok(())
    }
}

/// How many values there are in one.
fn weight(value: &Value) -> usize {
    match value {
        Value::Array(all) => 1 + all.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(weight).sum::<usize>(),
        _ => 1,
    }
}

fn merge(into: &mut Map<String, Value>, value: Value) -> Result<()> {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                into.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(all) => all.into_iter().try_for_each(|it| merge(into, it)),
        _ => Err(Error::invalid("yaml: only maps can be merged")),
    }
}

fn key(value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(it) => Ok(it.to_string()),
        other => Err(Error::invalid(format!("yaml: {other} cannot be a key"))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
    if is_text { Value::String(text.to_owned()) } else { plain(text) }
}

/// What a word without quotes is (<https://yaml.org/type/>, as `gopkg.in/yaml.v2` has it).
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let number = number(text);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    let text = text.replace('_', "");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    // Neither a second sign nor a word such as `inf`: both are texts.
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let whole = match digits.get(..2) {
        Some("0x" | "0X") => i128::from_str_radix(&digits[2..], 16),
        Some("0o" | "0O") => i128::from_str_radix(&digits[2..], 8),
        Some("0b" | "0B") => i128::from_str_radix(&digits[2..], 2),
        _ if digits.len() > 1 && digits.starts_with('0') => i128::from_str_radix(digits, 8),
        _ => digits.parse(),
    };
    if let Ok(whole) = whole {
        return Number::from_i128(if negative { -whole } else { whole });
    }
    let float: f64 = digits.parse().ok()?;
    Number::from_f64(if negative { -float } else { float })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: &Value) {
        assert_eq!(&parse(text).unwrap(), want, "{text}");
    }

    #[test]
    fn a_document_is_what_it_would_be_in_json() {
        check("", &json!(null));
        check("# nothing\n", &json!(null));
        check("{\"a\": [1, \"b\"]}", &json!({"a": [1, "b"]}));
        check(
            "a:\n  - b: c\n    d: \"1\"\n  - >\n    folded\n    text\n",
            &json!(
                {"a": [{"b": "c", "d": "1"}, "folded text\n"]}
            ),
        );
        check("---\na: 1\n---\nb: 2\n", &json!({"a": 1}));
        check("1: x\nyes: z\n", &json!({"1": "x", "true": "z"}));
    }

    #[test]
    fn words_are_what_go_takes_them_for() {
        for (text, want) in [
            ("0666", json!(438)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("-12", json!(-12)),
            ("1_000", json!(1000)),
            ("089", json!(89.0)),
            ("1.5", json!(1.5)),
            ("50M", json!("50M")),
            ("0x", json!("0x")),
            ("--1", json!("--1")),
            ("-inf", json!("-inf")),
            ("on", json!(true)),
            ("~", json!(null)),
            ("'on'", json!("on")),
            ("!!str 5", json!("5")),
            ("1.2.3", json!("1.2.3")),
        ] {
            check(text, &want);
        }
    }

    #[test]
    fn aliases_stand_for_what_they_name() {
        check(
            "a: &x {b: 1, c: 2}\nd: *x\ne:\n  <<: *x\n  c: 3\n",
            &json!(
                {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 2}, "e": {"b": 1, "c": 3}}
            ),
        );
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["a: [1", "a: 1\na: 2\n", "? [1]\n: 2\n", "a: *x\n", "<<: 1\n", "\t- a: b: c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_few_lines_do_not_stand_for_more_than_memory_holds() {
        let mut lines = vec!["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]".to_owned()];
        for level in 1..12 {
            let row = vec![format!("*a{}", level - 1); 10].join(", ");
            lines.push(format!("a{level}: &a{level} [{row}]"));
        }
        let text = lines.join("\n");
        assert!(parse(&text).unwrap_err().to_string().contains("too many"));
        assert!(parse(&"[".repeat(200)).is_err());
        assert!(parse(&"- ".repeat(5000)).is_err());
    }
}
