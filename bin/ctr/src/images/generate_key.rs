// SPDX-License-Identifier: Apache-2.0
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use trust::PrivateKey;
use types::{Error, Kind, Result};

use crate::{access::ask, output::say};

/// The variable in which cosign looks for the password of a key.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// Make a pair of keys to sign images with.
#[derive(Debug, Args)]
#[command(
    after_help = "The files are cosign's: either program reads the other's.\nThe password is \
                        asked for, or taken from COSIGN_PASSWORD."
)]
pub(crate) struct GenerateKey {
    /// What the files are called, before .key and .pub
    #[arg(default_value = "cosign")]
    prefix: PathBuf,
}

impl GenerateKey {
    pub(crate) async fn run(self) -> Result<()> {
        let password = password("Password of the new key: ")?;
        let key = PrivateKey::generate()?;
        let public = key.public().to_pem();
        // Sealing takes a quarter of a second, by design.
        let sealed = tokio::task::spawn_blocking(move || key.to_pem(&password)).await;
        let sealed = sealed.map_err(|e| Error::caused(Kind::Internal, "seal the key", e))??;
        for (end, mode, text) in [("key", 0o600, sealed), ("pub", 0o644, public)] {
            let mut name = self.prefix.clone().into_os_string();
            name.push(format!(".{end}"));
            write(Path::new(&name), mode, &text)?;
            say!("{}", Path::new(&name).display());
        }
        Ok(())
    }
}

/// A key that is there already is not written over: nothing could be signed with it any more.
fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    Ok(options.open(path)?.write_all(text.as_bytes())?)
}

/// The password of a key: from the environment, or from whoever is there.
pub(super) fn password(question: &str) -> Result<Vec<u8>> {
    match std::env::var(PASSWORD) {
        Ok(password) => Ok(password.into_bytes()),
        Err(_) => Ok(ask(question)?.into_bytes()),
    }
}
