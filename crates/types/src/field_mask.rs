// SPDX-License-Identifier: Apache-2.0

/// Says which fields of a record an update replaces.
///
/// An empty mask replaces everything that may change. A path names a field (`labels`) or an entry of
/// a map (`labels.a.b`, where all after the first dot is the key, as Go containerd reads it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMask {
    paths: Vec<String>,
}

impl FieldMask {
    /// A mask of the given paths.
    pub fn new(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect() }
    }

    /// Whether everything that may change is meant.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The paths, in the order given.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }
}
