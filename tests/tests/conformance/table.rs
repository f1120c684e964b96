// SPDX-License-Identifier: Apache-2.0
//! The table in the documentation, read back.
//!
//! ```text
//! ## a task                              the subject
//! ### Tasks.Start                        the call
//! | state | containerd 1.6 | ours |
//! |---|---|---|
//! | no task, stopped | `NotFound: ...` | = |      some states, what theirs says, what ours says
//! ```
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use e2e::{Context, Make, Outcome, World, ensure, parts};

/// Subject, call and state.
type Place = (String, String, String);

/// What the documentation says that one daemon answers, and what was found to be wrong with it.
pub(super) struct Table {
    said: BTreeMap<Place, String>,
    /// What of an answer is only this run's, and what stands for it.
    private: Vec<(String, &'static str)>,
    played: RefCell<BTreeSet<Place>>,
    wrong: RefCell<Vec<String>>,
}

impl Table {
    /// Reads the column of the daemon that plays.
    pub(super) fn read(world: &World) -> Outcome<Self> {
        let text = fs_err::read_to_string(parts::workspace().join("docs/conformance.md"))?;
        let private = vec![
            (world.daemon.home().display().to_string(), "{home}"),
            (world.ctr.namespace().to_owned(), "{ns}"),
        ];
        Ok(Self {
            said: parse(&text, world.daemon.parts().daemon)?,
            private,
            played: RefCell::default(),
            wrong: RefCell::default(),
        })
    }

    /// Compares an answer about the subject `id` with what the table says.
    pub(super) fn check(&self, place: [&str; 3], id: &str, answer: &str) {
        let [subject, call, state] = place.map(str::to_owned);
        let place = (subject, call, state);
        let mut found = answer.replace(id, "{id}");
        for (text, name) in &self.private {
            found = found.replace(text, name);
        }
        let said = self.said.get(&place).map_or("", String::as_str);
        let alike = match said.split_once("...") {
            Some((start, end)) => found.starts_with(start) && found.ends_with(end),
            None => found == said,
        };
        if !alike {
            let (subject, call, state) = &place;
            let line = format!("{subject} | {call} | {state} | {found}\n    table says {said:?}");
            self.wrong.borrow_mut().push(line);
        }
        self.played.borrow_mut().insert(place);
    }

    /// Fails if an answer differs from the table, or if the table has what was not played.
    pub(super) fn done(&self, subjects: &[&str]) -> Outcome {
        let wrong = self.wrong.borrow();
        ensure!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
        let played = self.played.borrow();
        let mine = self.said.keys().filter(|(subject, ..)| subjects.contains(&subject.as_str()));
        let unplayed: Vec<_> = mine.filter(|place| !played.contains(*place)).collect();
        ensure!(unplayed.is_empty(), "nobody has played {unplayed:?}");
        Ok(())
    }
}

fn parse(text: &str, daemon: Make) -> Outcome<BTreeMap<Place, String>> {
    let (mut subject, mut call, mut said) = ("", "", BTreeMap::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            call = name;
        } else if let Some(name) = line.strip_prefix("## ") {
            (subject, call) = (name, "");
        } else if line.starts_with("| ") && !line.starts_with("| state ") {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [states, theirs, ours] = cells[..].try_into().context(format!("three: {line}"))?;
            let answer = if daemon == Make::Ours && ours != "=" { ours } else { theirs };
            for state in states.split(", ") {
                let place = (subject.to_owned(), call.to_owned(), state.to_owned());
                let before = said.insert(place, answer.trim_matches('`').to_owned());
                ensure!(before.is_none(), "{call} {state} is said twice");
            }
        }
    }
    Ok(said)
}
