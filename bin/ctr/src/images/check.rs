// SPDX-License-Identifier: Apache-2.0
use clap::Args;
use client::Client;
use records::Image;
use types::{Context as _, Descriptor, Filters, Platform, Result, platform::Matcher};

use crate::{connection::Connection, output::say, snapshots::Chosen, table::Table, units};

/// Check that images are complete and unpacked.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print only the names of those that are ready to run
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    chosen: Chosen,
    /// Filters, such as name==x
    filters: Vec<String>,
}

/// What is there of an image, in words.
struct Verdict {
    status: String,
    size: String,
    is_complete: bool,
    is_unpacked: bool,
}

impl Check {
    /// Looks at all images, and fails with the first failure in the end.
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let mut outcome = Ok(());
        let mut table = Table::new(["REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED"]);
        for image in client.images.list(&Filters::parse(&self.filters)?).await? {
            let (verdict, found) = self.judge(connection, &client, &image).await;
            outcome = outcome.and(found);
            if self.quiet {
                if verdict.is_complete && verdict.is_unpacked {
                    say!("{}", image.name);
                }
                continue;
            }
            let (media_type, digest) = (image.target.media_type, image.target.digest.to_string());
            let unpacked = verdict.is_unpacked.to_string();
            table.row([image.name, media_type, digest, verdict.status, verdict.size, unpacked]);
        }
        if !self.quiet {
            table.print();
        }
        outcome
    }

    async fn judge(
        &self,
        connection: &Connection,
        client: &Client,
        image: &Image,
    ) -> (Verdict, Result<()>) {
        let here = self.chosen.platform_of(connection, client, &image.target).await;
        let here = here.unwrap_or_else(|_unknown| Platform::host());
        let checked = ::images::check(&*client.content, &image.target, &Matcher::only(&here)).await;
        let checked = checked.context(|| format!("unable to check {}", image.name));
        let unpacked = client.is_unpacked(&image.target, self.chosen.name(), &here).await;
        let unpacked = match unpacked {
            // What is not there cannot have been unpacked: that was said by the check.
            Err(error) if error.is_not_found() => Ok(false),
            unpacked => unpacked.context(|| format!("unable to check unpack for {}", image.name)),
        };
        let verdict = Verdict::new(checked.as_ref().ok(), matches!(unpacked, Ok(true)));
        (verdict, checked.map(drop).and(unpacked.map(drop)))
    }
}

impl Verdict {
    /// In the words of containerd `cmd/ctr/commands/images/images.go`.
    fn new(check: Option<&::images::Check>, is_unpacked: bool) -> Self {
        let Some(check) = check else {
            let (status, size) = ("error".to_owned(), "-".to_owned());
            return Self { status, size, is_complete: false, is_unpacked };
        };
        let sum = |parts: &[Descriptor]| units::bytes(parts.iter().map(|part| part.size).sum());
        let (there, needed) = (check.present.len(), check.required.len());
        let is_complete = check.available && check.missing.is_empty();
        let (status, size) = match (check.available, is_complete) {
            (false, _) => {
                (format!("unavailable ({there}/?)"), format!("{}/?", sum(&check.present)))
            }
            (_, is_complete) => (
                format!(
                    "{} ({there}/{needed})",
                    if is_complete { "complete" } else { "incomplete" }
                ),
                format!("{}/{}", sum(&check.present), sum(&check.required)),
            ),
        };
        Self { status, size, is_complete, is_unpacked }
    }
}

#[cfg(test)]
mod tests {
    use types::{Digest, media_types};

    use super::*;

    #[track_caller]
    fn check(available: bool, required: &[&str], present: &[&str], want: (&str, &str)) {
        let part = |text: &&str| Descriptor::new(media_types::LAYER, Digest::of(text), 1024);
        let missing = required.iter().filter(|part| !present.contains(part)).map(part).collect();
        let check = ::images::Check {
            available,
            required: required.iter().map(part).collect(),
            present: present.iter().map(part).collect(),
            missing,
        };
        let verdict = Verdict::new(Some(&check), false);
        assert_eq!((verdict.status.as_str(), verdict.size.as_str()), want);
    }

    #[test]
    fn the_status_counts_what_is_there() {
        check(true, &["a", "b"], &["a", "b"], ("complete (2/2)", "2.0 KiB/2.0 KiB"));
        check(true, &["a", "b"], &["b"], ("incomplete (1/2)", "1.0 KiB/2.0 KiB"));
        check(false, &["a"], &[], ("unavailable (0/?)", "0.0 B/?"));
        assert_eq!(Verdict::new(None, false).status, "error");
    }
}
