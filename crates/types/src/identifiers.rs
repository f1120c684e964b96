// SPDX-License-Identifier: Apache-2.0
//! The names of containers, namespaces, leases and tasks.
use crate::{Error, Result};

/// The longest an identifier may be, in bytes (containerd `pkg/identifiers/validate.go`).
const MAX_LENGTH: usize = 76;

/// Refuses what cannot be the name of a thing: words of letters and digits, joined by single `-`,
/// `_` or `.`, at most 76 bytes. What passes is also a safe file name.
pub fn validate(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("identifier must not be empty"));
    }
    if name.len() > MAX_LENGTH {
        return Err(Error::invalid(format!(
            "identifier {name:?} greater than maximum length ({MAX_LENGTH} characters)"
        )));
    }
    if name.split(['-', '_', '.']).all(is_word) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "identifier {name:?} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
    )))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_field_pass() {
        for name in ["default", "k8s.io", "a", "moby", "a-b_c.d", "0", &"x".repeat(76)] {
            assert!(validate(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_could_leave_a_directory_is_refused() {
        for name in ["", ".", "..", "a/b", "../a", "a..b", "-a", "a-", "a b", &"x".repeat(77)] {
            assert!(validate(name).is_err(), "{name}");
        }
    }
}
