// SPDX-License-Identifier: Apache-2.0
//! `format/`: parameters that name what was mounted before.
//!
//! ```text
//! lowerdir={{ overlay 0 2 }},upperdir={{ mount 3 }}/u
//! action  := "{{" "-"? pipeline "-"? "}}"       "-" trims the white space beside the action
//! pipeline:= command ("|" command)*             a value goes to the next as its last argument
//! command := ("source" | "target" | "mount") n | "overlay" n n | n | "text"
//! ```
//!
//! That is what mounts need of Go's `text/template`, with the functions of containerd's
//! `core/mount/manager/format.go`.
use types::{Error, Kind, Result};

use super::{ActiveMount, Transformer};
use crate::Mount;

/// Fills in the templates of a mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format;

impl Transformer for Format {
    fn transform(&self, mut mount: Mount, before: &[ActiveMount]) -> Result<Mount> {
        let parts = [&mut mount.source, &mut mount.target].into_iter().chain(&mut mount.options);
        for part in parts.filter(|part| part.contains("{{")) {
            *part = fill(part, before)?;
        }
        Ok(mount)
    }
}

/// The text with its actions carried out.
fn fill(text: &str, before: &[ActiveMount]) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once("{{") {
        let (action, behind) = split_action(after).ok_or_else(|| bad(text, "unclosed action"))?;
        let (action, trims_left) = trimmed(action, |a| a.strip_prefix('-'), char::is_whitespace);
        let (action, trims_right) = match action.strip_suffix('-') {
            Some(cut) if cut.ends_with(char::is_whitespace) => (cut, true),
            _ => (action, false),
        };
        out.push_str(if trims_left { literal.trim_end() } else { literal });
        out.push_str(&run(text, action.trim(), before)?);
        rest = if trims_right { behind.trim_start() } else { behind };
    }
    out.push_str(rest);
    Ok(out)
}

/// Go takes `{{-` for a trim only before a space: `{{-1}}` is a number.
fn trimmed<'a>(
    action: &'a str,
    strip: impl Fn(&'a str) -> Option<&'a str>,
    is_space: impl Fn(char) -> bool,
) -> (&'a str, bool) {
    match strip(action) {
        Some(cut) if cut.starts_with(is_space) => (cut, true),
        _ => (action, false),
    }
}

/// Splits after the action, which ends at the first `}}` outside of a quoted text.
fn split_action(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if is_escaped => is_escaped = false,
            (Some('"'), '\\') => is_escaped = true,
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '`') => quote = Some(letter),
            (None, '}') if text[at..].starts_with("}}") => {
                return Some((&text[..at], &text[at + 2..]));
            }
            _ => {}
        }
    }
    None
}

#[derive(Clone, Debug)]
enum Value {
    Number(i64),
    Text(String),
}

fn run(template: &str, action: &str, before: &[ActiveMount]) -> Result<String> {
    if action.starts_with("/*") && action.ends_with("*/") {
        return Ok(String::new());
    }
    let mut value = None;
    for command in words(action).ok_or_else(|| bad(template, "unterminated quoted string"))? {
        value = Some(call(template, &command, value, before)?);
    }
    match value.ok_or_else(|| bad(template, "missing value for command"))? {
        Value::Number(number) => Ok(number.to_string()),
        Value::Text(text) => Ok(text),
    }
}

/// The commands of a pipeline, each in words.
fn words(action: &str) -> Option<Vec<Vec<String>>> {
    let mut commands = vec![Vec::new()];
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '|' => {
                commands.push(Vec::new());
                rest = rest[1..].trim_start();
                continue;
            }
            '"' | '`' => rest[1..].find(first)? + 2,
            _ => rest.find(|c: char| c.is_whitespace() || c == '|').unwrap_or(rest.len()),
        };
        commands.last_mut()?.push(rest[..len].to_owned());
        rest = rest[len..].trim_start();
    }
    Some(commands)
}

fn call(
    template: &str,
    words: &[String],
    piped: Option<Value>,
    before: &[ActiveMount],
) -> Result<Value> {
    let Some((name, rest)) = words.split_first() else {
        return Err(bad(template, "missing value for command"));
    };
    if let Some(value) = literal(name) {
        let is_alone = rest.is_empty() && piped.is_none();
        return is_alone
            .then_some(value)
            .ok_or_else(|| bad(template, "can't give argument to non-function"));
    }
    let mut args: Vec<_> = rest.iter().filter_map(|word| literal(word)).collect();
    if args.len() < rest.len() {
        return Err(bad(template, "an argument is neither a number nor a text"));
    }
    args.extend(piped);
    let text = match name.as_str() {
        "source" => with(template, name, &args, before, |mount| mount.mount.source.clone())?,
        "target" => with(template, name, &args, before, |mount| mount.mount.target.clone())?,
        "mount" => with(template, name, &args, before, |mount| mount.mount_point.clone())?,
        "overlay" => overlay(template, &args, before)?,
        _ => return Err(bad(template, &format!("function {name:?} not defined"))),
    };
    Ok(Value::Text(text))
}

fn literal(word: &str) -> Option<Value> {
    let quoted = |quote| word.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(text) = quoted('"').or_else(|| quoted('`')) {
        return Some(Value::Text(text.to_owned()));
    }
    word.parse().ok().map(Value::Number)
}

fn with(
    template: &str,
    name: &str,
    args: &[Value],
    before: &[ActiveMount],
    part: impl Fn(&ActiveMount) -> String,
) -> Result<String> {
    let [Value::Number(index)] = args else {
        return Err(bad(template, &format!("wrong arguments for {name}: want 1 number")));
    };
    let found = usize::try_from(*index).ok().and_then(|index| before.get(index));
    found.map(part).ok_or_else(|| {
        let text = format!("index out of bounds: {index}, has {} active mounts", before.len());
        bad(template, &format!("error calling {name}: {text}"))
    })
}

/// The mount points from one to another, both included, upwards or downwards.
fn overlay(template: &str, args: &[Value], before: &[ActiveMount]) -> Result<String> {
    let &[Value::Number(start), Value::Number(end)] = args else {
        return Err(bad(template, "wrong arguments for overlay: want 2 numbers"));
    };
    let (low, high) = (start.min(end), start.max(end));
    let range = usize::try_from(low).ok().zip(usize::try_from(high).ok());
    let Some(chosen) = range.and_then(|(low, high)| before.get(low..=high)) else {
        let text = format!("invalid range: {start}-{end}, has {} active mounts", before.len());
        return Err(bad(template, &format!("error calling overlay: {text}")));
    };
    let mut points: Vec<_> = chosen.iter().map(|mount| mount.mount_point.as_str()).collect();
    if start > end {
        points.reverse();
    }
    Ok(points.join(":"))
}

/// Compat: Go has no code for these.
fn bad(template: &str, why: &str) -> Error {
    Error::said(Kind::Unknown, format!("template {template:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn before() -> Vec<ActiveMount> {
        let active = |n: u32| ActiveMount {
            mount: Mount { source: format!("s{n}"), target: format!("t{n}"), ..Mount::default() },
            mount_point: format!("/m/{n}"),
            ..ActiveMount::default()
        };
        (0..4).map(active).collect()
    }

    #[test]
    fn values_of_earlier_mounts_are_filled_in() {
        for (template, want) in [
            ("{{ source 0 }}", "s0"),
            ("{{target 3}}", "t3"),
            ("a{{ mount 1 }}/b", "a/m/1/b"),
            ("x={{ overlay 0 2 }},y={{ overlay 3 2 }}", "x=/m/0:/m/1:/m/2,y=/m/3:/m/2"),
            ("{{ overlay 1 1 }}", "/m/1"),
            ("a {{- mount 0 -}} b", "a/m/0b"),
            ("{{ 2 | mount }}", "/m/2"),
            ("{{/* nothing */}}a", "a"),
            ("{{ \"}}\" }}", "}}"),
            ("plain } text", "plain } text"),
        ] {
            assert_eq!(fill(template, &before()).unwrap(), want, "{template}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_that_says_so() {
        for (template, want) in [
            ("{{ mount 4 }}", "error calling mount: index out of bounds: 4, has 4 active mounts"),
            (
                "{{ source -1 }}",
                "error calling source: index out of bounds: -1, has 4 active mounts",
            ),
            ("{{ overlay 0 4 }}", "error calling overlay: invalid range: 0-4, has 4 active mounts"),
            ("{{ overlay 4 0 }}", "error calling overlay: invalid range: 4-0, has 4 active mounts"),
            ("{{ mount 1", "unclosed action"),
            ("{{ }}", "missing value for command"),
            ("{{ env 1 }}", "function \"env\" not defined"),
            ("{{ mount x }}", "an argument is neither a number nor a text"),
            ("{{ mount \"1 }}", "unclosed action"),
        ] {
            let error = fill(template, &before()).unwrap_err().to_string();
            assert_eq!(error, format!("template {template:?}: {want}"));
        }
    }

    #[test]
    fn every_part_of_a_mount_is_a_template() {
        let mount = Mount {
            kind: "overlay".into(),
            source: "{{ source 0 }}".into(),
            target: "{{ target 1 }}".into(),
            options: vec!["ro".into(), "lowerdir={{ mount 2 }}".into()],
        };
        let done = Format.transform(mount, &before()).unwrap();
        assert_eq!(done.to_string(), "overlay s0 t1 ro,lowerdir=/m/2");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail_otherwise(text in "[{}|\"`a-z0-9 -]{0,40}") {
            drop(fill(&text, &before()));
        }
    }
}
