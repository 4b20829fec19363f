use std::fmt::Write as _;

use outrider_proto::json;

use super::*;

const TCP: &str = "{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}";

/// A listener with these chains, each a name and a match.
fn listener(chains: &[(&str, &str)], default: bool) -> pb::Listener {
    let mut yaml = String::from("filter_chains:\n");
    for (name, rule) in chains {
        let _ = writeln!(yaml, "- {{name: {name}, filter_chain_match: {rule}, filters: [{TCP}]}}");
    }
    if default {
        let _ = writeln!(yaml, "default_filter_chain: {{name: default, filters: [{TCP}]}}");
    }
    json::from_yaml(&yaml).unwrap()
}

fn chains(rules: &[(&str, &str)]) -> FilterChains {
    let mut path = Path::root();
    let chains = FilterChains::from_proto(&listener(rules, true), false, &mut path);
    path.finish(Some(chains)).unwrap()
}

fn faults(value: &pb::Listener) -> Vec<String> {
    let mut path = Path::root();
    let chains = FilterChains::from_proto(value, false, &mut path);
    path.finish(Some(chains)).unwrap_err().iter().map(ToString::to_string).collect()
}

/// What is chosen for a destination, a transport protocol, the protocols offered and a server name.
fn chosen(
    chains: &FilterChains,
    destination: &str,
    transport: &str,
    protocols: &[&str],
    name: &str,
) -> String {
    let protocols: Vec<String> = protocols.iter().map(ToString::to_string).collect();
    let query = ChainQuery {
        destination: destination.parse().unwrap(),
        transport_protocol: transport,
        application_protocols: &protocols,
        server_name: Some(name).filter(|name| !name.is_empty()),
    };
    chains.select(&query).unwrap().name.to_string()
}

#[test]
fn the_port_and_the_longest_prefix_come_first() {
    let chains = chains(&[
        ("any", "{}"),
        ("port", "{destination_port: 80}"),
        ("eight", "{prefix_ranges: [{address_prefix: 10.9.9.9, prefix_len: 8}]}"),
        (
            "host",
            "{prefix_ranges: [{address_prefix: 10.0.0.1, prefix_len: 32}, {address_prefix: '::1', prefix_len: 128}]}",
        ),
        ("six", "{prefix_ranges: [{address_prefix: 'fd00::', prefix_len: 8}]}"),
    ]);
    for (destination, expected) in [
        ("1.2.3.4:80", "port"),
        ("10.0.0.1:80", "port"),
        ("10.0.0.1:81", "host"),
        ("[::ffff:10.0.0.1]:81", "host"),
        ("[::1]:81", "host"),
        ("10.0.0.2:81", "eight"),
        ("11.0.0.2:81", "any"),
        ("[fd12::1]:81", "six"),
        ("[2001::1]:81", "any"),
    ] {
        assert_eq!(chosen(&chains, destination, "raw_buffer", &[], ""), expected, "{destination}");
    }
}

#[test]
fn only_ports_whose_chains_depend_on_it_are_looked_at() {
    let rules = [
        ("names", "{destination_port: 443, server_names: [a.b]}"),
        ("plain", "{destination_port: 3306}"),
        ("any port", "{transport_protocol: tls}"),
    ];
    let chains = FilterChains::from_proto(&listener(&rules, false), false, &mut Path::root());
    let looked: Vec<u16> = [443, 3306, 9].into_iter().filter(|port| chains.look_at(*port)).collect();
    assert_eq!(looked, [443, 9]);
}

#[test]
fn whole_server_names_come_before_longer_and_shorter_suffixes() {
    let chains = chains(&[
        ("none", "{}"),
        ("whole", "{server_names: [A.b.c, other.b.c]}"),
        ("short", "{server_names: ['*.c']}"),
        ("long", "{server_names: ['*.b.c']}"),
    ]);
    for (name, expected) in [
        ("a.b.c", "whole"),
        ("other.b.c", "whole"),
        ("x.b.c", "long"),
        ("x.y.b.c", "long"),
        ("x.c", "short"),
        ("c", "none"),
        ("", "none"),
    ] {
        assert_eq!(chosen(&chains, "1.1.1.1:1", "tls", &[], name), expected, "{name}");
    }
}

#[test]
fn the_client_prefers_among_application_protocols() {
    let chains = chains(&[
        ("h1", "{application_protocols: [http/1.1]}"),
        ("h2", "{application_protocols: [h2, h2c]}"),
    ]);
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1", "h2"], "h1"),
        (&["x", "h2c"], "h2"),
        (&["x"], "default"),
        (&[], "default"),
    ] {
        assert_eq!(chosen(&chains, "1.1.1.1:1", "tls", offered, ""), expected, "{offered:?}");
    }
}

/// Each case was put to Envoy 1.40: once a respect is decided, a less specific chain is not gone back to.
#[test]
fn a_decision_is_never_taken_back() {
    let h1 = &["http/1.1"][..];
    for (first, second, expected) in [
        ("{destination_port: 80, server_names: [a.b]}", "{}", "default"),
        (
            "{prefix_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}], transport_protocol: tls}",
            "{prefix_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}",
            "default",
        ),
        ("{transport_protocol: raw_buffer, application_protocols: [h2c]}", "{}", "default"),
        ("{transport_protocol: raw_buffer, application_protocols: [http/1.1]}", "{}", "first"),
        ("{transport_protocol: tls, application_protocols: [http/1.1]}", "{}", "second"),
        ("{prefix_ranges: [{address_prefix: 0.0.0.0, prefix_len: 0}]}", "{}", "first"),
        ("{}", "{prefix_ranges: [{address_prefix: 0.0.0.0, prefix_len: 0}]}", "first"),
    ] {
        let chains = chains(&[("first", first), ("second", second)]);
        assert_eq!(chosen(&chains, "127.0.0.1:80", "raw_buffer", h1, ""), expected, "{first} {second}");
    }
}

#[test]
fn nothing_is_chosen_without_a_default() {
    let mut path = Path::root();
    let value = listener(&[("a", "{destination_port: 80}")], false);
    let chains = FilterChains::from_proto(&value, false, &mut path);
    let query = ChainQuery {
        destination: "1.1.1.1:81".parse().unwrap(),
        transport_protocol: "raw_buffer",
        application_protocols: &[],
        server_name: None,
    };
    assert!(chains.select(&query).is_none());
}

#[test]
fn two_chains_for_the_same_connections_are_refused() {
    for (first, second) in [
        ("{}", "{}"),
        ("{server_names: [a.b, c.d]}", "{server_names: [C.D]}"),
        ("{application_protocols: [h2, http/1.1]}", "{application_protocols: [h2]}"),
        (
            "{prefix_ranges: [{address_prefix: 1.2.3.4, prefix_len: 8}]}",
            "{prefix_ranges: [{address_prefix: 1.0.0.0, prefix_len: 8}]}",
        ),
    ] {
        let found = faults(&listener(&[("a", first), ("b", second)], false));
        let expected = "filter_chains[1].filter_chain_match: another chain matches the same connections";
        assert_eq!(found, [expected], "{first} {second}");
    }
}

#[test]
fn faults_name_their_fields() {
    for (rule, expected) in [
        ("{destination_port: 0}", "destination_port: must be from 1 to 65535"),
        ("{destination_port: 65536}", "destination_port: must be from 1 to 65535"),
        ("{prefix_ranges: [{address_prefix: a}]}", "prefix_ranges[0].address_prefix: not an IP address"),
        (
            "{prefix_ranges: [{address_prefix: 1.1.1.1, prefix_len: 33}]}",
            "prefix_ranges[0].prefix_len: more than 32",
        ),
        (
            "{prefix_ranges: [{address_prefix: '::', prefix_len: 129}]}",
            "prefix_ranges[0].prefix_len: more than 128",
        ),
        ("{transport_protocol: quic}", "transport_protocol: only \"tls\" and \"raw_buffer\" are supported"),
        ("{server_names: ['*']}", "server_names[0]: a name, or one with \"*.\" at its beginning"),
        ("{server_names: [a, 'w*.b']}", "server_names[1]: a name, or one with \"*.\" at its beginning"),
    ] {
        let found = faults(&listener(&[("a", rule)], false));
        assert_eq!(found, [format!("filter_chains[0].filter_chain_match.{expected}")]);
    }
    let many = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
    let rule = format!("{{server_names: [{}], application_protocols: [{}]}}", many(101), many(100));
    assert_eq!(
        faults(&listener(&[("a", &rule)], false)),
        ["filter_chains[0].filter_chain_match: more than 10000 combinations; use several chains"]
    );
    for (yaml, expected) in [
        ("{}".to_owned(), "filter_chains: missing"),
        ("{filter_chains: [{}]}".to_owned(), "filter_chains[0].filters: missing; the last one must be HttpConnectionManager or TcpProxy"),
        (
            format!("{{filter_chains: [{{filters: [{TCP}, {TCP}]}}]}}"),
            "filter_chains[0].filters[0].typed_config: \"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\" must be the last filter, or is none that is known",
        ),
        ("{filter_chains: [{filters: [{name: a}]}]}".to_owned(), "filter_chains[0].filters[0].typed_config: missing"),
        (
            format!("{{filter_chains: [{{filters: [{}]}}]}}", TCP.replace("name: t,", "")),
            "filter_chains[0].filters[0].name: missing",
        ),
        (
            "{filter_chains: [{filters: [{name: a, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}]}".to_owned(),
            "filter_chains[0].filters[0].typed_config: \"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\" is not a network filter",
        ),
        (
            format!("{{default_filter_chain: {{filter_chain_match: {{}}, filters: [{TCP}]}}}}"),
            "default_filter_chain.filter_chain_match: the default chain takes what no other does; remove it",
        ),
    ] {
        assert_eq!(faults(&json::from_yaml(&yaml).unwrap()), [expected], "{yaml}");
    }
}

#[test]
fn a_prefix_covers_its_first_bits() {
    for (ip, length, expected) in [
        ("1.2.3.4", 32, "1.2.3.4"),
        ("1.2.3.4", 31, "1.2.3.4"),
        ("1.2.3.5", 31, "1.2.3.4"),
        ("1.2.3.4", 0, "0.0.0.0"),
        ("ffff::1", 16, "ffff::"),
        ("ffff::1", 128, "ffff::1"),
        ("ffff::1", 0, "::"),
    ] {
        assert_eq!(masked(ip.parse().unwrap(), length), expected.parse::<IpAddr>().unwrap(), "{ip}/{length}");
    }
}

#[test]
fn plaintext_is_taken_where_a_chain_without_tls_may_get_it() {
    for (rules, default, ports) in [
        (&[("a", "{transport_protocol: tls}")][..], false, &[][..]),
        (&[("a", "{transport_protocol: tls}")], true, &[1, 2]),
        (&[("a", "{server_names: [a.test]}")], false, &[]),
        (&[("a", "{transport_protocol: raw_buffer}")], false, &[1, 2]),
        (
            &[("a", "{destination_port: 1, transport_protocol: tls}"), ("b", "{destination_port: 2}")],
            false,
            &[2],
        ),
        (&[("a", "{destination_port: 1, transport_protocol: tls}"), ("b", "{}")], false, &[2]),
    ] {
        let mut path = Path::root();
        let chains = FilterChains::from_proto(&listener(rules, default), false, &mut path);
        let chains = path.finish(Some(chains)).unwrap();
        let taken: Vec<_> = [1, 2].into_iter().filter(|port| chains.takes_plaintext(*port)).collect();
        assert_eq!(taken, ports, "{rules:?} {default}");
    }
}
