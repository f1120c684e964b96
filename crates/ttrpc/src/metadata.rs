// SPDX-License-Identifier: Apache-2.0
//! What travels beside a request: the namespace, the lease, the trace.

use crate::wire::KeyValue;

/// Keys and values sent beside a request, in order; a key may have several values.
///
/// Keys are compared without regard to case, and kept in lower case, as Go's `ttrpc.MD` does.
///
/// ```
/// let mut metadata = ttrpc::Metadata::new();
/// metadata.append("Containerd-Namespace-Ttrpc", "default");
/// assert_eq!(metadata.get("containerd-namespace-ttrpc"), Some("default"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<KeyValue>);

impl Metadata {
    /// Makes metadata without entries. It allocates nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns the first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|entry| entry.key.eq_ignore_ascii_case(key)).map(|e| e.value.as_str())
    }

    /// Adds a value to those that the key has.
    pub fn append(&mut self, key: &str, value: impl Into<String>) {
        self.0.push(KeyValue { key: key.to_ascii_lowercase(), value: value.into() });
    }

    /// Gives a key this one value, in place of those that it has.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.retain(|entry| !entry.key.eq_ignore_ascii_case(key));
        self.append(key, value);
    }

    /// Lists all keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()))
    }

    pub(crate) fn entries(&self) -> &[KeyValue] {
        &self.0
    }

    pub(crate) fn from_wire(entries: Vec<KeyValue>) -> Self {
        Self(entries)
    }
}

impl<K: AsRef<str>, V: Into<String>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut metadata = Self::new();
        for (key, value) in pairs {
            metadata.append(key.as_ref(), value);
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_values_is_read() {
        let metadata: Metadata = [("k", "1"), ("K", "2"), ("l", "3")].into_iter().collect();
        assert_eq!(metadata.get("K"), Some("1"));
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("k", "1"), ("k", "2"), ("l", "3")]);
    }

    #[test]
    fn setting_replaces_every_value_of_the_key() {
        let mut metadata: Metadata = [("k", "1"), ("k", "2"), ("l", "3")].into_iter().collect();
        metadata.set("K", "4");
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("l", "3"), ("k", "4")]);
        assert_eq!(metadata.get("m"), None);
    }
}
