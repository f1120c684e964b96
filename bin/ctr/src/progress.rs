// SPDX-License-Identifier: Apache-2.0
//! How far a transfer is: a bar for each blob on a terminal, and a line for each change elsewhere.
//!
//! ```text
//! index (8a45d93acd7b)       complete        [=============]       610 B /       610 B
//!   manifest (6d9ac9237a84)  complete        [=============]       527 B /       527 B
//!     layer (9ad63333ebc9)   downloading     [====>--------]    1.1 MiB /    3.2 MiB
//! elapsed: 0.4s  total: 1.1 MiB (2.8 MiB/s)  left: 1s  fetching image content
//! ```
use std::{
    collections::HashMap,
    fmt,
    io::IsTerminal as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use client::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{output::say, units};

/// A blob's line. The name is made as wide as the widest before it is drawn.
const BLOB: &str = "{prefix}  {msg:14}  [{wide_bar}]  {bytes:>11} / {total_bytes:>11}";
/// The last line, about the whole.
const WHOLE: &str = "elapsed: {elapsed}  total: {bytes} ({bytes_per_sec})  left: {eta}  {wide_msg}";
/// How often the time is told anew.
const TICK: Duration = Duration::from_millis(200);
/// How long the last reports may take.
const LINGER: Duration = Duration::from_secs(1);

/// Shows how far a transfer is.
pub(crate) struct Display {
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    board: Board,
    bars: Option<Bars>,
}

impl Display {
    /// Shows it as the standard output can.
    pub(crate) fn new() -> Arc<Self> {
        let bars = std::io::stdout().is_terminal().then(Bars::new);
        let state = State { board: Board::default(), bars };
        Arc::new(Self { begun: Instant::now(), state: Mutex::new(state) })
    }

    /// Says how long it took, and leaves the display as it is.
    pub(crate) fn finish(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bars) = &state.bars {
            return bars.freeze();
        }
        let (total, elapsed) = (state.board.total(), self.begun.elapsed());
        say!(
            "elapsed: {:.1}s  total: {}  ({})",
            elapsed.as_secs_f64(),
            units::bytes(total),
            rate(total, elapsed)
        );
    }

    /// Gives the terminal back where something failed.
    pub(crate) fn give_up(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bars) = &state.bars {
            bars.freeze();
        }
    }
}

impl Display {
    /// Lets somebody else report, from whom the last reports may come after the work was done.
    pub(crate) fn watch(self: &Arc<Self>) -> (Arc<dyn Progress>, Watching) {
        let (sender, mut events) = mpsc::unbounded_channel();
        let display = Arc::clone(self);
        let showing = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                display.report(event);
            }
        });
        // Without anybody to show it to, a report is lost, as it has to be.
        let report = move |event: Event| drop(sender.send(event));
        (Arc::new(report), Watching { showing })
    }
}

/// Reports from elsewhere.
pub(crate) struct Watching {
    showing: JoinHandle<()>,
}

impl Watching {
    /// Waits for the last reports, for a while.
    pub(crate) async fn end(self) {
        drop(tokio::time::timeout(LINGER, self.showing).await);
    }
}

impl Progress for Display {
    fn report(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { board, bars } = &mut *state;
        let Some(heard) = board.hear(event) else { return };
        match bars {
            Some(bars) => bars.show(board, &heard),
            None if heard.changed => say!("{}", board.text(&heard)),
            None => {}
        }
    }
}

/// What has been heard so far. It draws nothing.
#[derive(Debug, Default)]
struct Board {
    blobs: Vec<Blob>,
    places: HashMap<String, usize>,
    /// What was said last about the whole.
    whole: String,
}

#[derive(Debug)]
struct Blob {
    name: String,
    depth: usize,
    event: String,
    progress: u64,
    total: u64,
    /// Whether bytes of it were moved by us, in distinction to those that were there.
    moved: bool,
}

/// What an event was about, and whether it was more than some further bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    /// The place of a blob; none for the whole.
    place: Option<usize>,
    changed: bool,
}

impl Board {
    /// Takes in an event; none if it says nothing new.
    fn hear(&mut self, event: Event) -> Option<Heard> {
        let is_whole = event.name.is_empty() || event.parents.is_empty() && !is_blob(&event.name);
        if is_whole {
            let changed = self.whole != event.event;
            self.whole = event.event.into_owned();
            return changed.then_some(Heard { place: None, changed });
        }
        let place = self.place(&event);
        let blob = &mut self.blobs[place];
        let changed = blob.event != event.event;
        // Unpacking starts anew at nothing, but what was fetched stays fetched.
        blob.progress = blob.progress.max(event.progress);
        blob.total = blob.total.max(event.total);
        blob.moved |= matches!(&*event.event, "downloading" | "uploading");
        blob.event = event.event.into_owned();
        Some(Heard { place: Some(place), changed })
    }

    /// Where the blob stands. One that is new stands last, and further in than what refers to it.
    fn place(&mut self, event: &Event) -> usize {
        if let Some(place) = self.places.get(&event.name) {
            return *place;
        }
        let parents = event.parents.iter().filter_map(|parent| self.places.get(parent));
        let depth = parents.map(|place| self.blobs[*place].depth + 1).max().unwrap_or(0);
        let name = event.name.clone();
        self.places.insert(name.clone(), self.blobs.len());
        let (event, progress, total, moved) = (String::new(), 0, event.total, false);
        self.blobs.push(Blob { name, depth, event, progress, total, moved });
        self.blobs.len() - 1
    }

    /// How many bytes were moved.
    fn total(&self) -> u64 {
        self.blobs.iter().filter(|blob| blob.moved).map(|blob| blob.progress).sum()
    }

    /// How many bytes will have been moved in the end, as far as is known.
    fn expected(&self) -> u64 {
        let is_to_come = |blob: &&Blob| blob.moved || blob.event == "waiting";
        self.blobs.iter().filter(is_to_come).map(|blob| blob.total).sum()
    }

    fn text(&self, heard: &Heard) -> String {
        match heard.place {
            None => self.whole.clone(),
            Some(place) => {
                let Blob { name, depth, event, total, .. } = &self.blobs[place];
                let size = units::bytes(*total);
                format!("{:indent$}{}: {event} ({size})", "", short(name), indent = 2 * depth)
            }
        }
    }
}

/// The blobs' lines on a terminal.
struct Bars {
    all: MultiProgress,
    blobs: Vec<ProgressBar>,
    whole: ProgressBar,
    width: usize,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let whole = all.add(ProgressBar::no_length().with_style(style(WHOLE)));
        whole.enable_steady_tick(TICK);
        Self { all, blobs: Vec::new(), whole, width: 0 }
    }

    fn show(&mut self, board: &Board, heard: &Heard) {
        self.whole.set_length(board.expected());
        self.whole.set_position(board.total());
        let Some(place) = heard.place else {
            return self.whole.set_message(board.whole.clone());
        };
        let blob = &board.blobs[place];
        if place == self.blobs.len() {
            let bar = ProgressBar::new(blob.total).with_style(style(BLOB));
            let bar = bar.with_message(blob.event.clone());
            self.blobs.push(self.all.insert_before(&self.whole, bar));
            self.align(board);
        }
        let bar = &self.blobs[place];
        bar.set_length(blob.total);
        bar.set_position(blob.progress);
        if heard.changed {
            bar.set_message(blob.event.clone());
        }
    }

    /// Makes all names as wide as the widest.
    fn align(&mut self, board: &Board) {
        let name =
            |blob: &Blob| format!("{:indent$}{}", "", short(&blob.name), indent = 2 * blob.depth);
        let names: Vec<String> = board.blobs.iter().map(name).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let is_wider = width > std::mem::replace(&mut self.width, width);
        let from = if is_wider { 0 } else { self.blobs.len() - 1 };
        for (bar, name) in self.blobs.iter().zip(&names).skip(from) {
            bar.set_prefix(format!("{name:width$}"));
        }
    }

    /// Leaves what is drawn as it is.
    fn freeze(&self) {
        self.blobs.iter().chain([&self.whole]).for_each(ProgressBar::abandon);
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates above are sound");
    let elapsed = |state: &ProgressState, text: &mut dyn fmt::Write| {
        let _unwritten = write!(text, "{:.1}s", state.elapsed().as_secs_f64());
    };
    style.progress_chars("=>-").with_key("elapsed", elapsed)
}

/// Whether this names a blob, as the keys of ingests do: `layer-sha256:...`.
fn is_blob(name: &str) -> bool {
    ["index-", "manifest-", "config-", "layer-", "unknown-", "attestation-"]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// A name that fits a line: `layer (9ad63333ebc9)` for `layer-sha256:9ad63333ebc9...`.
fn short(name: &str) -> String {
    match name.split_once("-sha256:") {
        Some((kind, hex)) if hex.len() == 64 => format!("{kind} ({})", &hex[..12]),
        _ => name.to_owned(),
    }
}

fn rate(total: u64, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    let each_second = u128::from(total) * 1000 / millis;
    format!("{}/s", units::bytes(u64::try_from(each_second).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: &'static str, name: &str, parent: &str, progress: u64) -> Event {
        let parents = if parent.is_empty() { Vec::new() } else { vec![parent.to_owned()] };
        Event {
            event: event.into(),
            name: name.to_owned(),
            parents,
            progress,
            total: 100,
            ..Event::default()
        }
    }

    #[test]
    fn blobs_stand_below_what_refers_to_them() {
        let mut board = Board::default();
        let mut hear = |it| board.hear(it).map(|heard| board.text(&heard));
        let manifest = format!("manifest-sha256:{}", "6".repeat(64));
        assert_eq!(hear(event("fetching", "r.io/a:1", "", 0)).unwrap(), "fetching");
        assert_eq!(
            hear(event("waiting", &manifest, "r.io/a:1", 0)).unwrap(),
            "manifest (666666666666): waiting (100.0 B)"
        );
        assert_eq!(
            hear(event("waiting", "layer-x", &manifest, 0)).unwrap(),
            "  layer-x: waiting (100.0 B)"
        );
    }

    #[test]
    fn further_bytes_are_no_change_and_what_was_there_was_not_moved() {
        let mut board = Board::default();
        let place = Some(0);
        let mut hear = |it| board.hear(it);
        let changed = Some(Heard { place, changed: true });
        assert_eq!(hear(event("downloading", "layer-x", "m", 10)), changed);
        let same = Some(Heard { place, changed: false });
        assert_eq!(hear(event("downloading", "layer-x", "m", 40)), same);
        assert_eq!(hear(event("extracting", "layer-x", "m", 0)), changed);
        hear(event("already exists", "layer-y", "m", 100));
        hear(event("waiting", "layer-z", "m", 0));
        assert_eq!((board.total(), board.expected()), (40, 200));
    }

    #[test]
    fn more_than_four_gibibytes_are_counted() {
        let mut board = Board::default();
        let large = Event { total: 6 << 30, ..event("downloading", "layer-x", "m", 5 << 30) };
        board.hear(large);
        assert_eq!((board.total(), board.expected()), (5 << 30, 6 << 30));
        assert_eq!(rate(5 << 30, Duration::from_secs(5)), "1.0 GiB/s");
    }

    #[test]
    fn the_same_said_twice_of_the_whole_is_said_once() {
        let mut board = Board::default();
        assert!(board.hear(event("saved", "", "", 0)).is_some());
        assert!(board.hear(event("saved", "", "", 0)).is_none());
    }
}
