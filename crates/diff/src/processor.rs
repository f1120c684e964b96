// SPDX-License-Identifier: Apache-2.0
//! Programs that turn one kind of layer into another, such as an encrypted one into a plain one
//! (containerd `docs/stream_processors.md`, `core/diff/stream.go`, `stream_unix.go`).
//!
//! A program reads the layer on standard input and writes another on standard output. What it needs
//! besides comes on file descriptor 3: a `google.protobuf.Any` in its binary form.
use std::{
    io::{self, Read, Seek, Write},
    path::PathBuf,
    thread::{Builder, Scope, ScopedJoinHandle},
    time::Duration,
};

use fs_err::File;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::MemfdFlags,
    process::Signal,
};
use sys::{Child, Command};
use types::{Any, Context, Error, Kind, Result, media_types};

use crate::media;

/// Tells a program the media type that it is given.
const MEDIA_TYPE_VARIABLE: &str = "STREAM_PROCESSOR_MEDIATYPE";

/// The file descriptor of the payload.
const PAYLOAD: i32 = 3;

/// How many programs a layer may go through: a circle has to end somewhere.
const MAX_STEPS: usize = 16;

/// How long a program may take to end by itself when something has failed.
const GRACE: Duration = Duration::from_millis(200);

/// How long a program may write nothing, unless it says otherwise.
const PATIENCE: Duration = Duration::from_mins(1);

/// How much of what a program complains about is kept.
const MAX_COMPLAINT: u64 = 64 * 1024;

/// A program that turns layers of some media types into layers of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// Its name, which payloads are addressed to.
    pub id: String,
    /// The media types that it reads.
    pub accepts: Vec<String>,
    /// The media type that it writes.
    pub returns: String,
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables for its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// How long it may be silent before it is taken for dead; none is a minute.
    pub patience: Option<Duration>,
}

/// Plans how a layer becomes a tar archive: which programs it goes through, and whether what comes
/// out may be compressed.
///
/// Errors: `Unimplemented` for a media type that nobody accepts.
pub(crate) fn plan<'a>(
    media_type: &str,
    processors: &'a [Processor],
) -> Result<(Vec<&'a Processor>, bool)> {
    let mut steps = Vec::new();
    let mut current = media_type;
    let accepting = |media_type: &str| {
        let accepts = |processor: &&Processor| processor.accepts.iter().any(|it| it == media_type);
        processors.iter().find(accepts)
    };
    while let Some(processor) = accepting(current) {
        if steps.len() == MAX_STEPS {
            let text = format!("stream processors for {media_type} lead in a circle");
            return Err(Error::failed_precondition(text));
        }
        steps.push(processor);
        current = &processor.returns;
        if current == media_types::LAYER {
            return Ok((steps, false));
        }
    }
    Ok((steps, media::is_compressed(current)?))
}

/// A program at work.
pub(crate) struct Running<'scope> {
    child: Child,
    complaint: ScopedJoinHandle<'scope, Vec<u8>>,
    id: String,
    is_stopped: bool,
}

/// What a program reads or writes.
pub(crate) type Source<'scope> = Box<dyn Read + Send + 'scope>;

impl Processor {
    /// Starts the program on `source` and hands out what it writes.
    pub(crate) fn start<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        media_type: &str,
        mut source: Source<'scope>,
        payload: Option<&Any>,
    ) -> Result<(Source<'scope>, Running<'scope>)> {
        let (input, mut feed) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let (mut errors, stderr) = io::pipe()?;
        let mut command = self.command(media_type).stdin(input).stdout(stdout).stderr(stderr);
        if let Some(payload) = payload {
            command = command.pass_fd(payload_file(payload)?.into_parts().0, PAYLOAD);
        }
        let child = command.spawn().context(|| format!("stream processor {}", self.id))?;
        let feeding = move || {
            // A program that has read enough, or has failed, tells so by how it ends.
            drop(io::copy(&mut source, &mut feed));
        };
        let named = |name: &str| Builder::new().name(name.into());
        named("diff-feed").spawn_scoped(scope, feeding)?;
        let listening = move || {
            let mut complaint = Vec::new();
            drop(Read::by_ref(&mut errors).take(MAX_COMPLAINT).read_to_end(&mut complaint));
            drop(io::copy(&mut errors, &mut io::sink()));
            complaint
        };
        let complaint = named("diff-errors").spawn_scoped(scope, listening)?;
        let patience = self.patience.unwrap_or(PATIENCE);
        let output = Patient { output, id: self.id.clone(), patience };
        Ok((Box::new(output), Running { child, complaint, id: self.id.clone(), is_stopped: false }))
    }

    fn command(&self, media_type: &str) -> Command {
        let command = Command::new(&self.path).args(&self.args);
        let variables = self.env.iter().filter_map(|variable| variable.split_once('='));
        variables
            .fold(command, |command, (name, value)| command.env(name, value))
            .env(MEDIA_TYPE_VARIABLE, media_type)
    }
}

/// What a program writes, as long as it does.
struct Patient {
    output: io::PipeReader,
    id: String,
    patience: Duration,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { output, id, patience } = self;
        let wait =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let mut fds = [PollFd::new(output, PollFlags::IN)];
        if poll(&mut fds, Some(&wait))? == 0 {
            let text = format!("stream processor {id} wrote nothing for {patience:?}");
            return Err(io::Error::other(Error::deadline(text)));
        }
        output.read(buffer)
    }
}

impl Running<'_> {
    /// Ends the program, because nobody wants any more of it, unless it is about to end by itself.
    pub(crate) fn stop(&mut self) {
        if !matches!(self.child.wait_timeout(GRACE), Ok(Some(_))) {
            self.is_stopped = true;
            // If it cannot be killed, it has gone.
            drop(self.child.kill(Signal::KILL.as_raw()));
        }
    }

    /// Waits for the end of the program. If that is not a good one, the error is what it said.
    pub(crate) fn finish(mut self) -> Result<()> {
        let exit = self.child.wait()?;
        let complaint = self.complaint.join().unwrap_or_default();
        // It may also end because nobody reads any more, which is no fault of its own.
        let is_unread = exit.code() == 128 + Signal::PIPE.as_raw();
        if exit.success() || is_unread || self.is_stopped {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        let text = format!("stream processor {}: code {}: {complaint}", self.id, exit.code());
        Err(Error::said(Kind::Unknown, text))
    }
}

/// The payload as a file that can be read from its start.
fn payload_file(payload: &Any) -> Result<File> {
    let fd = rustix::fs::memfd_create("payload", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
    let mut file = File::from_parts(fd.into(), "payload");
    file.write_all(&encode(payload))?;
    file.rewind()?;
    Ok(file)
}

/// The binary form of `google.protobuf.Any`: the type as field 1, the value as field 2.
fn encode(any: &Any) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, value) in [(0x0a, any.type_url.as_bytes()), (0x12, &any.value[..])] {
        if !value.is_empty() {
            bytes.push(tag);
            push_varint(&mut bytes, value.len());
            bytes.extend_from_slice(value);
        }
    }
    bytes
}

fn push_varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(accepts: &str, returns: &str) -> Processor {
        let (id, accepts) = (accepts.to_owned(), vec![accepts.to_owned()]);
        Processor { id, accepts, returns: returns.into(), ..Processor::default() }
    }

    fn check(media_type: &str, want: &[&str], is_compressed: bool) {
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        let processors = [
            processor(encrypted, media_types::LAYER_GZIP),
            processor("lz4", media_types::LAYER),
            processor("twice", "lz4"),
        ];
        let (steps, compressed) = plan(media_type, &processors).unwrap();
        let ids: Vec<_> = steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!((ids.as_slice(), compressed), (want, is_compressed), "{media_type}");
    }

    #[test]
    fn a_layer_goes_through_programs_until_it_is_an_archive() {
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        check(media_types::LAYER, &[], false);
        check(media_types::LAYER_GZIP, &[], true);
        check(encrypted, &[encrypted], true);
        check("lz4", &["lz4"], false);
        check("twice", &["twice", "lz4"], false);
    }

    #[test]
    fn programs_that_lead_in_a_circle_are_refused() {
        let processors = [processor("a", "b"), processor("b", "a")];
        assert_eq!(plan("a", &processors).unwrap_err().kind(), Kind::FailedPrecondition);
        assert_eq!(plan("c", &processors).unwrap_err().kind(), Kind::Unimplemented);
    }

    #[test]
    fn a_payload_is_encoded_as_protobuf_has_it() {
        let any = Any::new("t.T", vec![7; 200]);
        let want = [&b"\x0a\x03t.T\x12\xc8\x01"[..], &[7; 200]].concat();
        assert_eq!(encode(&any), want);
    }
}
