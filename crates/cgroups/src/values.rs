// SPDX-License-Identifier: Apache-2.0
//! The few formats that the files of cgroups have. What does not parse is left out.
use std::{collections::HashMap, path::Path};

use fs_err as fs;

/// A file of lines `key value`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table(HashMap<String, u64>);

impl Table {
    /// Reads a file; one that is not there is none.
    pub(crate) fn read(dir: &Path, file: &str) -> Option<Self> {
        text(dir, file).map(|text| Self::parse(&text))
    }

    pub(crate) fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), uint(value)?))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// The value of a key, or zero.
    pub(crate) fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or_default()
    }
}

/// The text of a file that may not be there, and may not be readable when it is: pressure files of
/// a kernel without pressure accounting are not.
pub(crate) fn text(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

/// The number in a file, or zero.
pub(crate) fn number(dir: &Path, file: &str) -> u64 {
    text(dir, file).and_then(|text| uint(&text)).unwrap_or_default()
}

/// A number as the kernel prints it. Below zero is zero; `max` is none.
pub(crate) fn uint(text: &str) -> Option<u64> {
    let text = text.trim();
    let negative = || text.strip_prefix('-')?.parse::<u64>().ok().map(|_| 0);
    text.parse().ok().or_else(negative)
}

/// A number, or `max` for no limit.
pub(crate) fn limit(text: &str) -> Option<u64> {
    if text.trim() == "max" { Some(u64::MAX) } else { uint(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_has_its_keys_and_zero_for_others() {
        let table = Table::parse("nr_periods 3\nnr_throttled -1\nodd\nword max\n");
        assert_eq!(table.get("nr_periods"), 3);
        assert_eq!(table.get("nr_throttled"), 0);
        assert_eq!(table.get("word"), 0);
        assert_eq!(table.get("missing"), 0);
    }

    #[test]
    fn no_limit_is_the_greatest_number_only_where_one_may_be() {
        assert_eq!(limit("max\n"), Some(u64::MAX));
        assert_eq!(uint("max\n"), None);
        assert_eq!(uint("18446744073709551615"), Some(u64::MAX));
        assert_eq!(uint("-18446744073709551615"), Some(0));
        assert_eq!(uint("1x"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_table_panic(text: String) {
            Table::parse(&text);
        }
    }
}
