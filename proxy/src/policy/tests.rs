//! Random policies and requests: the index says what trying all policies says.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::http::message::RequestHead;
use crate::model::matcher::{Case, HeaderMatcher, StringMatcher};

type Fields = Vec<(String, String)>;

/// A request that owns what a subject borrows.
#[derive(Clone, Debug)]
struct Asked {
    peer: Option<String>,
    direct: IpAddr,
    remote: IpAddr,
    local: SocketAddr,
    server_name: Option<String>,
    request: Option<(String, String, Fields)>,
}

impl Asked {
    fn head(&self) -> Option<RequestHead> {
        self.request.as_ref().map(|(method, path, headers)| {
            let mut head = RequestHead { path: path.clone(), ..RequestHead::default() };
            head.method = method.parse().unwrap();
            for (name, value) in headers {
                if name == "host" {
                    head.authority.clone_from(value);
                    continue;
                }
                head.headers.append(name.as_bytes(), value.as_bytes());
            }
            head
        })
    }

    fn subject<'a>(&'a self, head: Option<&'a RequestHead>) -> Subject<'a> {
        Subject {
            peer: self.peer.as_deref(),
            direct_remote: self.direct,
            remote: self.remote,
            local: self.local,
            server_name: self.server_name.as_deref(),
            head,
        }
    }
}

fn string(text: &'static str) -> impl Strategy<Value = StringMatcher> {
    (text, any::<bool>(), 0..6_u8).prop_map(|(text, ignored, kind)| {
        let case = if ignored { Case::Ignored } else { Case::Sensitive };
        let text: Box<[u8]> = text.into_bytes().into();
        match kind {
            0..=1 => StringMatcher::Exact(text, Case::Sensitive),
            2 => StringMatcher::Prefix(text, Case::Sensitive),
            3 => StringMatcher::Exact(text, case),
            4 => StringMatcher::Suffix(text, case),
            _ => StringMatcher::Contains(text, case),
        }
    })
}

fn header() -> impl Strategy<Value = Rule> {
    let yaml = prop_oneof![
        "[ab]".prop_map(|text| format!("{{name: x, string_match: {{exact: {text}}}}}")),
        "[ab]".prop_map(|text| format!("{{name: x, string_match: {{prefix: {text}}}, invert_match: true}}")),
        "[ab]".prop_map(|text| {
            format!("{{name: y, string_match: {{exact: {text}}}, treat_missing_header_as_empty: true}}")
        }),
        "[abA]{1,2}(:8)?"
            .prop_map(|host| format!("{{name: ':authority', string_match: {{exact: '{host}'}}}}")),
        "[abA]".prop_map(|host| format!("{{name: host, string_match: {{prefix: {host}}}}}")),
        any::<bool>().prop_map(|present| format!("{{name: y, present_match: {present}}}")),
        prop_oneof![Just("GET"), Just("POST")]
            .prop_map(|method| format!("{{name: ':method', string_match: {{exact: {method}}}}}")),
    ];
    yaml.prop_map(|yaml| {
        let value = outrider_proto::json::from_yaml(&yaml).unwrap();
        let mut path = outrider_proto::Path::root();
        let matcher = HeaderMatcher::from_proto(&value, &mut path);
        Rule::Header(path.finish(matcher).unwrap())
    })
}

fn range() -> impl Strategy<Value = IpRange> {
    (address(), 0..=32_u32).prop_map(|(address, length)| IpRange::new(address, length).unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..4_u32).prop_map(|low| IpAddr::from((0x0a00_0000 | low).to_be_bytes())),
        (0..4_u32).prop_map(|high| IpAddr::from((high << 30).to_be_bytes())),
        (0..4_u128).prop_map(|high| IpAddr::from((high << 126).to_be_bytes())),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let leaf = prop_oneof![
        1 => Just(Rule::Any),
        1 => Just(Rule::Authenticated(None)),
        4 => string("s[ab]{0,2}").prop_map(|matcher| Rule::Authenticated(Some(matcher))),
        4 => string("/[ab]{0,2}").prop_map(Rule::Path),
        3 => header(),
        1 => string("[ab]").prop_map(Rule::ServerName),
        2 => (78..84_u32, 0..4_u32).prop_map(|(start, count)| Rule::Port(start..start + count)),
        1 => range().prop_map(Rule::Destination),
        1 => range().prop_map(Rule::DirectRemote),
        1 => range().prop_map(Rule::Remote),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            2 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|rules| Rule::All(rules.into())),
            2 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|rules| Rule::One(rules.into())),
            1 => inner.prop_map(|rule| Rule::Not(Box::new(rule))),
        ]
    })
}

fn case() -> impl Strategy<Value = Asked> {
    let field = prop_oneof![
        3 => ("[xy]", "[abc]{0,2}"),
        1 => (Just("host".to_owned()), "[abAB]{1,2}\\.?(:8)?"),
    ];
    let headers = proptest::collection::vec(field, 0..4);
    let request = ("(GET|POST)", "/[abAB]{0,3}(\\?[ab])?", headers);
    let peer = proptest::option::of("s[abAB]{0,3}");
    (
        peer,
        address(),
        address(),
        address(),
        78..86_u16,
        proptest::option::of("[ab]"),
        proptest::option::of(request),
    )
        .prop_map(|(peer, direct, remote, local, port, server_name, request)| Asked {
            peer,
            direct,
            remote,
            local: SocketAddr::new(local, port),
            server_name,
            request,
        })
}

fn set(action: Action, rules: Vec<Rule>) -> PolicySet {
    let policies = rules.into_iter().enumerate().map(|(number, rule)| {
        let name = format!("{:03}", number * 7 % 101).into();
        Policy { label: std::sync::Arc::clone(&name), name, rule }
    });
    PolicySet::new(action, policies.collect(), "")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_index_agrees_with_a_scan(
        action in prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Log)],
        rules in proptest::collection::vec(rule(), 0..60),
        cases in proptest::collection::vec(case(), 1..8),
    ) {
        let set = set(action, rules);
        for case in &cases {
            let head = case.head();
            let subject = case.subject(head.as_ref());
            let name = |(allowed, policy): (bool, Option<&Policy>)| {
                (allowed, policy.map(|policy| policy.name.to_string()))
            };
            prop_assert_eq!(name(set.decide(&subject)), name(set.decide_by_scan(&subject)), "{:?}", case);
        }
    }
}
