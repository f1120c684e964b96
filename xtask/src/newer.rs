// SPDX-License-Identifier: Apache-2.0
//! The scenarios, played with newer releases of the programs than this machine's distribution has.
//!
//! ```text
//! <target>/newer/<suite>/apt/    lists of packages, beside the machine's own
//!                        debs/   what was fetched
//!                        root/   unpacked: nothing is installed
//!                        bin/    the programs, as the harness looks for them
//! ```

mod words;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Failure, Outcome, ensure, parts};

use crate::{install, run, show};

/// Who vouches for the packages.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages whose programs take part, and where they have them.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("containerd", &["usr/bin/containerd", "usr/bin/ctr", "usr/bin/containerd-shim-runc-v2"]),
    ("docker.io", &["usr/sbin/dockerd", "usr/sbin/docker-proxy"]),
    ("docker-cli", &["usr/bin/docker"]),
];

/// CRIU, and the libraries that it needs of its own release: those of this machine are older. The
/// other programs need none but the C library, and no new one.
const CRIU: &[&str] = &[
    "criu",
    "libc6",
    "libbsd0",
    "libcompel1",
    "libedit2",
    "libffi8",
    "libgmp10",
    "libgnutls30t64",
    "libhogweed6t64",
    "libidn2-0",
    "libjansson4",
    "libmd0",
    "libmnl0",
    "libnet9",
    "libnettle8t64",
    "libnftables1",
    "libnftnl11",
    "libnl-3-200",
    "libp11-kit0",
    "libprotobuf-c1",
    "libtasn1-6",
    "libtinfo6",
    "libunistring5",
    "libuuid1",
    "libxtables12",
    "libzstd1",
    "libbrotli1",
    "zlib1g",
];

/// What is played: the casts in which one of theirs meets one of ours, and Docker.
const CASTS: [&str; 4] = ["::go_ctr", "::go_shim", "::our_shim", "docker"];

/// In place of scenarios: the words on their command lines.
const WORDS: &str = "words";

/// Scenarios that tell what only older releases do, each with the reason.
const OLDER: &[(&str, &str)] = &[
    ("images::a_tag_is_a_second_name", "ctr 2.x tags over what has the name"),
    (
        "archives::a_layout_names_its_images_by_tags_and_digests",
        "ctr 2.x names by the daemon's rules",
    ),
    (
        "restart::an_exit_while_no_daemon_ran_is_told_later::our_shim",
        "their daemon does not tell it",
    ),
    (
        "docker::docker_runs_execs_and_stops",
        "Docker 28 ends with 127, not 126, for what is missing",
    ),
    ("::reference", "theirs among themselves are not ours to judge"),
];

/// Fetches the programs and plays the scenarios.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let (suite, only) = parse(words)?;
    parts::require_root()?;
    install::packages(&["runc", "docker-registry", "busybox-static", "debian-archive-keyring"])?;
    show::chapter(&format!("newer releases, from Debian {suite}"));
    let tools = fetch(suite)?;
    for name in ["containerd", "dockerd", "criu"] {
        let mut asked = Command::new(tools.join(name));
        let said = e2e::process::run(asked.arg("--version"), Duration::from_secs(30))?.ok()?;
        println!("{}", said.lines().next().unwrap_or(name));
    }
    if only.is_none_or(|word| word == WORDS) {
        words::compare(&tools)?;
    }
    if only == Some(WORDS) {
        return Ok(());
    }
    e2e::sweep();
    play(&tools, only)
}

fn parse<'a>(words: &[&'a str]) -> Outcome<(&'a str, Option<&'a str>)> {
    match words {
        [] => Ok(("forky", None)),
        ["--suite", name, rest @ ..] => Ok((name, parse(rest)?.1)),
        ["--only", word, rest @ ..] => Ok((parse(rest)?.0, Some(word))),
        other => Err(Failure::new(format!("newer does not know {other:?}"))),
    }
}

/// The folder with the programs of a release. What was fetched once is there the next time.
fn fetch(suite: &str) -> Outcome<PathBuf> {
    let place = target()?.join("newer").join(suite);
    let bin = place.join("bin");
    if bin.join("criu").is_file() {
        return Ok(bin);
    }
    for dir in ["apt/lists/partial", "apt/cache/archives/partial", "debs", "root", "bin"] {
        fs_err::create_dir_all(place.join(dir))?;
    }
    let source = format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n");
    fs_err::write(place.join("apt/sources.list"), source)?;
    apt(&place, &["update"])?;
    let packages = PROGRAMS.iter().map(|(package, _)| *package).chain(CRIU.iter().copied());
    let packages: Vec<&str> = packages.collect();
    apt(&place, &[&["download"], packages.as_slice()].concat())?;
    for package in fs_err::read_dir(place.join("debs"))? {
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(package?.path()).arg(place.join("root"));
        e2e::process::run(&mut unpack, Duration::from_mins(2))?.ok()?;
    }
    for program in PROGRAMS.iter().flat_map(|(_, programs)| *programs) {
        let name = Path::new(program).file_name().context("programs have names")?;
        fs_err::copy(place.join("root").join(program), bin.join(name))?;
    }
    wrap_criu(&place)?;
    Ok(bin)
}

/// Cargo's folder for what is made, wherever this program was built to.
fn target() -> Outcome<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let target = own.ancestors().nth(2).context("this program is in a folder of the target")?;
    Ok(target.to_owned())
}

/// apt-get with lists of its own, so that the machine's are not touched.
fn apt(place: &Path, words: &[&str]) -> Outcome {
    let mut command = Command::new("apt-get");
    for (option, path) in [
        ("Dir::Etc::sourcelist", "apt/sources.list"),
        ("Dir::State::lists", "apt/lists"),
        ("Dir::Cache", "apt/cache"),
    ] {
        command.arg("-o").arg(format!("{option}={}", place.join(path).display()));
    }
    command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "Dir::State::status=/dev/null"]);
    command.args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root", "-q"]);
    command.args(words).current_dir(place.join("debs"));
    println!("$ {}", e2e::process::shown(&command));
    show::flush();
    let done = run::watched(&mut command, Duration::from_mins(15), |line| println!("{line}"))?;
    ensure!(done, "apt-get failed");
    Ok(())
}

/// Its libraries are newer than this machine's, so it is started by its own loader.
fn wrap_criu(place: &Path) -> Outcome {
    let root = place.join("root/usr");
    let (libraries, root) = (root.join("lib/x86_64-linux-gnu"), root.display());
    let libraries = libraries.display();
    let script = format!(
        "#!/bin/sh\nexec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} {root}/sbin/criu \"$@\"\n"
    );
    let path = place.join("bin/criu");
    fs_err::write(&path, script)?;
    let mut chmod = Command::new("chmod");
    e2e::process::run(chmod.arg("755").arg(path), Duration::from_secs(10))?.ok().map(drop)
}

fn play(tools: &Path, only: Option<&str>) -> Outcome {
    let mut cargo = run::cargo(&["test", "-p", "e2e", "--test", "e2e", "--"]);
    match only {
        Some(word) => cargo.arg(word),
        None => cargo.args(CASTS),
    };
    for (scenario, why) in OLDER {
        println!("not played: {scenario}: {why}");
        cargo.args(["--skip", scenario]);
    }
    cargo.args(["--test-threads", "3"]).env(parts::OTHER_TOOLS, tools);
    let passed = run::watched(&mut cargo, Duration::from_mins(40), |line| println!("{line}"))?;
    ensure!(passed, "scenarios failed with newer releases");
    Ok(())
}
