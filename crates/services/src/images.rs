// SPDX-License-Identifier: Apache-2.0
//! The images service (`containerd.services.images.v1`).
use std::sync::Arc;

use ::records::{Delete, Image, Records};
use api::containerd::services::images::v1 as pb;
use async_trait::async_trait;
use pb::{
    images_client::ImagesClient,
    images_server::{Images, ImagesServer},
};
use tonic::{Request, Response, Status};
use types::{Descriptor, Error, FieldMask, Filters, Result, Scope};

use crate::call::{Limits, Peer, Reply, Scoped, detached, error, limited, status};
use crate::convert::{FromWire, ToWire, filters, mask, present, time};

/// Serves the records that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> ImagesServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Image>>> + Send + Sync + 'static,
{
    limited!(ImagesServer::new(Scoped::new(find)), limits)
}

/// The records that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Records<Image>> {
    Arc::new(Remote { client: limited!(ImagesClient::new(peer), Limits::default()) })
}

#[tonic::async_trait]
impl<F> Images for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Image>>> + Send + Sync + 'static,
{
    async fn get(&self, request: Request<pb::GetImageRequest>) -> Reply<pb::GetImageResponse> {
        let (records, request) = self.open(request)?;
        let image = records.get(&request.name).await.map_err(status)?;
        Ok(Response::new(pb::GetImageResponse { image: Some(image.to_wire()) }))
    }

    async fn list(&self, request: Request<pb::ListImagesRequest>) -> Reply<pb::ListImagesResponse> {
        let (records, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let images = records.list(&filters).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<pb::CreateImageRequest>,
    ) -> Reply<pb::CreateImageResponse> {
        let (records, request) = self.open(request)?;
        let wire = present(request.image, "image").map_err(status)?;
        if wire.name.is_empty() {
            return Err(Status::invalid_argument("Image.Name required"));
        }
        let image = Image::from_wire(wire).map_err(status)?;
        let image = detached(async move { records.create(image).await }).await?;
        Ok(Response::new(pb::CreateImageResponse { image: Some(image.to_wire()) }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateImageRequest>,
    ) -> Reply<pb::UpdateImageResponse> {
        let (records, request) = self.open(request)?;
        let mut wire = present(request.image, "image").map_err(status)?;
        let mask = mask(request.update_mask);
        if !mask.is_empty() && has_no_target(&wire) {
            // What the mask leaves out need not be said.
            let kept = records.get(&wire.name).await.map_err(status)?;
            wire.target = Some(kept.target.to_wire());
        }
        let image = Image::from_wire(wire).map_err(status)?;
        let image = detached(async move { records.update(image, &mask).await }).await?;
        Ok(Response::new(pb::UpdateImageResponse { image: Some(image.to_wire()) }))
    }

    async fn delete(&self, request: Request<pb::DeleteImageRequest>) -> Reply<()> {
        let (records, request) = self.open(request)?;
        let target = request.target.map(Descriptor::from_wire).transpose().map_err(status)?;
        let target = target.map(|descriptor| descriptor.digest);
        let options = Delete { sync: request.sync, target };
        detached(async move { records.delete(&request.name, options).await })
            .await
            .map(Response::new)
    }
}

fn has_no_target(image: &pb::Image) -> bool {
    image.target.as_ref().is_none_or(|target| target.digest.is_empty())
}

/// Compat: the words of containerd `core/metadata/images.go` for an image that names nothing.
fn target(image: &pb::Image) -> Result<Descriptor> {
    if has_no_target(image) {
        let message = "Target.Digest \"\" invalid: invalid checksum digest format";
        return Err(Error::invalid(message));
    }
    Descriptor::from_wire(image.target.clone().unwrap_or_default())
}

impl ToWire for Image {
    type Wire = pb::Image;

    fn to_wire(self) -> pb::Image {
        pb::Image {
            name: self.name,
            labels: self.labels,
            target: Some(self.target.to_wire()),
            created_at: self.created_at.to_wire(),
            updated_at: self.updated_at.to_wire(),
        }
    }
}

impl FromWire<pb::Image> for Image {
    fn from_wire(wire: pb::Image) -> Result<Self> {
        Ok(Self {
            target: target(&wire)?,
            name: wire.name,
            labels: wire.labels,
            created_at: time(wire.created_at),
            updated_at: time(wire.updated_at),
        })
    }
}

struct Remote {
    client: ImagesClient<Peer>,
}

impl Remote {
    fn client(&self) -> ImagesClient<Peer> {
        self.client.clone()
    }
}

#[async_trait]
impl Records<Image> for Remote {
    async fn get(&self, name: &str) -> Result<Image> {
        let request = pb::GetImageRequest { name: name.to_owned() };
        let reply = self.client().get(request).await.map_err(error)?.into_inner();
        Image::from_wire(present(reply.image, "image")?)
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<Image>> {
        let request = pb::ListImagesRequest { filters: filters.texts() };
        let reply = self.client().list(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.images)
    }

    async fn create(&self, record: Image) -> Result<Image> {
        let request =
            pb::CreateImageRequest { image: Some(record.to_wire()), source_date_epoch: None };
        let reply = self.client().create(request).await.map_err(error)?.into_inner();
        Image::from_wire(present(reply.image, "image")?)
    }

    async fn update(&self, record: Image, mask: &FieldMask) -> Result<Image> {
        let request = pb::UpdateImageRequest {
            image: Some(record.to_wire()),
            update_mask: mask.clone().to_wire(),
            source_date_epoch: None,
        };
        let reply = self.client().update(request).await.map_err(error)?.into_inner();
        Image::from_wire(present(reply.image, "image")?)
    }

    async fn delete(&self, name: &str, options: Delete) -> Result<()> {
        let target = options.target.map(|digest| Descriptor::new("", digest, 0).to_wire());
        let request = pb::DeleteImageRequest { name: name.to_owned(), sync: options.sync, target };
        self.client().delete(request).await.map_err(error)?;
        Ok(())
    }
}
