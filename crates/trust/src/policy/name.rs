// SPDX-License-Identifier: Apache-2.0
//! One name of an image for all the ways to write it.

use types::{Error, Result};

/// What names begin with, in the same form. A registry alone means all in it.
///
/// Errors: `InvalidArgument` where Docker's registry may mean a user or one of its own images.
pub(super) fn prefix(written: &str) -> Result<String> {
    let whole = if written.contains('/') { written.to_owned() } else { format!("{written}/") };
    let plain = canonical(&whole);
    match plain.strip_prefix("docker.io/library/") {
        Some(one) if !one.is_empty() && !written.contains("library/") => {
            let what = format!("write \"docker.io/library/{one}\" or \"docker.io/{one}/\"");
            Err(Error::invalid(what))
        }
        _ => Ok(plain),
    }
}

/// The name with its registry and path in their plain form: hosts know no case, a port that is the
/// usual one and a trailing dot say nothing, and neither do empty parts of a path. Docker's registry
/// has three names, and a folder that need not be said.
pub(super) fn canonical(name: &str) -> String {
    let Some((host, rest)) = name.split_once('/') else { return name.to_owned() };
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").or(host.strip_suffix(":80")).unwrap_or(&host);
    let (bare, port) = match host.rsplit_once(':') {
        Some((bare, port)) if !port.contains(']') => (bare, Some(port)),
        _ => (host, None),
    };
    let host = match (bare.trim_end_matches('.'), port) {
        ("index.docker.io" | "registry-1.docker.io", None) => "docker.io".to_owned(),
        (bare, Some(port)) => format!("{bare}:{port}"),
        (bare, None) => bare.to_owned(),
    };
    // What stands behind the path is left as it is.
    let (path, object) = rest.split_at(rest.find([':', '@']).unwrap_or(rest.len()));
    let parts: Vec<_> = path.split('/').filter(|it| !it.is_empty() && *it != ".").collect();
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    let path = match parts[..] {
        [one] if host == "docker.io" && slash.is_empty() && one != "library" => {
            format!("library/{one}")
        }
        _ => parts.join("/"),
    };
    format!("{host}/{path}{slash}{object}")
}
