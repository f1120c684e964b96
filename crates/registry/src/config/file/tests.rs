// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Vec<Section>> {
    parse(text, Path::new("/certs/hosts.toml"), &mut Vec::new())
}

fn refusal(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn place(section: &Section) -> (Scheme, &str, &str) {
    let place = section.place.as_ref().unwrap();
    (place.scheme, &place.host, &place.path)
}

#[test]
fn hosts_come_in_the_order_in_which_they_are_written_and_the_server_last() {
    let sections = read(
        r#"
        server = "https://upstream.example"
        [host."https://z.example"]
          capabilities = ["pull"]
        [host."https://a.example".header]
          x-one = "1"
          x-two = ["a", "b"]
        [host."http://m.example:8080/prefix"]
        "#,
    );
    let sections = sections.unwrap();
    let places: Vec<_> = sections.iter().map(place).collect();
    assert_eq!(
        places,
        [
            (Scheme::Https, "z.example", "/v2"),
            (Scheme::Https, "a.example", "/v2"),
            (Scheme::Http, "m.example:8080", "/prefix/v2"),
            (Scheme::Https, "upstream.example", "/v2"),
        ]
    );
    let only = Capabilities { pull: true, resolve: false, push: false, referrers: false };
    assert_eq!(sections[0].capabilities, only);
    assert_eq!(sections[1].headers["x-one"], "1");
    assert_eq!(sections[1].headers.get_all("x-two").iter().count(), 2);
    assert_eq!(sections[2].capabilities, Capabilities::ALL);
}

#[test]
fn a_path_is_completed_unless_it_is_said_to_be_whole() {
    for (text, want) in [
        ("[host.\"r.io\"]", "/v2"),
        ("[host.\"r.io/\"]", "/v2"),
        ("[host.\"r.io/v2/\"]", "/v2"),
        ("[host.\"r.io/a//b/../c\"]", "/a/c/v2"),
        ("[host.\"r.io/v2/project\"]\noverride_path = true", "/v2/project"),
        ("[host.\"r.io\"]\noverride_path = true", ""),
    ] {
        assert_eq!(place(&read(text).unwrap()[0]).2, want, "{text}");
    }
}

#[test]
fn certificates_are_files_beside_the_file() {
    let sections = read(
        r#"
        ca = "ca.pem"
        client = [["c.cert", "/k.key"], "both.pem"]
        skip_verify = false
        dial_timeout = "1m30s"
        dial_addr = "unix:///run/cache.sock"
        "#,
    );
    let section = sections.unwrap().remove(0);
    assert_eq!(section.authorities, [Path::new("/certs/ca.pem")]);
    let pair = ("/certs/c.cert".into(), Some("/k.key".into()));
    assert_eq!(section.identities, [pair, ("/certs/both.pem".into(), None)]);
    assert_eq!(section.skip_verify, Some(false));
    assert_eq!(section.connect_timeout, Some(Duration::from_secs(90)));
    assert_eq!(section.socket.as_deref(), Some(Path::new("/run/cache.sock")));
    assert!(section.place.is_none());
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, want) in [
        ("\n\nserver = 3", "3: server is integer and not a string"),
        ("[host.\"r.io\"]\ncapabilities = [\"pul\"]", "2: unknown capability pul"),
        (
            "[host.\"r.io\"]\nskip_verify = \"yes\"",
            "2: skip_verify is string and not true or false",
        ),
        ("client = [[\"a\"]]", "1: client is array and not a pair of a certificate and its key"),
        ("host = 1", "1: host is integer and not a table of hosts"),
        ("[host.\"ftp://r.io\"]", "1: unable to parse server ftp://r.io: "),
        ("\n[host.\"https://\"]", "2: unable to parse server https://: "),
        ("[host.\"r.io/../x\"]", "1: unable to parse server r.io/../x: a path that climbs"),
        ("[host.\"r.io\".header]\n\"a b\" = \"c\"", "2: \"a b\": invalid HTTP header name"),
        ("dial_timeout = \"soon\"", "1: time: invalid duration \"soon\""),
        ("dial_addr = \"tcp://x\"", "1: dial_addr \"tcp://x\" is not unix:///a/path"),
        ("server = \"x", "1: "),
    ] {
        let said = refusal(text);
        let want = format!("/certs/hosts.toml:{want}");
        assert!(said.starts_with(&want), "{said} does not begin with {want}");
    }
}

#[test]
fn what_is_not_known_is_complained_about() {
    let mut complaints = Vec::new();
    let text = "[host.\"r.io\"]\nCapabilities = [\"pull\"]\nskip-verify = true";
    let sections = parse(text, Path::new("h"), &mut complaints).unwrap();
    assert_eq!(complaints, ["h:3: \"skip-verify\" is not known, and has no effect"]);
    assert!(!sections[0].capabilities.push);
}

#[test]
fn spans_are_read_as_go_writes_them() {
    let read = |text| duration(text).map(|span| span.as_millis());
    assert_eq!(read("3s"), Some(3000));
    assert_eq!(read("1h1m1.5s"), Some(3_661_500));
    assert_eq!(read("200ms"), Some(200));
    for bad in ["", "3", "s", "-3s", "3 s", "1d", "9e99s", "99999999999999999999h"] {
        assert_eq!(read(bad), None, "{bad}");
    }
}

/// Pieces of which files are made, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[host.\"https://a\"]\n".to_owned()),
        Just("[host.\"b:5000\".header]\n".to_owned()),
        Just("capabilities = [\"pull\", 1]\n".to_owned()),
        Just("client = [[\"a\", \"b\"], \"c\", []]\n".to_owned()),
        Just("ca = [[]]\n".to_owned()),
        Just("server = \"\u{1F4A9}\"\n".to_owned()),
        Just("dial_timeout = \".s\"\n".to_owned()),
        "[ -~\n]{0,20}",
        "\\PC{0,8}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_that_is_written_makes_it_stumble(text in pieces()) {
        match read(&text) {
            Ok(sections) => prop_assert!(!sections.is_empty()),
            Err(error) => prop_assert!(error.to_string().starts_with("/certs/hosts.toml:")),
        }
    }

    #[test]
    fn the_order_is_kept_whatever_the_names(names in prop::collection::hash_set("[a-z]{1,8}", 1..8)) {
        let names: Vec<_> = names.into_iter().collect();
        let text = format!("[host.\"{}\"]", names.join("\"]\n[host.\""));
        let sections = read(&text).unwrap();
        let hosts: Vec<_> = sections.iter().filter_map(|it| it.place.as_ref()).collect();
        let hosts: Vec<_> = hosts.into_iter().map(|place| place.host.clone()).collect();
        prop_assert_eq!(hosts, names);
    }

    #[test]
    fn no_text_is_a_span_that_stumbles(text in "[0-9.hmnsuµ+-]{0,12}") {
        duration(&text);
    }
}
