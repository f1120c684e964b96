// SPDX-License-Identifier: Apache-2.0
//! From an image to the same one made otherwise.
use std::time::SystemTime;

use images::Convert;
use records::Image;
use types::Result;

use crate::Client;

impl Client {
    /// Converts the image called `source` and keeps the outcome as `target`. Both may be the same.
    ///
    /// Errors: `NotFound` when the image, or a part of it that is converted, is not here.
    pub async fn convert(&self, source: &str, target: &str, how: &Convert) -> Result<Image> {
        let held = self.hold().await?;
        let outcome = held.client().convert_held(source, target, how).await;
        held.release().await;
        outcome
    }

    async fn convert_held(&self, source: &str, target: &str, how: &Convert) -> Result<Image> {
        let image = self.images.get(source).await?;
        let converted = images::convert(&*self.content, &image.target, how).await?;
        let now = SystemTime::now();
        let (name, labels) = (target.to_owned(), image.labels);
        let image = Image { name, labels, target: converted, created_at: now, updated_at: now };
        self.keep_image(image).await
    }
}
