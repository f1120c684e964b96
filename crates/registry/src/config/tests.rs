// SPDX-License-Identifier: Apache-2.0
use tempfile::TempDir;

use super::*;

fn root(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    root
}

fn at(roots: &[&TempDir]) -> Directories {
    let roots = roots.iter().map(|root| root.path().to_owned()).collect();
    Directories { roots, ..Directories::default() }
}

fn names(directories: &Directories, name: &str) -> Vec<String> {
    directories.find(name).unwrap().hosts.into_iter().map(|host| host.host).collect()
}

#[test]
fn a_name_has_a_folder_of_its_own_or_the_default_one() {
    let root = root(&[
        ("r.io/hosts.toml", "[host.\"own\"]"),
        ("r.io_5000_/hosts.toml", "[host.\"ported\"]"),
        ("r.io:5000/hosts.toml", "[host.\"colon\"]"),
        ("r.io:6000/hosts.toml", "[host.\"colon\"]"),
        ("_default/hosts.toml", "[host.\"any\"]"),
    ]);
    let found = |name| names(&at(&[&root]), name);
    assert_eq!(found("r.io"), ["own", "r.io"]);
    assert_eq!(found("r.io:5000"), ["ported", "r.io:5000"]);
    assert_eq!(found("r.io:6000"), ["colon", "r.io:6000"]);
    assert_eq!(found("docker.io"), ["any", "registry-1.docker.io"]);
}

#[test]
fn the_first_root_that_has_something_is_the_one() {
    let first = root(&[("a/hosts.toml", "server = \"first\"")]);
    let second =
        root(&[("a/hosts.toml", "server = \"no\""), ("b/hosts.toml", "server = \"second\"")]);
    let both = at(&[&first, &second]);
    assert_eq!(names(&both, "a"), ["first"]);
    assert_eq!(names(&both, "b"), ["second"]);
    assert_eq!(names(&both, "c"), ["c"]);
    assert_eq!(both.find("c").unwrap().folder, None);
    let split = Directories::split("/a::/b");
    assert_eq!(split, [Path::new("/a"), Path::new("/b")]);
}

#[test]
fn a_change_is_seen_without_a_restart() {
    let root = root(&[("r.io/hosts.toml", "server = \"before\"")]);
    let hosts = at(&[&root]).hosts();
    assert_eq!(hosts("r.io").unwrap()[0].host, "before");
    fs_err::write(root.path().join("r.io/hosts.toml"), "server = \"after\"").unwrap();
    assert_eq!(hosts("r.io").unwrap()[0].host, "after");
}

#[test]
fn dockers_layout_is_certificates_by_their_suffix() {
    let root = root(&[
        ("r.io/ca.crt", "CA"),
        ("r.io/client.cert", "CERT"),
        ("r.io/client.key", "KEY"),
        ("r.io/whole.cert", "BOTH"),
    ]);
    let host = at(&[&root]).find("r.io").unwrap().hosts.remove(0);
    assert_eq!((host.scheme, host.host.as_str()), (Scheme::Https, "r.io"));
    assert_eq!(host.tls.authorities, ["CA"]);
    let identity = |certificate: &'static str, key: &'static str| Identity {
        certificate: certificate.into(),
        key: key.into(),
    };
    assert_eq!(host.tls.identities, [identity("CERT", "KEY"), identity("BOTH", "BOTH")]);
}

#[test]
fn a_file_that_makes_no_sense_is_left_out_and_complained_about() {
    let root = root(&[("r.io/hosts.toml", "server = 1"), ("r.io/ca.crt", "CA")]);
    let found = at(&[&root]).find("r.io").unwrap();
    assert_eq!(found.hosts[0].host, "r.io");
    assert_eq!(found.hosts[0].tls.authorities, ["CA"]);
    let file = root.path().join("r.io/hosts.toml");
    let want = format!("{}:1: server is integer and not a string", file.display());
    assert_eq!(found.complaints, [want]);
}

#[test]
fn a_certificate_that_is_not_there_is_named() {
    let root = root(&[("r.io/hosts.toml", "ca = \"gone.pem\"")]);
    let error = at(&[&root]).find("r.io").unwrap_err().to_string();
    let path = root.path().join("r.io/gone.pem");
    assert!(error.starts_with(&format!("unable to read CA cert {:?}", path.display())), "{error}");
}

#[test]
fn tls_for_a_host_of_plain_text_is_tried_first() {
    let text = "[host.\"http://a:8080\"]\nskip_verify = true\n[host.\"http://b:8080\"]\n\
                [host.\"http://c:80\"]\nskip_verify = true";
    let root = root(&[("r.io/hosts.toml", text)]);
    let hosts = at(&[&root]).find("r.io").unwrap().hosts;
    let schemes: Vec<_> = hosts.iter().map(|host| host.scheme).collect();
    assert_eq!(schemes, [Scheme::Either, Scheme::Http, Scheme::Http, Scheme::Https]);
    assert!(hosts[0].tls.skip_verify && !hosts[1].tls.skip_verify);
}

#[test]
fn a_server_that_is_not_named_may_do_everything() {
    let text = "capabilities = [\"pull\"]\n[host.\"m\"]\ncapabilities = [\"resolve\"]";
    let root = root(&[("r.io/hosts.toml", text)]);
    let hosts = at(&[&root]).find("r.io").unwrap().hosts;
    assert!(!hosts[0].capabilities.pull);
    assert_eq!(hosts[1].capabilities, Capabilities::ALL);
}
