// SPDX-License-Identifier: Apache-2.0
//! What a shim is told on its input when it is started, and what it prints.
//!
//! Since containerd 2.3 that is one message each way; older shims take the runtime's options and
//! print JSON or a bare address, and some refuse what they do not know. So the message is tried
//! first, and what a program turned out to speak is remembered (containerd `pkg/shim/util.go`,
//! `core/runtime/v2/shim.go`).
use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use api::containerd::runtime::bootstrap::v1::{
    BootstrapParams, BootstrapResult, Extension, LogLevel,
};
use fs_err as fs;
use prost::Message;
use shim::bootstrap::Answer;
use types::{Any, Error, Result};

use crate::{Config, bundle::Bundle};

/// How a shim is told what it has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// In one message.
    Message,
    /// In flags and environment, with the options alone on its input.
    Flags,
}

/// Which dialect each program speaks, as far as it is known. A program that is replaced is another.
#[derive(Debug, Default)]
pub(crate) struct Dialects(Mutex<HashMap<Program, Dialect>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Program {
    path: PathBuf,
    inode: u64,
    changed: (i64, i64),
}

impl Dialects {
    pub(crate) fn of(&self, program: &Path) -> Option<Dialect> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&identify(program)?).copied()
    }

    pub(crate) fn learn(&self, program: &Path, dialect: Dialect) {
        if let Some(program) = identify(program) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(program, dialect);
        }
    }
}

fn identify(path: &Path) -> Option<Program> {
    let meta = fs::metadata(path).ok()?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    Some(Program { path: path.to_owned(), inode: meta.ino(), changed })
}

/// What goes to the input of a shim that is started.
pub(crate) fn input(
    dialect: Dialect,
    config: &Config,
    bundle: &Bundle,
    options: Option<&Any>,
) -> Vec<u8> {
    let options = options
        .map(|any| prost_types::Any { type_url: any.type_url.clone(), value: any.value.to_vec() });
    match dialect {
        Dialect::Flags => options.map(|any| any.encode_to_vec()).unwrap_or_default(),
        Dialect::Message => BootstrapParams {
            instance_id: bundle.id.clone(),
            namespace: bundle.namespace.clone(),
            log_level: if config.debug { LogLevel::Debug } else { LogLevel::Info } as i32,
            containerd_version: config.version.clone(),
            containerd_ttrpc_address: config.ttrpc_address.clone(),
            containerd_grpc_address: config.address.clone(),
            containerd_binary: config.publish_binary.display().to_string(),
            extensions: options.map(|any| Extension { value: Some(any) }).into_iter().collect(),
            socket_dir: None,
        }
        .encode_to_vec(),
    }
}

/// Reads what a shim printed: a message, JSON, or an address; and so which dialect it speaks.
///
/// Errors: as [`Answer::parse`].
pub(crate) fn read(output: &[u8]) -> Result<(Answer, Dialect)> {
    if let Some(answer) = message(output) {
        if answer.version > shim::bootstrap::VERSION {
            let message = format!("unsupported shim version ({})", answer.version);
            return Err(Error::unimplemented(message));
        }
        return Ok((answer, Dialect::Message));
    }
    let text = String::from_utf8_lossy(output);
    Ok((Answer::parse(&text)?, Dialect::Flags))
}

/// A message begins with the version, as no text does.
fn message(output: &[u8]) -> Option<Answer> {
    const VERSION_FIRST: u8 = 0x08;
    if output.first() != Some(&VERSION_FIRST) {
        return None;
    }
    let result = BootstrapResult::decode(output).ok()?;
    let version = u32::try_from(result.version).ok().filter(|&version| version >= 2)?;
    let answer = Answer { version, address: result.address, protocol: result.protocol };
    (!answer.address.is_empty()).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(version: i32, address: &str) -> Vec<u8> {
        let metadata = [("note".to_owned(), "line\n".to_owned())].into();
        let (address, protocol) = (address.to_owned(), "grpc".to_owned());
        BootstrapResult { version, address, protocol, metadata, ..Default::default() }
            .encode_to_vec()
    }

    #[test]
    fn every_form_of_answer_is_read() {
        let (answer, dialect) = read(&result(3, "unix:///s")).unwrap();
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "grpc"));
        assert_eq!((answer.address.as_str(), dialect), ("unix:///s", Dialect::Message));
        let json = br#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#;
        assert_eq!(read(json).unwrap(), (Answer::ttrpc(3, "unix:///s"), Dialect::Flags));
        let bare = read(b"unix:///s\n").unwrap();
        assert_eq!(bare, (Answer::ttrpc(2, "unix:///s"), Dialect::Flags));
    }

    #[test]
    fn a_newer_version_and_no_answer_are_refused() {
        let refused = read(&result(4, "unix:///s")).unwrap_err();
        assert_eq!(refused.to_string(), "unsupported shim version (4): not implemented");
        assert!(read(b"").is_err());
    }

    #[test]
    fn a_program_that_is_replaced_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("shim");
        fs::write(&program, "one").unwrap();
        let dialects = Dialects::default();
        assert_eq!(dialects.of(&program), None);
        dialects.learn(&program, Dialect::Flags);
        assert_eq!(dialects.of(&program), Some(Dialect::Flags));
        let other = directory.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(other, &program).unwrap();
        assert_eq!(dialects.of(&program), None);
    }
}
