// SPDX-License-Identifier: Apache-2.0
//! PEM with labels that libraries do not know (RFC 7468).
use base64::{Engine as _, engine::general_purpose::STANDARD};
use types::{Error, Kind, Result};

/// The first block of `text`: its label and its bytes. What stands before it is a comment.
pub(crate) fn decode(text: &str) -> Result<(&str, Vec<u8>)> {
    let none = || Error::invalid("no PEM block in the key");
    let (_, rest) = text.split_once("-----BEGIN ").ok_or_else(none)?;
    let (label, rest) = rest.split_once("-----").ok_or_else(none)?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).ok_or_else(none)?;
    let body: String = body.split_whitespace().collect();
    let bytes = STANDARD.decode(body);
    Ok((label, bytes.map_err(|e| Error::caused(Kind::InvalidArgument, "malformed PEM", e))?))
}

/// A block of 64 characters a line.
pub(crate) fn encode(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_it_was() {
        let text = encode("SOME KEY", &[7; 100]);
        assert_eq!(decode(&format!("a comment\n{text}")).unwrap(), ("SOME KEY", vec![7; 100]));
        assert!(decode("-----BEGIN SOME KEY-----\nAAAA").is_err());
        assert!(decode("-----BEGIN A-----\n!\n-----END A-----").is_err());
    }
}
