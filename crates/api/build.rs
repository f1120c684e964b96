// SPDX-License-Identifier: Apache-2.0

//! Generates the messages and services of containerd's API.
//!
//! The definitions come out of published crates, which carry containerd's own `.proto` files. They
//! lag behind containerd, so what they lack stands in `proto/`, and is merged in by name:
//!
//! ```text
//! containerd-shim-protos  --.
//! containerd-client       --+-- by import name --> parsed --> merged --> checked --> Rust
//! proto/ (ours)           -------------------------------------^
//! ```
//!
//! Nothing generated is ever edited, and no `protoc` is needed.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_types::source_code_info::Location;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use protox::file::{File, FileResolver, GoogleFileResolver};
use serde_json::Value;

/// The crates that carry definitions, the most current first: where both have a file, it counts.
const CARRIERS: [&str; 2] = ["containerd-shim-protos", "containerd-client"];

/// Where containerd's own definitions are inside a carrier. Some import them by this long name,
/// some by what follows it: here, the short name is the one name.
const CONTAINERD: &str = "github.com/containerd/containerd/api/";

/// What is generated, together with everything these import.
const ROOTS: [&str; 42] = [
    "events/container.proto",
    "events/content.proto",
    "events/image.proto",
    "events/namespace.proto",
    "events/sandbox.proto",
    "events/snapshot.proto",
    "events/task.proto",
    "github.com/containerd/cgroups/cgroup2/stats/metrics.proto",
    "github.com/containerd/cgroups/v3/cgroup1/stats/metrics.proto",
    "grpc/health/v1/health.proto",
    "runtime/bootstrap/v1/bootstrap.proto",
    "runtime/sandbox/v1/sandbox.proto",
    "runtime/task/v3/shim.proto",
    "services/containers/v1/containers.proto",
    "services/content/v1/content.proto",
    "services/diff/v1/diff.proto",
    "services/events/v1/events.proto",
    "services/images/v1/images.proto",
    "services/introspection/v1/introspection.proto",
    "services/leases/v1/leases.proto",
    "services/mounts/v1/mounts.proto",
    "services/namespaces/v1/namespace.proto",
    "services/sandbox/v1/sandbox.proto",
    "services/snapshots/v1/snapshots.proto",
    "services/store/v1/store.proto",
    "services/streaming/v1/streaming.proto",
    "services/tasks/v1/tasks.proto",
    "services/transfer/v1/transfer.proto",
    "services/ttrpc/events/v1/events.proto",
    "services/version/v1/version.proto",
    "types/descriptor.proto",
    "types/event.proto",
    "types/introspection.proto",
    "types/runc/options/oci.proto",
    "types/runtimeoptions/v1/api.proto",
    "types/task/task.proto",
    "types/transfer/container.proto",
    "types/transfer/imagestore.proto",
    "types/transfer/importexport.proto",
    "types/transfer/progress.proto",
    "types/transfer/registry.proto",
    "types/transfer/streaming.proto",
];

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    // The manifest pins the carriers: when it is untouched, so are their folders.
    rerun_if_changed(Path::new("build.rs"));
    rerun_if_changed(Path::new("Cargo.toml"));
    rerun_if_changed(Path::new("proto"));
    let definitions = compile(carriers()?)?;
    generate(definitions)
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// Finds the folders with definitions, in the order of [`CARRIERS`].
fn carriers() -> Result<Vec<PathBuf>> {
    let metadata = metadata()?;
    CARRIERS.iter().map(|name| folder(&metadata, name)).collect()
}

/// Asks cargo where the dependencies are.
///
/// Asks without the network first, which is fast and works from a vendored tree. A plain build does
/// not download what it does not compile, so on a new machine the second question is what fetches
/// the carriers.
fn metadata() -> Result<Value> {
    let offline = ask_cargo(&["--locked", "--offline"]);
    Ok(serde_json::from_slice(&offline.or_else(|_| ask_cargo(&["--locked"]))?)?)
}

fn ask_cargo(flags: &[&str]) -> Result<Vec<u8>> {
    let cargo = env::var_os("CARGO").ok_or("cargo sets CARGO for build scripts")?;
    let output =
        Command::new(cargo).args(["metadata", "--format-version=1"]).args(flags).output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo metadata {}: {}", flags.join(" "), message.trim()).into());
    }
    Ok(output.stdout)
}

/// Reads where a published package is from what cargo answered. One of ours has no source, and may
/// have the same name.
fn folder(metadata: &Value, name: &str) -> Result<PathBuf> {
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == name && package["source"].is_string())
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or_else(|| format!("package {name}: not among the dependencies"))?;
    let folder = Path::new(manifest).parent().expect("a manifest is in a folder");
    Ok(folder.join("vendor"))
}

/// Parses and checks all definitions.
fn compile(carriers: Vec<PathBuf>) -> Result<FileDescriptorSet> {
    let mut compiler = protox::Compiler::with_file_resolver(Definitions { carriers });
    compiler.include_imports(true).include_source_info(true).open_files(ROOTS)?;
    Ok(compiler.file_descriptor_set())
}

/// Writes the Rust of all definitions, one file per package and `mod.rs`, which nests them, and the
/// list of all methods.
fn generate(definitions: FileDescriptorSet) -> Result<()> {
    let methods = Path::new(&env::var("OUT_DIR")?).join("methods.rs");
    fs_err::write(methods, list_of_methods(&definitions))?;
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]).enable_type_names().include_file("mod.rs");
    if env::var_os("CARGO_FEATURE_GRPC").is_some() {
        config.service_generator(tonic_prost_build::configure().service_generator());
    }
    Ok(config.compile_fds(definitions)?)
}

/// Every method of every service, as an array of `Method`.
fn list_of_methods(definitions: &FileDescriptorSet) -> String {
    let services = definitions
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let methods = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| {
            format!(
                "Method {{ service: \"{package}.{}\", name: \"{}\", takes_many: {}, \
                 gives_many: {} }},\n",
                service.name(),
                method.name(),
                method.client_streaming(),
                method.server_streaming(),
            )
        })
    });
    format!("&[\n{}]\n", methods.collect::<String>())
}

/// Opens definitions by their import names.
struct Definitions {
    carriers: Vec<PathBuf>,
}

impl FileResolver for Definitions {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name.starts_with("google/protobuf/") {
            return GoogleFileResolver::new().open_file(name);
        }
        let ours = ours(name)?;
        let theirs = theirs(&self.carriers, name)?;
        match (theirs, ours) {
            (Some(theirs), Some(ours)) => merge(theirs, ours).map(File::from_file_descriptor_proto),
            (Some(file), None) | (None, Some(file)) => Ok(File::from_file_descriptor_proto(file)),
            (None, None) => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// Reads the part of a file that the carriers lack.
fn ours(name: &str) -> Result<Option<FileDescriptorProto>, protox::Error> {
    let path = Path::new("proto").join(name);
    path.exists().then(|| parse(name, &path)).transpose()
}

/// Reads a file from the first carrier that has it.
fn theirs(carriers: &[PathBuf], name: &str) -> Result<Option<FileDescriptorProto>, protox::Error> {
    carriers
        .iter()
        .flat_map(|folder| [folder.join(CONTAINERD).join(name), folder.join(name)])
        .find(|path| path.exists())
        .map(|path| parse(name, &path))
        .transpose()
}

/// Parses one file, so that it fits with the others and with Rust.
fn parse(name: &str, path: &Path) -> Result<FileDescriptorProto, protox::Error> {
    rerun_if_changed(path);
    let mut file = File::open(name, path)?.file_descriptor_proto().clone();
    for import in &mut file.dependency {
        if let Some(short) = import.strip_prefix(CONTAINERD) {
            *import = short.to_owned();
        }
    }
    for comment in file.source_code_info.iter_mut().flat_map(|info| &mut info.location) {
        comment.leading_comments = comment.leading_comments.as_deref().map(unindent);
    }
    Ok(file)
}

/// Takes the indentation out of a comment: rustdoc would compile what is indented.
fn unindent(comment: &str) -> String {
    comment.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

/// Adds to a published file what ours has more: fields of its messages, further messages, imports.
///
/// The compiler refuses a number or a name that is taken. So when the carriers catch up with an
/// addition, the build fails until it is removed here.
fn merge(
    mut theirs: FileDescriptorProto,
    ours: FileDescriptorProto,
) -> Result<FileDescriptorProto, protox::Error> {
    if !(ours.service.is_empty() && ours.enum_type.is_empty()) {
        let reason = format!("{}: only messages can be added to a published file", ours.name());
        return Err(protox::Error::new(std::io::Error::other(reason)));
    }
    for import in ours.dependency {
        if !theirs.dependency.contains(&import) {
            theirs.dependency.push(import);
        }
    }
    let comments = ours.source_code_info.unwrap_or_default().location;
    for (index, message) in ours.message_type.into_iter().enumerate() {
        let place = add(&mut theirs, message);
        let moved = comments.iter().filter_map(|comment| follow(comment, index, place));
        theirs.source_code_info.get_or_insert_default().location.extend(moved);
    }
    Ok(theirs)
}

/// Where a message of ours is in the merged file.
#[derive(Clone, Copy)]
struct Place {
    /// Which message of the file it became.
    message: usize,
    /// How many fields that one had already, or none if the message is ours alone.
    known_fields: Option<usize>,
}

/// Adds a message: to the one of the same name, or else at the end.
fn add(file: &mut FileDescriptorProto, message: DescriptorProto) -> Place {
    if let Some(index) = file.message_type.iter().position(|known| known.name == message.name) {
        let fields = &mut file.message_type[index].field;
        let place = Place { message: index, known_fields: Some(fields.len()) };
        fields.extend(message.field);
        place
    } else {
        file.message_type.push(message);
        Place { message: file.message_type.len() - 1, known_fields: None }
    }
}

/// Moves a comment after the message that it is on: the one that was at `from` is at `to` now.
///
/// What a comment is on is told by a path, in which 4 stands for the messages of a file, 2 for the
/// fields of a message, and an index follows each (`google/protobuf/descriptor.proto`, at
/// `SourceCodeInfo`). The generator insists on an entry for everything that it writes.
fn follow(comment: &Location, from: usize, to: Place) -> Option<Location> {
    let mut moved = comment.clone();
    match moved.path.as_mut_slice() {
        [4, message, 2, field, ..] if *message == from as i32 => {
            *message = to.message as i32;
            *field += to.known_fields.unwrap_or(0) as i32;
        }
        [4, message, ..] if *message == from as i32 && to.known_fields.is_none() => {
            *message = to.message as i32;
        }
        _ => return None,
    }
    Some(moved)
}
