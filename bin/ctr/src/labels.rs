// SPDX-License-Identifier: Apache-2.0
//! Labels on the command line: `key=value`, where an empty value takes the label away.
use types::{FieldMask, Labels};

/// Reads `key=value` pairs. A key alone is `true`
/// (containerd `cmd/ctr/commands/commands.go`, `LabelArgs`).
pub(crate) fn parse(pairs: &[String]) -> Labels {
    let split = |pair: &String| match pair.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (pair.clone(), "true".to_owned()),
    };
    pairs.iter().map(split).collect()
}

/// The mask that changes just these labels.
pub(crate) fn mask(labels: &Labels) -> FieldMask {
    FieldMask::new(labels.keys().map(|key| format!("labels.{key}")))
}

/// Labels in one cell of a table.
pub(crate) fn cell(labels: &Labels) -> String {
    if labels.is_empty() {
        return "-".into();
    }
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_shown_as_pairs() {
        let labels = parse(&["b=2=3".into(), "a".into(), "c=".into()]);
        assert_eq!(cell(&labels), "a=true,b=2=3,c=");
        assert_eq!(cell(&Labels::new()), "-");
        assert_eq!(mask(&labels).paths(), ["labels.a", "labels.b", "labels.c"]);
    }
}
