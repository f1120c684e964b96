// SPDX-License-Identifier: Apache-2.0
//! Where a transfer may unpack to.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ::client::Unpack;
use api::containerd::types::transfer::UnpackConfiguration;
use tokio::sync::Semaphore;
use types::{Error, Platform, Result, platform::Matcher};

use crate::convert::FromWire;

/// The snapshotter where none is named (containerd `defaults/defaults_unix.go`).
const SNAPSHOTTER: &str = "overlayfs";

/// A platform, and a snapshotter for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supported {
    /// What images for it may run on.
    pub platform: Platform,
    /// Where they are unpacked to.
    pub snapshotter: String,
}

/// To what images may be unpacked, and how many layers at once.
#[derive(Clone, Debug, Default)]
pub struct Unpacks {
    /// What is unpacked if a client asks for it; everything if `None`.
    pub supported: Option<Vec<Supported>>,
    /// Where everything is, which features images may ask for by the snapshotter that they are
    /// unpacked to, as containerd's own `unpack_config` has it (`plugins/transfer/
    /// plugin_defaults_linux.go`).
    pub natives: BTreeMap<String, Vec<String>>,
    /// The snapshotters that may have layers without being given them, and so are asked before anything
    /// is fetched for them.
    pub remote: BTreeSet<String>,
    /// Whether the platform has to fit too, and not the snapshotter alone.
    pub checks_platform: bool,
    /// How many layers of one image are unpacked at once; 0 for one for each processor.
    pub parallel: usize,
    /// The turns that all unpacks share; `None` is no limit.
    pub turns: Option<Arc<Semaphore>>,
}

impl Unpacks {
    /// Of what a client wants, what is supported (containerd `core/transfer/local/pull.go`,
    /// `getSupportedPlatform`).
    ///
    /// Errors: `InvalidArgument` when it wants something, and nothing of it is supported.
    pub(super) fn choose(&self, wanted: Vec<UnpackConfiguration>) -> Result<Vec<Unpack>> {
        let is_wanted = !wanted.is_empty();
        let mut chosen = Vec::new();
        for it in wanted {
            let platform = it.platform.map(Platform::from_wire).transpose()?;
            let platform = platform.unwrap_or_else(Platform::host).normalized();
            let snapshotter = match it.snapshotter.as_str() {
                "" => SNAPSHOTTER.to_owned(),
                name => name.to_owned(),
            };
            if let Some(features) = self.supports(&platform, &snapshotter) {
                let platform =
                    features.iter().fold(platform, |platform, it| platform.with_feature(it));
                let (parallel, turns) = (self.parallel, self.turns.clone());
                chosen.push(Unpack {
                    brings_layers: self.remote.contains(&snapshotter),
                    snapshotter,
                    platform,
                    parallel,
                    turns,
                    ..Unpack::default()
                });
            }
        }
        if is_wanted && chosen.is_empty() {
            let what = "unable to initialize unpacker: no unpack platforms defined";
            return Err(Error::invalid(what));
        }
        Ok(chosen)
    }

    /// What images may ask for that are unpacked there; `None` where nothing is unpacked.
    fn supports(&self, platform: &Platform, snapshotter: &str) -> Option<&[String]> {
        let fits = |it: &&Supported| {
            let runs = || Matcher::only(&it.platform).matches(platform);
            it.snapshotter == snapshotter && (!self.checks_platform || runs())
        };
        match &self.supported {
            Some(supported) => supported.iter().find(fits).map(|it| &*it.platform.os_features),
            None => Some(self.natives.get(snapshotter).map_or(&[], Vec::as_slice)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::ToWire;

    fn wanted(platform: &str, snapshotter: &str) -> Vec<UnpackConfiguration> {
        let platform: Platform = platform.parse().unwrap();
        let platform = Some(platform.to_wire());
        vec![UnpackConfiguration { platform, snapshotter: snapshotter.to_owned() }]
    }

    fn only(platform: &str, checks_platform: bool) -> Unpacks {
        let platform = platform.parse().unwrap();
        let supported = Some(vec![Supported { platform, snapshotter: "native".to_owned() }]);
        Unpacks { supported, checks_platform, ..Unpacks::default() }
    }

    #[test]
    fn without_a_word_of_the_config_everything_is_supported() {
        let chosen = Unpacks::default().choose(wanted("linux/arm64", "")).unwrap();
        assert_eq!(chosen[0].snapshotter, SNAPSHOTTER);
        assert!(Unpacks::default().choose(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn an_image_may_ask_for_what_its_snapshotter_is_able_to() {
        let native = Unpacks {
            natives: BTreeMap::from([("erofs".to_owned(), vec!["erofs".to_owned()])]),
            ..Unpacks::default()
        };
        let platform = |unpacks: &Unpacks, snapshotter| {
            let chosen = unpacks.choose(wanted("linux/amd64", snapshotter)).unwrap();
            chosen[0].platform.to_string()
        };
        assert_eq!(platform(&native, "erofs"), "linux(+erofs)/amd64");
        assert_eq!(platform(&native, "native"), "linux/amd64");
        assert_eq!(platform(&only("linux(+erofs)/amd64", true), "native"), "linux(+erofs)/amd64");
    }

    #[test]
    fn a_snapshotter_that_may_bring_layers_is_asked_first() {
        let remote = BTreeSet::from(["lazy".to_owned()]);
        let unpacks = Unpacks { remote, ..Unpacks::default() };
        let asked = |name| unpacks.choose(wanted("linux/amd64", name)).unwrap()[0].brings_layers;
        assert!(asked("lazy") && !asked("native"));
    }

    #[test]
    fn what_is_not_supported_is_refused_only_when_nothing_else_was_asked_for() {
        let unpacks = only("linux/amd64", false);
        assert_eq!(unpacks.choose(wanted("linux/arm64", "native")).unwrap().len(), 1);
        let error = unpacks.choose(wanted("linux/amd64", "")).unwrap_err();
        assert_eq!(error.kind(), types::Kind::InvalidArgument);
        let both = [wanted("linux/amd64", ""), wanted("linux/amd64", "native")].concat();
        assert_eq!(unpacks.choose(both).unwrap().len(), 1);
    }

    #[test]
    fn the_platform_counts_where_it_is_checked() {
        let unpacks = only("linux/amd64", true);
        assert!(unpacks.choose(wanted("linux/arm64", "native")).is_err());
        assert_eq!(unpacks.choose(wanted("linux/amd64", "native")).unwrap().len(), 1);
    }
}
