// SPDX-License-Identifier: Apache-2.0
//! Foreign input, changed at random: whatever it is, it is borne.
//!
//! Inputs that once had an outcome of their own are kept in `tests/corpus/<target>`, and every test run
//! plays them and some hundred changes of them, from a seed that does not change. For longer:
//!
//! ```text
//! FUZZ_SECONDS  how long each target is played; `cargo xtask fuzz` says it
//! FUZZ_SEED     where the changes start
//! FUZZ_KEEP     keep inputs with outcomes that were not seen before
//! ```
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fs_err as fs;
use types::Digest;

use super::trees::Chance;

/// What reads foreign input.
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    /// Words that mean something to it.
    pub(crate) words: &'a [&'a [u8]],
    /// Makes a changed input worth a deeper look: checksums, say.
    pub(crate) repair: fn(&mut [u8]),
    /// Reads an input and answers with what came of it, in so few words that many inputs share them.
    /// Panics if it was not borne.
    pub(crate) read: &'a dyn Fn(&[u8]) -> String,
}

/// How many changed inputs every test run plays.
const FEW: u32 = 200;
/// How many inputs of a target are changed further at most.
const MANY: usize = 10_000;
/// How many of them are kept at most, and how long each may be.
const KEPT: usize = 48;
const LONGEST: usize = 4096;

impl Target<'_> {
    /// Plays it: first what is kept, then changes of it.
    pub(crate) fn play(&self) {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
        let limit: Option<u64> = number("FUZZ_SECONDS");
        let limit = limit.map(Duration::from_secs);
        let keeps = std::env::var_os("FUZZ_KEEP").is_some();
        let mut chance = Chance::new(number("FUZZ_SEED").unwrap_or(1));
        let mut inputs = self.kept();
        assert!(!inputs.is_empty(), "nothing is kept of {}", self.name);
        let (mut seen, mut kept) = (BTreeSet::new(), inputs.len());
        for input in &inputs {
            seen.insert(self.attempt(input));
        }
        let (started, mut count, mut slowest) = (Instant::now(), 0, Duration::ZERO);
        while limit.map_or(count < FEW, |limit| started.elapsed() < limit) {
            let input = self.changed(&inputs, &mut chance);
            let began = Instant::now();
            let outcome = self.attempt(&input);
            slowest = slowest.max(began.elapsed());
            count += 1;
            if input.len() <= 4 * LONGEST && inputs.len() < MANY && seen.insert(outcome) {
                if keeps && kept < KEPT && input.len() <= LONGEST {
                    kept += 1;
                    fs::write(self.folder().join(&Digest::of(&input).hex()[..16]), &input).unwrap();
                }
                inputs.push(input);
            }
        }
        println!(
            "{}: {count} inputs in {:.0?}, {} outcomes, {kept} kept, the slowest took {slowest:.1?}",
            self.name,
            started.elapsed(),
            seen.len()
        );
    }

    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(self.name)
    }

    /// What is kept, in the order of its names.
    fn kept(&self) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// Reads an input; one that is not borne is written down where cargo has its files.
    fn attempt(&self, input: &[u8]) -> String {
        catch_unwind(AssertUnwindSafe(|| (self.read)(input))).unwrap_or_else(|cause| {
            let name = format!("{}-{}", self.name, &Digest::of(input).hex()[..16]);
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            fs::write(&path, input).unwrap();
            println!("not borne, and kept as {}: {}", path.display(), input.escape_ascii());
            resume_unwind(cause)
        })
    }

    /// One of the inputs, with up to eight changes.
    fn changed(&self, inputs: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
        let mut input = inputs[chance.index(inputs.len())].clone();
        for _ in 0..=chance.index(8) {
            let at = chance.index(input.len() + 1);
            let end = (at + 1 + chance.index(16)).min(input.len());
            match chance.index(8) {
                0 if at < input.len() => input[at] ^= 1 << chance.index(8),
                1 if at < input.len() => input[at] = chance.index(256) as u8,
                2 => input.insert(at, chance.index(256) as u8),
                3 => drop(input.drain(at..end)),
                4 => {
                    let again = input[at..end].to_vec();
                    drop(input.splice(at..at, again));
                }
                5 => {
                    let other = &inputs[chance.index(inputs.len())];
                    input.truncate(at);
                    input.extend_from_slice(&other[chance.index(other.len() + 1)..]);
                }
                _ if !self.words.is_empty() => {
                    // In place of as much, so that what is at a fixed place stays there, or between.
                    let word = self.words[chance.index(self.words.len())];
                    let end = (at + word.len()).min(input.len());
                    let end = if chance.index(2) == 0 { at } else { end };
                    drop(input.splice(at..end, word.iter().copied()));
                }
                _ => {}
            }
        }
        input.truncate(16 * LONGEST);
        if chance.index(4) > 0 {
            (self.repair)(&mut input);
        }
        input
    }
}

/// An error in few words: its kind and its last link, without what differs from input to input.
pub(crate) fn in_few_words(error: &types::Error) -> String {
    let text = error.to_string();
    let last = text.rsplit(": ").next().unwrap_or_default();
    let words = last.split(' ').filter(|word| word.chars().all(|it| it.is_ascii_lowercase()));
    let words: Vec<_> = words.take(3).collect();
    format!("{:?} {}", error.kind(), words.join(" "))
}
