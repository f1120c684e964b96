// SPDX-License-Identifier: Apache-2.0
//! `ctr oci`: what containerd would make of OCI's documents, without a daemon.
use clap::Subcommand;
use serde_json::Value;
use spec::{Container, Host, Options, Users};
use types::{Error, Platform, Result};

use crate::{connection::Connection, output::say};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the spec of a container of which nothing was said
    Spec {
        /// The platform it is for
        #[arg(long, value_name = "PLATFORM", default_value_t = Platform::host())]
        platform: Platform,
    },
}

impl Command {
    pub(crate) fn run(self, connection: &Connection) -> Result<()> {
        let Self::Spec { platform } = self;
        if platform.os != "linux" {
            let what = format!("specs for {} are not known here", platform.os);
            return Err(Error::unimplemented(what));
        }
        let container = Container::new(connection.namespace(), "");
        let spec = Options::default().plan(&container, &Users::default(), &Host::read()?)?;
        let spec: Value = serde_json::from_slice(&spec.to_json()).map_err(std::io::Error::from)?;
        say!("{spec:#}");
        Ok(())
    }
}
