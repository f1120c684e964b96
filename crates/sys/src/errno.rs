// SPDX-License-Identifier: Apache-2.0
//! The kernel's error numbers in words, as Go's programs print them.
use std::io;

/// The text of an error as Go prints it: `no such file or directory`.
///
/// Clients and scripts match on these. They are libc's texts with the first letter lowered (Go,
/// `syscall/mkerrors.sh`). An error without an errno prints as it is.
pub fn text(error: &io::Error) -> String {
    let full = error.to_string();
    let Some(code) = error.raw_os_error() else { return full };
    let text = full.strip_suffix(&format!(" (os error {code})")).unwrap_or(&full);
    lower_first(text)
}

/// Lowers the first letter, unless the first word is in capitals.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_as_go_prints_it() {
        let text_of = |code| text(&io::Error::from_raw_os_error(code));
        assert_eq!(text_of(libc::ENOENT), "no such file or directory");
        assert_eq!(text_of(libc::EBUSY), "device or resource busy");
        assert_eq!(text_of(libc::EPERM), "operation not permitted");
    }

    #[test]
    fn an_error_without_errno_prints_as_it_is() {
        assert_eq!(text(&io::Error::other("Odd")), "Odd");
    }
}
