// SPDX-License-Identifier: Apache-2.0
use std::path::PathBuf;

use clap::Args;
use registry::Reference;
use trust::{Evidence, PublicKey};
use types::{Context as _, Digest, Error, Kind, Result};

use crate::{access::Access, connection::Connection, output::say, table::Table};

/// Tell who has signed an image.
#[derive(Debug, Args)]
#[command(
    after_help = "Signatures are looked for beside the image here and, with --remote, in its \
                        registry.\nIt fails when fewer of the keys have signed than are wanted."
)]
pub(crate) struct Verify {
    /// The public keys that are believed, as cosign.pub
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// How many of the keys must have signed; all of them unless said
    #[arg(long, value_name = "COUNT")]
    at_least: Option<usize>,
    /// Ask the image's registry too
    #[arg(long)]
    remote: bool,
    /// The image
    image: Reference,
    #[command(flatten)]
    access: Access,
}

impl Verify {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let keys = self.keys()?;
        let client = connection.client().await?;
        let name = self.image.to_string();
        let image = client.images.get(&name).await?.target.digest;
        let mut evidence = trust::kept(&*client.content, &image).await?;
        if self.remote {
            evidence.extend(self.remote(&image).await?);
        }
        let mut table = Table::new(["KEY", "ALGORITHM", "FINGERPRINT", "SIGNED"]);
        for (path, key) in &keys {
            let is_signed = evidence.iter().any(|it| it.is_by(key, &image));
            let signed = if is_signed { "yes" } else { "no" };
            table.row([path.clone(), key.algorithm().into(), key.hint(), signed.into()]);
        }
        say!("{name} ({image})");
        table.print();
        let all = keys.iter().map(|(path, key)| (path.as_str(), key));
        let found = trust::signers(&evidence, &image, all).len();
        let wanted = self.at_least.unwrap_or(keys.len());
        if found >= wanted {
            return Ok(());
        }
        let all: usize = evidence.iter().map(Evidence::count).sum();
        let what = format!(
            "{found} of {wanted} wanted keys have signed {name}; {all} signatures were looked at"
        );
        Err(Error::said(Kind::PermissionDenied, what))
    }

    fn keys(&self) -> Result<Vec<(String, PublicKey)>> {
        let read = |path: &PathBuf| {
            let name = path.display().to_string();
            let key = PublicKey::from_pem(&fs_err::read_to_string(path)?);
            Ok((name.clone(), key.context(|| name)?))
        };
        self.key.iter().map(read).collect()
    }

    async fn remote(&self, image: &Digest) -> Result<Vec<Evidence>> {
        let registry = self.access.registry()?;
        let candidates = registry.signatures(&self.image, image).await?;
        Ok(trust::gather(&*registry.fetcher(&self.image)?, &candidates).await)
    }
}
