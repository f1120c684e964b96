// SPDX-License-Identifier: Apache-2.0
//! Signals by name and by number, and those that are passed on.
use tokio::sync::mpsc;

/// The names and numbers of signal(7), as they are on x86, ARM and most others.
const NAMES: [(&str, u32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

/// The first and the last real-time signal, as Go counts them (github.com/moby/sys/signal).
const REAL_TIME: (u32, u32) = (34, 64);

/// What is asked to end, where nothing else was said.
pub(crate) const TERM: u32 = 15;
/// The size of the terminal changed.
pub(crate) const WINCH: u32 = 28;

/// What is passed on to a process that we stand in for. Stopping is left out, so that a shell can
/// stop us alone, and so is what is about ourselves: children, broken pipes, faults.
const FORWARDED: [u32; 9] = [1, 2, 3, 10, 12, 14, TERM, 18, WINCH];

/// Reads a signal: `15`, `TERM`, `SIGTERM`, `sigterm`, `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse::<u32>() {
        return match number {
            1..=64 => Ok(number),
            _ => Err(format!("invalid signal: {text}")),
        };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| real_time(name)).ok_or_else(|| format!("unknown signal {text:?}"))
}

fn real_time(name: &str) -> Option<u32> {
    let (first, last) = REAL_TIME;
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        first + offset_of(offset, '+')?
    } else {
        last.checked_sub(offset_of(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (first..=last).contains(&number).then_some(number)
}

fn offset_of(text: &str, sign: char) -> Option<u32> {
    if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse().ok() }
}

/// The signals that come from now on, in place of what they would do to us.
pub(crate) fn catch() -> std::io::Result<mpsc::UnboundedReceiver<u32>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in FORWARDED {
        let kind = tokio::signal::unix::SignalKind::from_raw(number as i32);
        let mut signals = tokio::signal::unix::signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(number).is_ok() {}
        });
    }
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_number_or_a_name_in_any_form() {
        for (text, number) in [
            ("15", 15),
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigKill", 9),
            ("usr1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-2", 62),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused_by_name() {
        for text in ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN-1", "RTMIN+31", "RTMAX-99"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
