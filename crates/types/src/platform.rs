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
    /// Features of the operating system that are needed, or of a host, that are there: `erofs`.
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

    /// The same platform with a feature of the operating system: `linux(+erofs)/amd64`.
    #[must_use]
    pub fn with_feature(mut self, feature: &str) -> Self {
        self.os_features.push(feature.to_owned());
        self.normalized()
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
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("loongarch64", variant) => ("loong64", variant),
            other => other,
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self.os_features.retain(|feature| !feature.is_empty());
        self.os_features.sort_unstable();
        self.os_features.dedup();
        self
    }

    /// How many of the features that this platform has are of no use to `other`; `None` when `other`
    /// does not run on it: because it is for something else, or needs a feature that is not there
    /// (github.com/containerd/platforms, `NewMatcher` and `Less`).
    fn spare(&self, other: &Self) -> Option<usize> {
        let other = other.clone().normalized();
        let fits = self.os == other.os
            && self.architecture == other.architecture
            && self.variant == other.variant
            && self.has_version(&other.os_version)
            && other.os_features.iter().all(|feature| self.os_features.contains(feature));
        fits.then(|| self.os_features.len() - other.os_features.len())
    }

    /// Only Windows runs nothing but what was made for its own build.
    fn has_version(&self, version: &str) -> bool {
        let build = |version: &str| -> Vec<String> {
            version.split('.').take(3).map(str::to_owned).collect()
        };
        self.os != "windows"
            || self.os_version.is_empty()
            || version.is_empty()
            || build(&self.os_version) == build(version)
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

/// The 64-bit ARM variants that `variant` includes: v9.x includes v8.(x+5), up to v8.9
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
            nines
                .chain((0..=minor.saturating_add(5).min(9)).rev().map(|minor| name(8, minor)))
                .collect()
        }
        "8" => (0..minor).rev().map(|minor| name(8, minor)).collect(),
        _ => Vec::new(),
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os/arch[/variant]`, or one of the first two alone, completed by the host's. What is in
    /// parentheses behind the system is its version and, each after a `+`, the features that are
    /// needed: `windows(10.0.17763+win32k)/amd64`, `linux(+erofs)`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("{text:?}: {why}"));
        let (before, parts): (&str, Vec<&str>) = {
            let mut parts = text.split('/');
            (parts.next().unwrap_or_default(), parts.collect())
        };
        let (os, version, features) =
            split_os(before).ok_or_else(|| bad("not a system, or its version or features"))?;
        if !is_word(os) || parts.iter().any(|part| !is_word(part)) {
            return Err(bad("not a platform: os/arch[/variant]"));
        }
        let host = Self::host();
        let platform = match parts.as_slice() {
            [] if is_known_os(os) => Self::new(os, &host.architecture, &host.variant),
            [] if is_known_architecture(before) => Self::new(&host.os, before, ""),
            [] => return Err(bad("unknown operating system or architecture")),
            [architecture] => Self::new(os, architecture, ""),
            [architecture, variant] => Self::new(os, architecture, variant),
            _ => return Err(bad("not a platform: os/arch[/variant]")),
        };
        Ok(Self { os_version: version, os_features: features, ..platform }.normalized())
    }
}

fn is_word(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !part.is_empty() && part.chars().all(fits)
}

/// Takes `os(version+feature+feature)` apart; `None` if it is no such thing.
fn split_os(text: &str) -> Option<(&str, String, Vec<String>)> {
    let Some((os, options)) = text.split_once('(') else {
        return Some((text, String::new(), Vec::new()));
    };
    let mut options = options.strip_suffix(')')?.split('+').map(decode);
    let version = options.next().flatten()?;
    let features = options.collect::<Option<Vec<_>>>()?;
    Some((os, version, features))
}

/// What would be taken for something else in a version or a feature, and how it is written
/// (github.com/containerd/platforms, `osOptionReplacer`).
const ESCAPES: [(char, &str); 5] =
    [('%', "%25"), ('+', "%2B"), ('(', "%28"), (')', "%29"), ('/', "%2F")];

fn encode(option: &str) -> String {
    option.chars().fold(String::new(), |mut text, c| {
        match ESCAPES.iter().find(|(plain, _)| *plain == c) {
            Some((_, escaped)) => text.push_str(escaped),
            None => text.push(c),
        }
        text
    })
}

fn decode(option: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '%');
    if !option.chars().all(fits) {
        return None;
    }
    let mut pieces = option.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
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
        let mut features: Vec<_> = self.os_features.iter().filter(|it| !it.is_empty()).collect();
        features.sort_unstable();
        if !self.os_version.is_empty() || !features.is_empty() {
            write!(f, "({}", encode(&self.os_version))?;
            features.iter().try_for_each(|feature| write!(f, "+{}", encode(feature)))?;
            f.write_str(")")?;
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

    /// How well `platform` fits, 0 being best; `None` when it is not wanted. Of two that are for the
    /// same, the one that makes use of more features comes first.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        let Some(wanted) = &self.wanted else { return Some(0) };
        let most = wanted.iter().map(|want| want.os_features.len()).max().unwrap_or_default();
        let found = wanted.iter().enumerate();
        let mut ranks =
            found.filter_map(|(at, want)| Some(at * (most + 1) + want.spare(platform)?));
        ranks.next()
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
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux(+erofs)/amd64", "linux(+erofs)/amd64"),
            ("linux(+unsorted+erofs+erofs)/amd64", "linux(+erofs+unsorted)/amd64"),
            (
                "windows(10.0.17763%2Bbuild+win32k)/amd64",
                "windows(10.0.17763%2Bbuild+win32k)/amd64",
            ),
            ("linux()/arm64", "linux/arm64"),
        ] {
            assert_eq!(platform(text).to_string(), want);
        }
        let bad = ["", "linux/", "a/b/c/d", "nonsense", "linux/*", "linux(+erofs/amd64"];
        for bad in bad.into_iter().chain(["linux(%2)/a", "linux(%ff)/a", "linux(a b)/a", "(+x)/a"])
        {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_needs_a_feature_runs_only_where_it_is_and_is_preferred_there() {
        let (plain, native) = (platform("linux/amd64"), platform("linux(+erofs)/amd64"));
        let able = Matcher::only(&native);
        assert_eq!(able.rank(&native), Some(0));
        assert!(able.rank(&plain) > Some(0));
        assert!(able.rank(&platform("linux(+erofs)/386")) > able.rank(&plain));
        for unable in [Matcher::only(&plain), Matcher::strict([plain.clone()])] {
            assert!(unable.matches(&plain) && !unable.matches(&native));
        }
        let others = Matcher::only(&platform("linux(+erofs+gpu)/amd64"));
        assert!(others.rank(&native) < others.rank(&plain));
    }

    #[test]
    fn windows_alone_runs_only_what_is_made_for_its_build() {
        let host = Matcher::only(&platform("windows(10.0.17763.1)/amd64"));
        assert!(host.matches(&platform("windows/amd64")));
        assert!(host.matches(&platform("windows(10.0.17763.99)/amd64")));
        assert!(!host.matches(&platform("windows(10.0.20348.1)/amd64")));
        let linux = Matcher::only(&platform("linux(6.1)/amd64"));
        assert!(linux.matches(&platform("linux(5.4)/amd64")));
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
