// SPDX-License-Identifier: Apache-2.0
//! The least that has to be done: the same layers inflated, unpacked and hashed, by plain tools, all
//! at once.

use std::path::Path;
use std::process::Command;

use e2e::{Estate, Outcome, Packed};

use super::gauge::{Cost, measure};

/// Writes the layers to files, and measures what plain tools need for them.
pub(super) fn floor(image: &Packed, rounds: usize) -> Outcome<Vec<Cost>> {
    let estate = Estate::new()?;
    for (number, layer) in image.layers.iter().enumerate() {
        fs_err::write(estate.home().join(format!("layer{number}")), &layer.bytes)?;
    }
    super::gauge::sync(estate.home())?;
    (0..rounds).map(|_| round(image, estate.home())).collect()
}

fn round(image: &Packed, home: &Path) -> Outcome<Cost> {
    let mut script = Command::new("sh");
    script.args(["-c", &script_for(image.layers.len())]).current_dir(home);
    let cost = measure(vec![script], None, home)?;
    fs_err::remove_dir_all(home.join("trees"))?;
    Ok(cost)
}

fn script_for(layers: usize) -> String {
    let one = |number| {
        format!(
            "sha256sum layer{number} & mkdir -p trees/{number}\n\
             zcat layer{number} | tar x -C trees/{number} &\n"
        )
    };
    format!("{}wait", (0..layers).map(one).collect::<String>())
}
