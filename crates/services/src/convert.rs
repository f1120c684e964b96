// SPDX-License-Identifier: Apache-2.0
//! The types that several services share, in both directions.
use std::time::SystemTime;

use ::mount::Mount;
use api::containerd::types as wire;
use bytes::Bytes;
use prost_types::Timestamp;
use types::{Any, Descriptor, Digest, Error, FieldMask, Filters, Platform, Result};

/// A domain type that has a message.
pub(crate) trait ToWire {
    type Wire;

    fn to_wire(self) -> Self::Wire;
}

/// A domain type that a message may hold.
pub(crate) trait FromWire<W>: Sized {
    fn from_wire(wire: W) -> Result<Self>;
}

impl<T: ToWire> ToWire for Vec<T> {
    type Wire = Vec<T::Wire>;

    fn to_wire(self) -> Self::Wire {
        self.into_iter().map(T::to_wire).collect()
    }
}

impl<T: FromWire<W>, W> FromWire<Vec<W>> for Vec<T> {
    fn from_wire(wire: Vec<W>) -> Result<Self> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl ToWire for Any {
    type Wire = prost_types::Any;

    fn to_wire(self) -> Self::Wire {
        prost_types::Any { type_url: self.type_url, value: self.value.into() }
    }
}

/// The same value in the domain's words; it cannot fail.
pub(crate) fn any(wire: prost_types::Any) -> Any {
    Any { type_url: wire.type_url, value: Bytes::from(wire.value) }
}

impl ToWire for SystemTime {
    type Wire = Option<Timestamp>;

    fn to_wire(self) -> Self::Wire {
        Some(Timestamp::from(self))
    }
}

/// A time, or the epoch where none was said or it cannot be told (Go's zero time is year 1).
pub(crate) fn time(wire: Option<Timestamp>) -> SystemTime {
    wire.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl ToWire for FieldMask {
    type Wire = Option<prost_types::FieldMask>;

    fn to_wire(self) -> Self::Wire {
        (!self.is_empty()).then(|| prost_types::FieldMask { paths: self.paths().to_vec() })
    }
}

pub(crate) fn mask(wire: Option<prost_types::FieldMask>) -> FieldMask {
    FieldMask::new(wire.map(|mask| mask.paths).unwrap_or_default())
}

pub(crate) fn filters(texts: &[String]) -> Result<Filters> {
    Filters::parse(texts)
}

impl ToWire for Mount {
    type Wire = wire::Mount;

    fn to_wire(self) -> Self::Wire {
        wire::Mount {
            r#type: self.kind,
            source: self.source,
            target: self.target,
            options: self.options,
        }
    }
}

impl FromWire<wire::Mount> for Mount {
    fn from_wire(wire: wire::Mount) -> Result<Self> {
        let wire::Mount { r#type: kind, source, target, options } = wire;
        Ok(Self { kind, source, target, options })
    }
}

impl ToWire for Descriptor {
    type Wire = wire::Descriptor;

    fn to_wire(self) -> Self::Wire {
        wire::Descriptor {
            media_type: self.media_type,
            digest: self.digest.to_string(),
            size: self.size as i64,
            annotations: self.annotations,
        }
    }
}

impl FromWire<wire::Descriptor> for Descriptor {
    fn from_wire(wire: wire::Descriptor) -> Result<Self> {
        let size = u64::try_from(wire.size)
            .map_err(|_negative| Error::invalid(format!("descriptor size {}", wire.size)))?;
        let digest: Digest = wire.digest.parse()?;
        let descriptor = Self::new(wire.media_type, digest, size);
        Ok(Self { annotations: wire.annotations, ..descriptor })
    }
}

impl ToWire for Platform {
    type Wire = wire::Platform;

    fn to_wire(self) -> Self::Wire {
        wire::Platform {
            os: self.os,
            architecture: self.architecture,
            variant: self.variant,
            os_version: self.os_version,
            os_features: self.os_features,
        }
    }
}

impl FromWire<wire::Platform> for Platform {
    fn from_wire(wire: wire::Platform) -> Result<Self> {
        let wire::Platform { os, architecture, variant, os_version, os_features } = wire;
        Ok(Self { os, architecture, variant, os_version, os_features })
    }
}

/// A part of a message that a well-behaved peer never leaves out.
pub(crate) fn present<T>(part: Option<T>, name: &'static str) -> Result<T> {
    part.ok_or_else(|| Error::invalid(format!("{name} is required")))
}

/// Text that means nothing when it is empty.
pub(crate) fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A digest that means nothing when it is empty.
pub(crate) fn digest(text: &str) -> Result<Option<Digest>> {
    non_empty(text).map(str::parse).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_survives_the_wire() {
        let mut descriptor = Descriptor::new("application/x", Digest::of("x"), 1);
        descriptor.annotations.insert("a".into(), "b".into());
        assert_eq!(Descriptor::from_wire(descriptor.clone().to_wire()).unwrap(), descriptor);
    }

    #[test]
    fn a_descriptor_with_a_bad_digest_or_size_is_refused() {
        let good = Descriptor::new("", Digest::of(""), 0).to_wire();
        assert!(Descriptor::from_wire(wire::Descriptor { size: -1, ..good.clone() }).is_err());
        assert!(Descriptor::from_wire(wire::Descriptor { digest: "x".into(), ..good }).is_err());
    }

    #[test]
    fn times_before_the_epoch_are_the_epoch() {
        let year_one = Timestamp { seconds: -62_135_596_800, nanos: 0 };
        assert!(time(Some(year_one)) <= SystemTime::UNIX_EPOCH);
        assert_eq!(time(None), SystemTime::UNIX_EPOCH);
    }
}
