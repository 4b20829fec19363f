use outrider_proto::google::rpc::Status;

use super::super::testing::{One, plain, snapshot};
use super::*;
use Kind::{Cluster as C, Endpoints as E, Listener as L, Route as R};

struct Stream {
    session: Session,
    now: Instant,
    names: BTreeMap<Kind, Vec<String>>,
    version: String,
}

/// A response in short: what it is about, what it carries.
type Short = (Kind, Vec<String>);

fn short(kind: Kind, names: &[&str]) -> Short {
    (kind, names.iter().map(ToString::to_string).collect())
}

impl Stream {
    fn new(all: &[One<'_>]) -> Self {
        let session = Session::new("test".into(), false, snapshot(all), Arc::default());
        Self { session, now: Instant::now(), names: BTreeMap::new(), version: String::new() }
    }

    fn say(&mut self, kind: Kind, nonce: &str, names: &[&str], error: Option<&str>) -> Option<Answer> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.names.insert(kind, names.clone());
        let request = pb::DiscoveryRequest {
            type_url: kind.type_url().into(),
            response_nonce: nonce.into(),
            resource_names: names,
            version_info: self.version.clone(),
            error_detail: error.map(|text| Status { message: text.into(), ..Status::default() }),
            ..Default::default()
        };
        self.session.request(&request, self.now).unwrap()
    }

    fn next(&mut self) -> Option<Outgoing<pb::DiscoveryResponse>> {
        self.session.next(self.now)
    }

    /// All that is said to a client that answers at once.
    fn talk(&mut self) -> Vec<Short> {
        let mut said = Vec::new();
        while let Some(out) = self.next() {
            said.push(brief(&out));
            self.accept(&out);
        }
        said
    }

    fn accept(&mut self, out: &Outgoing<pb::DiscoveryResponse>) {
        self.version = out.response.version_info.clone();
        let names = self.names.get(&out.kind).cloned().unwrap_or_default();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.say(out.kind, &out.nonce, &names, None).unwrap();
    }

    fn change(&mut self, all: &[One<'_>]) {
        self.session.change(snapshot(all));
    }
}

fn brief(out: &Outgoing<pb::DiscoveryResponse>) -> Short {
    let there: Vec<_> = out.items.iter().filter(|item| item.version.is_some()).collect();
    assert_eq!(out.response.resources.len(), there.len());
    (out.kind, there.iter().map(|item| item.name.to_string()).collect())
}

#[test]
fn the_old_wildcard_ends_with_the_first_name() {
    let mut stream = Stream::new(&[(C, "a", "1"), (C, "b", "1")]);
    stream.say(C, "", &[], None);
    let first = stream.next().unwrap();
    assert_eq!(brief(&first), short(C, &["a", "b"]));
    stream.accept(&first);
    stream.say(C, &first.nonce, &["a"], None);
    let second = stream.next().unwrap();
    assert_eq!(brief(&second), short(C, &["a"]));
    stream.accept(&second);
    stream.say(C, &second.nonce, &[], None);
    stream.change(&[(C, "a", "2"), (C, "b", "2")]);
    assert_eq!(stream.talk(), [], "nothing is asked for any more");
    stream.say(C, &second.nonce, &["*"], None);
    assert_eq!(stream.talk(), [short(C, &["a", "b"])]);
}

#[test]
fn a_stale_nonce_is_passed_over_and_an_answer_is_not_answered() {
    let mut stream = Stream::new(&[(E, "a", "1"), (E, "b", "1")]);
    stream.say(E, "", &["a"], None);
    let first = stream.next().unwrap();
    stream.change(&[(E, "a", "2"), (E, "b", "1")]);
    let second = stream.next().unwrap();
    assert_ne!(first.response.version_info, second.response.version_info);
    assert_eq!(stream.say(E, &first.nonce, &["a", "b"], None), None);
    assert!(stream.next().is_none(), "stale");
    let answer = stream.say(E, &second.nonce, &["a", "b"], None).unwrap();
    assert_eq!((answer.kind, answer.error), (E, None));
    assert_eq!(stream.talk(), [short(E, &["b"])]);
}

#[test]
fn a_refusal_is_told_by_its_detail_alone() {
    let mut stream = Stream::new(&[(L, "l", "1")]);
    stream.say(L, "", &[], None);
    let out = stream.next().unwrap();
    // The version is the one that it stays with, none; the nonce is that of what it refuses.
    let answer = stream.say(L, &out.nonce, &[], Some("l: filter_chains: no")).unwrap();
    assert_eq!(answer.error.as_deref(), Some("l: filter_chains: no"));
    assert!(stream.next().is_none(), "the same is not sent again");
    stream.change(&[(L, "l", "2")]);
    assert_eq!(stream.talk(), [short(L, &["l"])]);
}

#[test]
fn an_empty_set_is_said_where_absence_has_a_meaning() {
    let mut stream = Stream::new(&[]);
    stream.say(L, "", &[], None);
    assert_eq!(stream.talk(), [short(L, &[])]);
    let mut stream = Stream::new(&[]);
    stream.say(L, "", &["target"], None);
    assert_eq!(stream.talk(), [short(L, &[])]);
    stream.say(R, "", &["none"], None);
    assert_eq!(stream.talk(), []);
    stream.change(&[(L, "target", "1"), (R, "none", "1")]);
    assert_eq!(stream.talk(), [short(L, &["target"]), short(R, &["none"])], "it was remembered");
}

#[test]
fn a_name_given_up_and_asked_for_again_is_answered() {
    let mut stream = Stream::new(&[(E, "a", "1"), (E, "b", "1")]);
    stream.say(E, "", &["a", "b"], None);
    let out = stream.next().unwrap();
    assert_eq!(brief(&out), short(E, &["a", "b"]));
    stream.say(E, &out.nonce, &["a"], None);
    assert!(stream.next().is_none());
    stream.say(E, &out.nonce, &["a", "b"], None);
    assert_eq!(stream.talk(), [short(E, &["b"])]);
}

#[test]
fn clusters_stay_until_nothing_refers_to_them() {
    let mut stream = Stream::new(&[(C, "old", "1"), (E, "old", "1"), (L, "l", "1"), (R, "r", "to old")]);
    for (kind, names) in [(C, &[][..]), (E, &["old"]), (L, &[]), (R, &["r"])] {
        stream.say(kind, "", names, None);
    }
    stream.talk();
    stream.change(&[(C, "new", "1"), (E, "new", "1"), (L, "m", "1"), (R, "r", "to new")]);
    let both = stream.next().unwrap();
    assert_eq!(brief(&both), short(C, &["new", "old"]));
    assert!(stream.next().is_none(), "the rest waits for the answer");
    // Envoy asks for the endpoints, and answers when they are there.
    let nonce = stream.session.seen[&E].last_nonce.clone().unwrap();
    stream.say(E, &nonce, &["new", "old"], None);
    let endpoints = stream.next().unwrap();
    assert_eq!(brief(&endpoints), short(E, &["new"]));
    stream.accept(&endpoints);
    assert!(stream.next().is_none());
    stream.accept(&both);
    let said = stream.talk();
    assert_eq!(said, [short(L, &["m"]), short(R, &["r"]), short(C, &["new"])]);
}

#[test]
fn leases_are_wrapped_and_renewed() {
    let mut all = plain(&[(R, "r", "1"), (R, "s", "1")]);
    all.set_ttl(R, "r".into(), Duration::from_secs(6));
    let session = Session::new("test".into(), true, Arc::new(all), Arc::default());
    let (names, version) = (BTreeMap::new(), String::new());
    let mut stream = Stream { session, now: Instant::now(), names, version };
    stream.say(R, "", &["r", "s"], None);
    let first = stream.next().unwrap();
    let urls: Vec<_> = first.response.resources.iter().map(|any| any.type_url.as_str()).collect();
    assert_eq!(urls, [RESOURCE_URL, R.type_url()]);
    let wrapped = pb::Resource::decode(first.response.resources[0].value.as_slice()).unwrap();
    assert_eq!((wrapped.name.as_str(), wrapped.ttl.map(|ttl| ttl.seconds)), ("r", Some(6)));
    stream.accept(&first);
    assert_eq!(stream.session.wake(stream.now), Some(stream.now + Duration::from_secs(2)));
    stream.now += Duration::from_secs(2);
    assert_eq!(stream.talk(), [short(R, &["r"])]);
}

/// The names in a response, each with whether it came with its body.
fn bodies(response: &pb::DiscoveryResponse) -> Vec<(String, bool)> {
    let wrapped = response.resources.iter().map(|any| pb::Resource::decode(any.value.as_slice()).unwrap());
    wrapped.map(|one| (one.name, one.resource.is_some())).collect()
}

/// Faults of these names with a lease of six seconds.
fn leased(names: &[&str]) -> Arc<Snapshot> {
    let listed: Vec<_> = names.iter().map(|name| (Kind::Faults, *name, "1")).collect();
    let mut all = plain(&listed);
    names.iter().for_each(|name| all.set_ttl(Kind::Faults, (*name).into(), Duration::from_secs(6)));
    Arc::new(all)
}

/// A stream that has asked for all faults, of which there is one, `a`.
fn leased_stream() -> Stream {
    let session = Session::new("test".into(), true, leased(&["a"]), Arc::default());
    let mut stream = Stream { session, now: Instant::now(), names: BTreeMap::new(), version: String::new() };
    stream.say(Kind::Faults, "", &["*"], None);
    stream
}

#[test]
fn a_lease_that_goes_on_is_said_without_what_it_is_about() {
    let mut stream = leased_stream();
    let expect = |stream: &mut Stream, expected: &[(&str, bool)]| {
        let said = stream.next().unwrap();
        let expected: Vec<_> = expected.iter().map(|(name, whole)| ((*name).to_owned(), *whole)).collect();
        assert_eq!(bodies(&said.response), expected);
        stream.accept(&said);
    };
    expect(&mut stream, &[("a", true)]);
    stream.now += Duration::from_secs(2);
    expect(&mut stream, &[("a", false)]);
    // What is there already is only renewed when another comes; absence would end it.
    stream.session.change(leased(&["a", "b"]));
    expect(&mut stream, &[("a", false), ("b", true)]);
}

#[test]
fn what_a_client_has_let_go_of_does_not_begin_again_because_of_another() {
    let mut stream = leased_stream();
    assert_eq!(stream.talk(), [short(Kind::Faults, &["a"])]);
    stream.now += Duration::from_secs(9);
    let renewal = stream.next().unwrap();
    let answer = stream.say(Kind::Faults, &renewal.nonce, &["*"], Some("a: ttl: had run out")).unwrap();
    assert_eq!(answer.lapsed, ["a".into()]);
    stream.now += Duration::from_secs(9);
    assert!(stream.next().is_none());
    stream.session.change(leased(&["a", "b"]));
    assert_eq!(stream.talk(), [short(Kind::Faults, &["b"])]);
}

#[test]
fn the_version_is_that_of_the_set() {
    let mut one = Stream::new(&[(L, "a", "1"), (L, "b", "1")]);
    one.say(L, "", &[], None);
    let first = one.next().unwrap();
    let mut other = Stream::new(&[(L, "b", "1"), (L, "a", "1")]);
    other.say(L, "", &[], None);
    assert_eq!(first.response.version_info, other.next().unwrap().response.version_info);
}
