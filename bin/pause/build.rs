// SPDX-License-Identifier: Apache-2.0
//! Builds the program apart from everything else: it has no library, no start files and no
//! unwinding, and no profile of cargo's can say that of one package alone.
use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=program.rs");
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let program = PathBuf::from(variable("OUT_DIR")).join("pause");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "program.rs"]);
    rustc.args(["-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols", "-Crelocation-model=static"]);
    for argument in ["-nostdlib", "-nostartfiles", "-static", "-no-pie", "-Wl,--build-id=none"] {
        rustc.arg(format!("-Clink-arg={argument}"));
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    rustc.arg("--target").arg(variable("TARGET")).arg("-o").arg(program);
    match rustc.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        failed => {
            eprintln!("the pause program cannot be built: {failed:?}");
            ExitCode::FAILURE
        }
    }
}
