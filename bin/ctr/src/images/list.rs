// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use client::Client;
use records::Image;
use types::{Filters, Platform, Result, platform::Matcher};

use crate::{connection::Connection, labels, output, table::Table, units};

/// Lists images, also those of which something is missing.
pub(crate) async fn run(connection: &Connection, quiet: bool, filters: Vec<String>) -> Result<()> {
    let client = connection.client().await?;
    let images = client.images.list(&Filters::parse(filters)?).await?;
    if quiet {
        output::lines(images.iter().map(|image| &image.name));
        return Ok(());
    }
    let mut table = Table::new(["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]);
    for image in &images {
        table.row([
            image.name.clone(),
            image.target.media_type.clone(),
            image.target.digest.to_string(),
            size(&client, image).await,
            platforms(&client, image).await,
            labels::cell(&image.labels),
        ]);
    }
    table.print();
    Ok(())
}

async fn size(client: &Client, image: &Image) -> String {
    let here = Matcher::only(&Platform::host());
    let size = ::images::size(&*client.content, &image.target, &here).await;
    size.map_or_else(|error| unknown(image, "size", &error), units::bytes)
}

async fn platforms(client: &Client, image: &Image) -> String {
    match ::images::platforms(&*client.content, &image.target).await {
        Ok(platforms) if platforms.is_empty() => "-".to_owned(),
        Ok(platforms) => {
            let names: BTreeSet<String> = platforms.iter().map(Platform::to_string).collect();
            names.into_iter().collect::<Vec<_>>().join(",")
        }
        Err(error) => unknown(image, "platforms", &error),
    }
}

/// One image that cannot be read does not hide the others.
fn unknown(image: &Image, what: &str, error: &types::Error) -> String {
    eprintln!("ctr: {what} of image {}: {error}", image.name);
    "-".to_owned()
}
