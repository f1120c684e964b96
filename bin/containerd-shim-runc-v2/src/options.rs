// SPDX-License-Identifier: Apache-2.0
//! The options of the runtime, as they come and as they are kept in a bundle.
use std::{io, path::Path};

use api::containerd::runc::v1::Options;
use fs_err as fs;
use prost_types::Any;
use serde::{Deserialize, Serialize};
use types::{Context, Error, Result};

/// The file of a bundle that keeps the options for `delete`.
const OPTIONS: &str = "options.json";
/// Compat: the name of the program once more, for shims that know nothing else.
const RUNTIME: &str = "runtime";

/// Unpacks options. None at all are the defaults.
///
/// Errors: `InvalidArgument` for options of another runtime.
pub(crate) fn unpack(any: Option<&Any>) -> Result<Options> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty() || !any.value.is_empty()) else {
        return Ok(Options::default());
    };
    match api::unpack(any) {
        Some(options) => options
            .map_err(|error| Error::caused(types::Kind::InvalidArgument, "runtime options", error)),
        None => Err(Error::invalid(format!("runtime options of type {:?}", any.type_url))),
    }
}

/// Keeps options in a bundle.
pub(crate) fn write(bundle: &Path, options: &Options) -> Result<()> {
    let kept = serde_json::to_vec(&Kept::from(options)).map_err(io::Error::from)?;
    fs::write(bundle.join(OPTIONS), kept)?;
    Ok(fs::write(bundle.join(RUNTIME), &options.binary_name)?)
}

/// Reads the options that a bundle keeps. A bundle that keeps none has the defaults.
pub(crate) fn read(bundle: &Path) -> Result<Options> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match fs::read(bundle.join(OPTIONS)) {
        Ok(kept) => {
            let kept = serde_json::from_slice::<Kept>(&kept).map_err(io::Error::from);
            kept.map(Options::from).context(|| OPTIONS)
        }
        Err(error) if missing(&error) => {
            let binary_name = fs::read_to_string(bundle.join(RUNTIME)).unwrap_or_default();
            Ok(Options { binary_name, ..Default::default() })
        }
        Err(error) => Err(error.into()),
    }
}

macro_rules! kept {
    ($($field:ident: $kind:ty),* $(,)?) => {
        /// Options in JSON, with the names that Go's shim writes and reads (containerd
        /// `api/types/runc/options/oci.pb.go`).
        #[derive(Default, Serialize, Deserialize)]
        #[serde(default)]
        struct Kept {
            $(#[serde(skip_serializing_if = "is_default")] $field: $kind,)*
        }

        impl From<&Options> for Kept {
            fn from(options: &Options) -> Self {
                let options = options.clone();
                Self { $($field: options.$field),* }
            }
        }

        impl From<Kept> for Options {
            fn from(kept: Kept) -> Self {
                Self { $($field: kept.$field),* }
            }
        }
    };
}

kept! {
    no_pivot_root: bool,
    no_new_keyring: bool,
    shim_cgroup: String,
    io_uid: u32,
    io_gid: u32,
    binary_name: String,
    root: String,
    systemd_cgroup: bool,
    criu_image_path: String,
    criu_work_path: String,
    task_api_address: String,
    task_api_version: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_in_a_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            io_uid: 7,
            ..Default::default()
        };
        write(dir.path(), &options).unwrap();
        let text = fs::read_to_string(dir.path().join(OPTIONS)).unwrap();
        assert_eq!(text, r#"{"io_uid":7,"binary_name":"crun","systemd_cgroup":true}"#);
        assert_eq!(read(dir.path()).unwrap(), options);
    }

    #[test]
    fn a_bundle_without_options_may_name_a_program() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Options::default());
        fs::write(dir.path().join(RUNTIME), "youki").unwrap();
        assert_eq!(read(dir.path()).unwrap().binary_name, "youki");
    }

    #[test]
    fn options_of_another_runtime_are_refused() {
        let options = Options { root: "/r".into(), ..Default::default() };
        assert_eq!(unpack(Some(&api::pack(&options))).unwrap(), options);
        assert_eq!(unpack(None).unwrap(), Options::default());
        let other = Any { type_url: "kata.Options".into(), value: vec![] };
        assert_eq!(unpack(Some(&other)).unwrap_err().kind(), types::Kind::InvalidArgument);
    }
}
