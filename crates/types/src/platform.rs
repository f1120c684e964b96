// SPDX-License-Identifier: Apache-2.0
//! What an image runs on, and which of several images runs best here.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// An operating system and a processor (OCI image spec, image-index.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// The architecture in Go's words: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The variant of the architecture: `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The version of the operating system.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system that are needed.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// A platform of an operating system and an architecture, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
        .normalized()
    }

    /// The platform that this program was built for.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// The same platform in the words that comparisons use: `x86_64` is `amd64`, `arm64/v8` is
    /// `arm64` (github.com/containerd/platforms, `database.go`).
    pub fn normalized(mut self) -> Self {
        self.os = match self.os.to_lowercase().as_str() {
            "" => std::env::consts::OS.to_owned(),
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let architecture = self.architecture.to_lowercase();
        let variant = self.variant.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("loongarch64", variant) => ("loong64", variant),
            other => other,
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self
    }

    fn matches(&self, other: &Self) -> bool {
        let other = other.clone().normalized();
        self.os == other.os
            && self.architecture == other.architecture
            && self.variant == other.variant
            && (self.os_version.is_empty() || self.os_version == other.os_version)
            && other.os_features.iter().all(|feature| self.os_features.contains(feature))
    }

    /// This platform and those whose programs it also runs, best first.
    fn runs(&self) -> Vec<Self> {
        let mut all = vec![self.clone()];
        let mut push = |architecture: &str, variant: String| {
            all.push(Self { architecture: architecture.into(), variant, ..self.clone() });
        };
        let level = |variant: &str| variant.trim_start_matches('v').parse::<u8>().unwrap_or(0);
        match self.architecture.as_str() {
            "amd64" => {
                (1..level(&self.variant)).rev().for_each(|v| push("amd64", amd64_variant(v)));
                push("386", String::new());
            }
            "arm" => (5..level(&self.variant)).rev().for_each(|v| push("arm", format!("v{v}"))),
            "arm64" => {
                for variant in arm64_below(&self.variant) {
                    push("arm64", variant);
                }
                (5..=8).rev().for_each(|v| push("arm", format!("v{v}")));
            }
            _ => {}
        }
        all
    }
}

fn amd64_variant(level: u8) -> String {
    if level == 1 { String::new() } else { format!("v{level}") }
}

/// The 64-bit ARM variants that `variant` includes: v9.x includes v8.(x+5)
/// (github.com/containerd/platforms, `compare.go`).
fn arm64_below(variant: &str) -> Vec<String> {
    let (major, minor) = variant
        .trim_start_matches('v')
        .split_once('.')
        .unwrap_or((variant.trim_start_matches('v'), "0"));
    let minor: u8 = minor.parse().unwrap_or(0);
    let name = |major: u8, minor: u8| match (major, minor) {
        (8, 0) => String::new(),
        (major, 0) => format!("v{major}"),
        (major, minor) => format!("v{major}.{minor}"),
    };
    match major {
        "9" => {
            let nines = (0..minor).rev().map(|minor| name(9, minor));
            nines.chain((0..=minor.saturating_add(5)).rev().map(|minor| name(8, minor))).collect()
        }
        "8" => (0..minor).rev().map(|minor| name(8, minor)).collect(),
        _ => Vec::new(),
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os/arch[/variant]`, `os(version)/arch`, or one of the two alone, completed by the host's.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("{text:?}: {why}"));
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty() || part.contains(['*', ' '])) {
            return Err(bad("not a platform: os/arch[/variant]"));
        }
        let host = Self::host();
        let (os, version) = split_version(parts[0]);
        let platform = match parts.as_slice() {
            [_] if is_known_os(os) => Self::new(os, &host.architecture, &host.variant),
            [architecture] if is_known_architecture(architecture) => {
                Self::new(&host.os, architecture, "")
            }
            [_] => return Err(bad("unknown operating system or architecture")),
            [_, architecture] => Self::new(os, architecture, ""),
            [_, architecture, variant] => Self::new(os, architecture, variant),
            _ => return Err(bad("not a platform: os/arch[/variant]")),
        };
        Ok(Self { os_version: version.to_owned(), ..platform })
    }
}

fn split_version(os: &str) -> (&str, &str) {
    match os.split_once('(') {
        Some((os, version)) => (os, version.trim_end_matches(')')),
        None => (os, ""),
    }
}

fn is_known_os(os: &str) -> bool {
    matches!(
        os.to_lowercase().as_str(),
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "solaris"
    )
}

fn is_known_architecture(architecture: &str) -> bool {
    let normal = Platform::new("linux", architecture, "").architecture;
    matches!(
        normal.as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips64"
            | "mips64le"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        [&self.architecture, &self.variant]
            .into_iter()
            .filter(|part| !part.is_empty())
            .try_for_each(|part| write!(f, "/{part}"))
    }
}

/// Which platforms are wanted, best first.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// `None` wants every platform.
    wanted: Option<Vec<Platform>>,
}

impl Matcher {
    /// Every platform, none preferred.
    pub fn all() -> Self {
        Self { wanted: None }
    }

    /// `platform`, or what its hardware runs too, the nearest first.
    pub fn only(platform: &Platform) -> Self {
        Self { wanted: Some(platform.clone().normalized().runs()) }
    }

    /// Each of `platforms` exactly, in that order of preference.
    pub fn strict(platforms: impl IntoIterator<Item = Platform>) -> Self {
        Self { wanted: Some(platforms.into_iter().map(Platform::normalized).collect()) }
    }

    /// Whether `platform` is wanted.
    pub fn matches(&self, platform: &Platform) -> bool {
        self.rank(platform).is_some()
    }

    /// How well `platform` fits, 0 being best; `None` when it is not wanted.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        match &self.wanted {
            None => Some(0),
            Some(wanted) => wanted.iter().position(|want| want.matches(platform)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn platforms_are_read_and_written_in_their_normal_form() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(platform(text).to_string(), want);
        }
        for bad in ["", "linux/", "a/b/c/d", "nonsense", "linux/*"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hardware_runs_its_older_siblings_but_prefers_itself() {
        let matcher = Matcher::only(&platform("linux/arm64"));
        assert_eq!(matcher.rank(&platform("linux/arm64/v8")), Some(0));
        assert!(matcher.rank(&platform("linux/arm/v7")) > Some(0));
        assert!(!matcher.matches(&platform("linux/amd64")));
        assert!(Matcher::only(&platform("linux/amd64")).matches(&platform("linux/386")));
        assert!(Matcher::only(&platform("linux/amd64/v3")).matches(&platform("linux/amd64")));
        assert!(Matcher::only(&platform("linux/arm64/v9")).matches(&platform("linux/arm64/v8.5")));
        assert!(!Matcher::strict([platform("linux/amd64")]).matches(&platform("linux/386")));
    }
}
