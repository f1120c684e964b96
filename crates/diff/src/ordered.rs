// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use async_trait::async_trait;
use mount::Mount;
use types::{Descriptor, Error, Kind, Result};

use crate::{Apply, Arriving, Compare, Differ};

/// Several differs, each asked in turn until one knows what to do: `Unimplemented` is how one says
/// that it does not (containerd `plugins/services/diff/local.go`).
pub struct Ordered {
    differs: Vec<Arc<dyn Differ>>,
    sync_fs: bool,
}

impl Ordered {
    /// Asks `differs` in this order. With `sync_fs`, every layer is asked to be on disk before the
    /// answer, whatever the caller says.
    pub fn new(differs: Vec<Arc<dyn Differ>>, sync_fs: bool) -> Self {
        Self { differs, sync_fs }
    }
}

#[async_trait]
impl Differ for Ordered {
    async fn apply(
        &self,
        descriptor: &Descriptor,
        mounts: &[Mount],
        mut options: Apply,
    ) -> Result<Descriptor> {
        options.sync_fs |= self.sync_fs;
        let mut outcome = Err(Error::unimplemented("no differ"));
        for differ in &self.differs {
            outcome = differ.apply(descriptor, mounts, options.clone()).await;
            if !is_not_for(&outcome) {
                break;
            }
        }
        outcome
    }

    fn takes_arriving(&self) -> bool {
        self.differs.first().is_some_and(|first| first.takes_arriving())
    }

    /// Bytes arrive once, so only the first is asked.
    async fn apply_arriving(
        &self,
        media_type: &str,
        source: Arriving,
        mounts: &[Mount],
        mut options: Apply,
    ) -> Result<Descriptor> {
        options.sync_fs |= self.sync_fs;
        let first = self.differs.first().ok_or_else(|| Error::unimplemented("no differ"))?;
        first.apply_arriving(media_type, source, mounts, options).await
    }

    async fn compare(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        options: Compare,
    ) -> Result<Descriptor> {
        let mut outcome = Err(Error::unimplemented("no differ"));
        for differ in &self.differs {
            outcome = differ.compare(lower, upper, options.clone()).await;
            if !is_not_for(&outcome) {
                break;
            }
        }
        outcome
    }
}

fn is_not_for(outcome: &Result<Descriptor>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == Kind::Unimplemented)
}

#[cfg(test)]
mod tests {
    use types::{Digest, media_types};

    use super::*;

    /// Knows layers of one media type, and says whether it was asked for `sync_fs`.
    struct Only(&'static str);

    #[async_trait]
    impl Differ for Only {
        async fn apply(&self, of: &Descriptor, _: &[Mount], how: Apply) -> Result<Descriptor> {
            match of.media_type == self.0 {
                true if how.sync_fs => Ok(Descriptor::new(self.0, Digest::of("synced"), 0)),
                true => Err(Error::invalid("layer")),
                false => Err(Error::unimplemented(self.0)),
            }
        }

        async fn compare(&self, _: &[Mount], _: &[Mount], how: Compare) -> Result<Descriptor> {
            let of = Descriptor::new(how.media_type, Digest::of("made"), 0);
            self.apply(&of, &[], Apply { sync_fs: true, ..Apply::default() }).await
        }
    }

    fn apply(differ: &Ordered, media_type: &str) -> Result<Descriptor> {
        let layer = Descriptor::new(media_type, Digest::of(""), 0);
        block_on(differ.apply(&layer, &[], Apply::default()))
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn the_first_that_knows_what_to_do_does_it() {
        let differs = || [media_types::LAYER, "other"].map(|it| Arc::new(Only(it)) as _).into();
        let differ = Ordered::new(differs(), true);
        assert_eq!(apply(&differ, "other").unwrap().media_type, "other");
        assert_eq!(apply(&differ, "none").unwrap_err().kind(), Kind::Unimplemented);
        let made =
            differ.compare(&[], &[], Compare { media_type: "other".into(), ..Compare::default() });
        assert_eq!(block_on(made).unwrap().media_type, "other");
        let lazy = Ordered::new(differs(), false);
        assert_eq!(apply(&lazy, media_types::LAYER).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(
            apply(&Ordered::new(vec![], true), "x").unwrap_err().kind(),
            Kind::Unimplemented
        );
    }
}
