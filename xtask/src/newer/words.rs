// SPDX-License-Identifier: Apache-2.0
//! The words of the newest `ctr`, daemon and shim, and whether ours know them: commands, their other
//! names, flags, whether these take a value, and what they are when nothing was said.
//!
//! Theirs are read from their help. Ours are asked: what is hidden in our help is known all the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::process::Output;
use e2e::{Context, Outcome, Parts, Profile, ensure};

/// What ours are without on purpose: the command, the word, and why. What is below a command that we
/// do not have is not asked for.
const WITHOUT: &[(&str, &str, &str)] = &[
    ("ctr", "pprof", "profiles of Go's runtime"),
    ("ctr shim", "pprof", "profiles of Go's runtime"),
    ("ctr", "install", "what a daemon runs is not changed by an image (docs/compat.md)"),
    ("ctr images mount", "*", "flags about registries and labels, which do nothing there"),
    ("ctr images unmount", "*", "flags about registries and labels, which do nothing there"),
];

/// What is otherwise in ours when nothing was said: the command, the flag, and why.
const OTHERWISE: &[(&str, &str, &str)] = &[];

/// How long one program may take to print its help.
const PATIENCE: Duration = Duration::from_mins(1);

/// Compares what is in `tools` with ours.
///
/// Errors: names everything that ours lack, and everything that they were to lack and do not.
pub(super) fn compare(tools: &Path) -> Outcome {
    let ours = e2e::parts::Programs::find(Parts::OURS, Profile::Dev)?;
    let mut found = Found::default();
    for (name, own) in [("ctr", &ours.ctr), ("containerd", &ours.daemon)] {
        let pair = Pair { theirs: tools.join(name), ours: own.clone() };
        found.walk(&pair, name, &[])?;
    }
    found.shim(&tools.join(SHIM), &ours.shim)?;
    found.judge()
}

const SHIM: &str = "containerd-shim-runc-v2";

/// The same program, by them and by us.
struct Pair {
    theirs: PathBuf,
    ours: PathBuf,
}

/// What was compared, and what came of it.
#[derive(Default)]
struct Found {
    commands: usize,
    flags: usize,
    lacking: Vec<String>,
    excused: BTreeSet<(&'static str, &'static str)>,
}

impl Found {
    fn walk(&mut self, pair: &Pair, path: &str, words: &[String]) -> Outcome {
        let help = Help::read(&asked(&pair.theirs, words, &["--help"])?.stdout);
        let own = asked(&pair.ours, words, &["--help"])?.ok()?;
        self.commands += 1;
        for flag in help.flags.iter().filter(|flag| !flag.is_about_itself()) {
            self.flag(pair, path, words, flag, &own)?;
        }
        for names in &help.commands {
            let mut is_known = true;
            for name in names {
                let below: Vec<String> = words.iter().chain([name]).cloned().collect();
                let known = asked(&pair.ours, &below, &["--help"])?.status.success();
                is_known &= known || name != &names[0];
                if !known {
                    self.lacks(path, name, "is no command of ours");
                }
            }
            if is_known {
                let below: Vec<String> = words.iter().chain([&names[0]]).cloned().collect();
                self.walk(pair, &format!("{path} {}", names[0]), &below)?;
            }
        }
        Ok(())
    }

    fn flag(
        &mut self,
        pair: &Pair,
        path: &str,
        words: &[String],
        flag: &Flag,
        own: &str,
    ) -> Outcome {
        for name in &flag.names {
            self.flags += 1;
            // A flag that takes a value finds none: help is a flag itself.
            let said = asked(&pair.ours, words, &[name, "--help"])?;
            let takes_value = said.stderr.contains("a value is required");
            if !said.status.success() && !takes_value {
                self.lacks(path, name, "is no flag of ours");
            } else if takes_value != flag.takes_value {
                self.lacks(
                    path,
                    name,
                    if takes_value { "takes a value" } else { "takes no value" },
                );
            }
        }
        let other = default_of(own, &flag.names).filter(|ours| {
            flag.default.as_deref().is_some_and(|theirs| plain(theirs) != plain(ours))
        });
        if let Some(ours) = other
            && !OTHERWISE
                .iter()
                .any(|it| it.0 == path && flag.names.iter().any(|name| name == it.1))
        {
            let theirs = flag.default.as_deref().unwrap_or_default();
            self.lacking.push(format!("{path} {}: is {ours}, not {theirs}", flag.names[0]));
        }
        Ok(())
    }

    /// Go's `flag` package: a shim ends after `-v`, whatever came before.
    fn shim(&mut self, theirs: &Path, ours: &Path) -> Outcome {
        let help = asked(theirs, &[], &["-h"])?;
        let names = help.stderr.lines().filter_map(|line| line.strip_prefix("  -"));
        let mut any = false;
        for line in names {
            let mut words = line.split_whitespace();
            let name = format!("-{}", words.next().context("a flag has a name")?);
            let value: &[&str] = if words.next() == Some("string") { &["x"] } else { &[] };
            let line = [&[name.as_str()], value, &["-v"]].concat();
            (self.flags, any) = (self.flags + 1, true);
            if name != "-info" && !asked(ours, &[], &line)?.status.success() {
                self.lacks(SHIM, &name, "is no flag of ours");
            }
        }
        ensure!(any, "no flags in the help of {SHIM}: {}", help.told());
        Ok(())
    }

    fn lacks(&mut self, path: &str, word: &str, how: &str) {
        let excuse = WITHOUT.iter().find(|it| it.0 == path && (it.1 == word || it.1 == "*"));
        match excuse {
            Some((path, word, _)) => drop(self.excused.insert((path, word))),
            None => self.lacking.push(format!("{path} {word}: {how}")),
        }
    }

    fn judge(mut self) -> Outcome {
        println!("{} commands and {} flags of theirs are known to ours", self.commands, self.flags);
        for (path, word, why) in WITHOUT {
            if self.excused.contains(&(*path, *word)) {
                println!("not: {path} {word}: {why}");
            } else {
                self.lacking.push(format!("{path} {word}: is not lacking any more"));
            }
        }
        ensure!(self.lacking.is_empty(), "ours differ:\n  {}", self.lacking.join("\n  "));
        Ok(())
    }
}

fn asked(program: &Path, words: &[String], more: &[&str]) -> Outcome<Output> {
    let mut command = Command::new(program);
    e2e::process::run(command.args(words).args(more), PATIENCE)
}

/// What a program of theirs says of one command.
#[derive(Debug, Default, PartialEq, Eq)]
struct Help {
    /// The commands below, each with its other names.
    commands: Vec<Vec<String>>,
    flags: Vec<Flag>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Flag {
    names: Vec<String>,
    takes_value: bool,
    default: Option<String>,
}

impl Flag {
    fn is_about_itself(&self) -> bool {
        self.names.iter().any(|name| name == "--help" || name == "--version")
    }
}

impl Help {
    /// Reads what `urfave/cli` prints: columns under headings.
    fn read(text: &str) -> Self {
        let mut help = Self::default();
        let mut heading = "";
        for line in text.lines() {
            if !line.starts_with(' ') {
                heading = line.trim_end_matches(':');
                continue;
            }
            let row = line.trim();
            let left = row.split("  ").next().unwrap_or_default();
            match heading {
                "COMMANDS" if line.starts_with("   ") && !line.starts_with("    ") => {
                    let names: Vec<_> = left.split(", ").map(str::to_owned).collect();
                    if names[0] != "help" && !names[0].is_empty() {
                        help.commands.push(names);
                    }
                }
                "OPTIONS" | "GLOBAL OPTIONS" if row.starts_with('-') => {
                    help.flags.push(Flag::read(left, row));
                }
                _ => {}
            }
        }
        help
    }
}

impl Flag {
    /// Reads `--name value, -n value [ --name value ]` and what is said of it.
    fn read(left: &str, row: &str) -> Self {
        let left = left.split(" [").next().unwrap_or_default();
        let words = left.split(", ").map(|word| word.split_once(' ').unwrap_or((word, "")));
        let (names, values): (Vec<_>, Vec<_>) = words.unzip();
        Self {
            names: names.into_iter().map(str::to_owned).collect(),
            takes_value: values.iter().any(|value| !value.is_empty()),
            default: between(row, "(default: ", ")").map(str::to_owned),
        }
    }
}

/// What our help says that a flag is when nothing was said.
fn default_of<'a>(help: &'a str, names: &[String]) -> Option<&'a str> {
    let mut rows = help.lines().skip_while(|line| {
        let words: Vec<_> = line.trim().split([' ', ',']).collect();
        !line.trim().starts_with('-') || !names.iter().any(|name| words.contains(&name.as_str()))
    });
    let first = rows.next()?;
    let rest = rows.take_while(|line| !line.trim().starts_with('-') && !line.trim().is_empty());
    [first].into_iter().chain(rest).find_map(|line| between(line, "[default: ", "]"))
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    rest.split_once(to).map(|it| it.0)
}

/// A value without quotes, and a time without what is nought in it.
fn plain(value: &str) -> &str {
    let value = value.trim_matches('"');
    let short = value.strip_suffix("0s").filter(|rest| rest.is_empty() || rest.ends_with('m'));
    match short {
        Some("") => "0",
        Some(rest) => rest.strip_suffix("0m").filter(|rest| rest.ends_with('h')).unwrap_or(rest),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "\
NAME:
   ctr x - Do

COMMANDS:
   list, ls  List them
   help, h   Shows a list of commands

OPTIONS:
   --tty, -t                      Give it one (default: false)
   --expires value, -x value      How long (default: 24h0m0s) [$TIME]
   --map a:b:c [ --map a:b:c ]
   --help, -h                     Show help (default: false)
";

    #[test]
    fn their_help_is_read() {
        let help = Help::read(THEIRS);
        assert_eq!(help.commands, [["list", "ls"]]);
        let shown: Vec<_> =
            help.flags.iter().map(|it| (it.names.join(" "), it.takes_value)).collect();
        let want =
            [("--tty -t", false), ("--expires -x", true), ("--map", true), ("--help -h", false)];
        assert_eq!(shown, want.map(|(names, takes)| (names.to_owned(), takes)));
        assert_eq!(help.flags[1].default.as_deref(), Some("24h0m0s"));
        assert!(help.flags[3].is_about_itself());
    }

    #[test]
    fn what_is_meant_unsaid_is_compared_as_it_is_meant() {
        let ours = "      --quiet\n          Say less\n  -x, --expires <TIME>\n          How long [default: 24h]\n";
        let names = ["--expires".to_owned(), "-x".to_owned()];
        assert_eq!(default_of(ours, &names), Some("24h"));
        assert_eq!(default_of(ours, &["--quiet".to_owned()]), None);
        for (theirs, ours) in
            [("24h0m0s", "24h"), ("0s", "0"), ("\"table\"", "table"), ("10s", "10s")]
        {
            assert_eq!(plain(theirs), ours);
        }
    }

    #[test]
    fn each_excuse_is_given_once() {
        let all: BTreeSet<_> = WITHOUT.iter().map(|it| (it.0, it.1)).collect();
        assert_eq!(all.len(), WITHOUT.len());
    }
}
