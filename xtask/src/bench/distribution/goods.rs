// SPDX-License-Identifier: Apache-2.0
//! An image that is made on the spot and behaves like a real one.
//!
//! What decides how long a layer takes is how well it compresses, and how many files of which size
//! it has. Programs and documents shrink to about two fifths, because they repeat what was a little
//! before: so these bytes are partly new, from an uneven alphabet, and partly copied from before.
//! Most files are small, and most bytes are in large ones.

use e2e::{Image, Layer, Tar};

/// How the bytes are spread over the layers, in hundredths: one large layer, and seven others.
const SHARES: [usize; 8] = [8, 50, 3, 15, 2, 10, 8, 4];

/// Enough that no window of a compressor ever sees the same place twice by chance.
const POOL: usize = 32 << 20;

/// An image of `size` bytes of files in eight layers.
pub(super) fn image(size: usize) -> Image {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let pool = pool(POOL, &mut dice);
    let layer = |(number, share): (usize, &usize)| {
        layer(number, (size / 100 * share).max(1), &pool, &mut dice)
    };
    Image::new(SHARES.iter().enumerate().map(layer).collect())
}

fn layer(number: usize, size: usize, pool: &[u8], dice: &mut Dice) -> Layer {
    let mut tar = Tar::new().dir(&format!("usr{number}"), 0o755);
    let (mut left, mut file, mut dir) = (size, 0, String::new());
    while left > 0 {
        if file % 32 == 0 {
            dir = format!("usr{number}/{:04}", file / 32);
            tar = tar.dir(&dir, 0o755);
        }
        let length = dice.length().min(left);
        let mode = if file % 7 == 0 { 0o755 } else { 0o644 };
        tar = tar.file(&format!("{dir}/{file:06}"), mode, &contents(length, pool, dice));
        (left, file) = (left - length, file + 1);
    }
    Layer::new(tar)
}

/// Places of the pool one after the other.
fn contents(length: usize, pool: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let piece = (length - bytes.len()).min(64 << 10);
        let from = dice.below(pool.len() - piece);
        bytes.extend_from_slice(&pool[from..from + piece]);
    }
    bytes
}

/// Bytes of which some are new and most were seen within the last 32 KiB.
fn pool(size: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 64);
    while bytes.len() < size {
        if bytes.len() > 64 && dice.below(100) < 55 {
            // Most of what is repeated is near.
            let reach = 1 << (4 + dice.below(12));
            let from = bytes.len() - 1 - dice.below(reach.min(bytes.len() - 1));
            let length = (5 + dice.below(27)).min(bytes.len() - from);
            bytes.extend_from_within(from..from + length);
        } else {
            for _ in 0..=dice.below(9) {
                // The lesser of two throws: small values are more frequent, as in programs.
                bytes.push(dice.below(256).min(dice.below(256)) as u8);
            }
        }
    }
    bytes.truncate(size);
    bytes
}

/// The same throws every time (Marsaglia's xorshift64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit.max(1)
    }

    /// The length of a file: each order of magnitude from 64 bytes to 16 MiB, larger ones less often.
    fn length(&mut self) -> usize {
        let order = self.below(19).min(self.below(19));
        (64 << order) + self.below(64 << order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shrinks_as_real_layers_do_and_is_the_same_every_time() {
        let packed = image(8 << 20).pack().expect("bytes in memory can be packed");
        assert_eq!(packed.layers.len(), 8);
        let hundredths = packed.size() * 100 / (8 << 20);
        assert!((30..50).contains(&hundredths), "it shrinks to {hundredths} of a hundred");
        let large = packed.layers.iter().map(|layer| layer.bytes.len()).max().unwrap_or_default();
        assert!(large * 5 > packed.size() * 2, "{large} of {}", packed.size());
        let again = image(8 << 20).pack().expect("bytes in memory can be packed");
        assert_eq!(packed.root.digest, again.root.digest);
    }
}
