// SPDX-License-Identifier: Apache-2.0
//! A shim's command line, as Go's `flag` package reads it.
use types::{Error, Result};

/// The flags in the order that Go prints them in: what is said about each, and whether it has a value
/// (containerd `pkg/shim/shim.go`). Go leaves the short form of a flag without words, to group it with
/// the long one.
const USAGE: &[(&str, bool, &str)] = &[
    ("address", true, "grpc address back to main containerd"),
    ("bundle", true, "path to the bundle if not workdir"),
    ("debug", false, "enable debug output in logs"),
    ("debug-socket", true, "debug socket path to serve"),
    ("id", true, "id of the task"),
    (
        "info",
        false,
        "get the option protobuf from stdin, print the shim info protobuf to stdout, and exit",
    ),
    ("namespace", true, "namespace that owns the shim"),
    (
        "publish-binary",
        true,
        "path to publish binary (used for publishing events), but {program} will ignore this flag, \
         please use the TTRPC_ADDRESS env",
    ),
    ("socket", true, "socket path to serve"),
    ("v", false, ""),
    ("version", false, "show the shim version and exit"),
];

/// What was asked for on the command line (containerd `pkg/shim/shim.go`, `parseFlags`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `-namespace`: the namespace that owns the shim.
    pub namespace: String,
    /// `-id`: the task that it is started for.
    pub id: String,
    /// `-address`: the daemon's gRPC socket.
    pub address: String,
    /// `-publish-binary`: a program that publishes events.
    pub publish_binary: String,
    /// `-socket`: where to listen, when no socket was inherited.
    pub socket: String,
    /// `-debug-socket`: accepted, and not used: there is no profiler to serve.
    pub debug_socket: String,
    /// `-bundle`: the bundle, when it is not the working directory.
    pub bundle: String,
    /// `-debug`: say more in the log.
    pub debug: bool,
    /// `-v`, `-version`: print the version and end.
    pub version: bool,
    /// `-info`: print what the runtime can do and end.
    pub info: bool,
    /// `-h`, `-help`: print the flags and end. What follows was not read.
    pub help: bool,
    /// The first argument that is no flag: `start`, `delete` or nothing, which is to serve.
    pub action: String,
}

impl Flags {
    /// Reads arguments, without the program's name.
    ///
    /// Errors: `InvalidArgument` with Go's text for a flag that is unknown or lacks its value.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut flags = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(flag) = flag_of(&arg) else {
                flags.action = if arg == "--" { args.next().unwrap_or_default() } else { arg };
                break;
            };
            if flag.starts_with(['-', '=']) {
                return Err(said(format!("bad flag syntax: {arg}")));
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if ["h", "help"].contains(&name) {
                flags.help = true;
                break;
            }
            flags.set(name, value, &mut args)?;
        }
        Ok(flags)
    }

    /// The flags that `program` has, as Go's `flag` package prints them.
    pub fn usage(program: &str) -> String {
        let line = |(name, has_value, words): &(&str, bool, &str)| {
            let kind = if *has_value { " string" } else { "" };
            // What fits before the first tab stop stays on one line.
            let gap = if name.len() == 1 { "" } else { "\n    " };
            format!("  -{name}{kind}{gap}\t{}\n", words.replace("{program}", program))
        };
        format!("Usage of {program}:\n{}", USAGE.iter().map(line).collect::<String>())
    }

    fn set(
        &mut self,
        name: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<()> {
        if let Some(switch) = self.switch(name) {
            *switch = truth(name, value.as_deref().unwrap_or("true"))?;
            return Ok(());
        }
        let Some(text) = self.text(name) else {
            return Err(said(format!("flag provided but not defined: -{name}")));
        };
        *text = value
            .or_else(|| rest.next())
            .ok_or_else(|| said(format!("flag needs an argument: -{name}")))?;
        Ok(())
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "debug" => &mut self.debug,
            "v" | "version" => &mut self.version,
            "info" => &mut self.info,
            _ => return None,
        })
    }

    fn text(&mut self, name: &str) -> Option<&mut String> {
        Some(match name {
            "namespace" => &mut self.namespace,
            "id" => &mut self.id,
            "address" => &mut self.address,
            "publish-binary" => &mut self.publish_binary,
            "socket" => &mut self.socket,
            "debug-socket" => &mut self.debug_socket,
            "bundle" => &mut self.bundle,
            _ => return None,
        })
    }
}

/// The flag in an argument: one dash or two before it. A lone dash, and two, are none.
fn flag_of(arg: &str) -> Option<&str> {
    let flag = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    (!flag.is_empty()).then_some(flag)
}

/// The spellings of Go's `strconv.ParseBool`.
fn truth(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(said(format!("invalid boolean value {value:?} for -{name}: parse error"))),
    }
}

fn said(message: String) -> Error {
    Error::said(types::Kind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_a_daemon_says_is_understood() {
        let line = "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd \
                    -id a -debug start";
        let flags = parse(line).unwrap();
        assert_eq!((flags.namespace.as_str(), flags.id.as_str()), ("default", "a"));
        assert_eq!(flags.address, "/run/c.sock");
        assert_eq!(flags.publish_binary, "/usr/bin/containerd");
        assert_eq!((flags.action.as_str(), flags.debug), ("start", true));
    }

    #[test]
    fn two_dashes_and_equal_signs_are_the_same() {
        let flags = parse("--id=a --bundle=/b=c -debug=false -v delete").unwrap();
        assert_eq!((flags.id.as_str(), flags.bundle.as_str()), ("a", "/b=c"));
        assert_eq!((flags.debug, flags.version, flags.action.as_str()), (false, true, "delete"));
    }

    #[test]
    fn flags_after_the_action_are_not_read() {
        assert_eq!(parse("start -id a").unwrap().id, "");
        assert_eq!(parse("-id a -- -x").unwrap().action, "-x");
    }

    #[test]
    fn every_flag_is_in_the_usage_and_known() {
        let text = Flags::usage("shim");
        assert!(text.starts_with("Usage of shim:\n  -address string\n    \tgrpc"), "{text}");
        assert!(text.contains("but shim will ignore") && text.contains("\n  -v\t\n"), "{text}");
        for (name, has_value, _) in USAGE {
            let line = if *has_value { format!("-{name} x") } else { format!("-{name}") };
            assert_ne!(parse(&line).unwrap(), Flags::default(), "{line}");
        }
        assert!(parse("-id a --help -nope").unwrap().help && parse("-h").unwrap().help);
    }

    #[test]
    fn what_go_refuses_is_refused_in_its_words() {
        for (line, want) in [
            ("-nope", "flag provided but not defined: -nope"),
            ("-id", "flag needs an argument: -id"),
            ("-=a", "bad flag syntax: -=a"),
            ("---id a", "bad flag syntax: ---id"),
            ("-debug=maybe", "invalid boolean value \"maybe\" for -debug: parse error"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), want);
        }
    }
}
