// SPDX-License-Identifier: Apache-2.0
//! Records that are kept only when the policy agrees.
use std::sync::Arc;

use ::records::{Container, Delete, Image, Records};
use async_trait::async_trait;
use types::{FieldMask, Filters, Result};

use super::Judge;

/// Images that may not all be kept.
pub(super) struct Images {
    pub(super) inner: Arc<dyn Records<Image>>,
    pub(super) judge: Judge,
}

#[async_trait]
impl Records<Image> for Images {
    async fn get(&self, name: &str) -> Result<Image> {
        self.inner.get(name).await
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<Image>> {
        self.inner.list(filters).await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        self.judge.image(&image.name, &image.target.digest).await?;
        self.inner.create(image).await
    }

    async fn update(&self, image: Image, mask: &FieldMask) -> Result<Image> {
        if touches(mask, "target") {
            self.judge.image(&image.name, &image.target.digest).await?;
        }
        self.inner.update(image, mask).await
    }

    async fn delete(&self, name: &str, options: Delete) -> Result<()> {
        self.inner.delete(name, options).await
    }
}

/// Containers that may not all be made.
pub(super) struct Containers {
    pub(super) inner: Arc<dyn Records<Container>>,
    pub(super) judge: Judge,
}

#[async_trait]
impl Records<Container> for Containers {
    async fn get(&self, name: &str) -> Result<Container> {
        self.inner.get(name).await
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<Container>> {
        self.inner.list(filters).await
    }

    async fn create(&self, container: Container) -> Result<Container> {
        self.judge.container(&container.image).await?;
        self.inner.create(container).await
    }

    async fn update(&self, container: Container, mask: &FieldMask) -> Result<Container> {
        if touches(mask, "image") {
            self.judge.container(&container.image).await?;
        }
        self.inner.update(container, mask).await
    }

    async fn delete(&self, name: &str, options: Delete) -> Result<()> {
        self.inner.delete(name, options).await
    }
}

/// Whether an update may change `field`: one without a mask changes all.
fn touches(mask: &FieldMask, field: &str) -> bool {
    mask.is_empty() || mask.paths().iter().any(|path| path.split('.').next() == Some(field))
}
