// SPDX-License-Identifier: Apache-2.0
//! OCI runtime specs: what a container is to be, told to whoever makes it.
//!
//! [`Options`] say what a person wants, an [`ImageConfig`] what the image's author wanted, a [`Host`]
//! what there is; [`Options::plan`] makes a [`Spec`] of them without touching anything. Specs that
//! others wrote keep every field through here, also those that this crate does not know.
//!
//! ```text
//!  Users::read(rootfs)   Host::read()
//!            \              /
//!  ImageConfig --- Options::plan --> Spec --to_any--> Container.spec --> config.json
//!                                     `---- Exec::plan --> Process
//! ```
//!
//! ```
//! use spec::{Container, Host, ImageConfig, Options, Users};
//!
//! let image = ImageConfig { cmd: vec!["/bin/sh".into()], ..ImageConfig::default() };
//! let container = Container::new("default", "demo").image(&image);
//! let options = Options { hostname: Some("demo".into()), ..Options::default() };
//! let spec = options.plan(&container, &Users::default(), &Host::default())?;
//! assert_eq!(spec.process.args, ["/bin/sh"]);
//! assert_eq!(spec.linux.cgroups_path, "/default/demo");
//! # Ok::<_, types::Error>(())
//! ```
pub mod apparmor;
pub mod blockio;
mod capability;
pub mod cdi;
mod default;
mod device;
mod document;
mod environment;
mod exec;
mod flags;
mod glob;
mod host;
mod image;
mod options;
pub mod seccomp;
mod user;
mod yaml;

pub use crate::{
    default::{default, default_devices},
    device::{devices, host_devices},
    document::{
        Capabilities, Cpu, Device, DeviceRule, IdMapping, Linux, Memory, Mount, Namespace, Pids,
        Process, Resources, Rlimit, Root, Spec, User,
    },
    exec::Exec,
    flags::{env_file, rlimit_nofile},
    host::Host,
    image::ImageConfig,
    options::{Container, Options, Seccomp},
    user::Users,
};
