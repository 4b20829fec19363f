use std::collections::HashMap;

use outrider_proto::google::rpc::Status;

use super::super::order::{ANSWER_WAIT, ASK_WAIT, REMOVAL_WAIT};
use super::super::subscription::MAX_UNANSWERED;
use super::super::testing::{One, plain, snapshot};
use super::*;
use Kind::{Cluster as C, Endpoints as E, Listener as L, Route as R};

/// A stream with a client that can be told to answer.
struct Stream {
    session: Session,
    now: Instant,
}

/// A response in short: what it is about, what it carries, what it takes away.
type Short = (Kind, Vec<String>, Vec<String>);

fn short(kind: Kind, resources: &[&str], removed: &[&str]) -> Short {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    (kind, owned(resources), owned(removed))
}

impl Stream {
    fn new(all: &[One<'_>]) -> Self {
        Self::leasing(snapshot(all), false)
    }

    fn leasing(snapshot: Arc<Snapshot>, leasing: bool) -> Self {
        let session = Session::new("test".into(), leasing, snapshot, Arc::default());
        Self { session, now: Instant::now() }
    }

    fn ask(&mut self, kind: Kind, subscribe: &[&str], unsubscribe: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let request = pb::DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..Default::default()
        };
        self.session.request(&request, self.now).unwrap();
    }

    fn reconnect(&mut self, kind: Kind, subscribe: &[&str], known: &[(&str, &str)]) {
        let known: HashMap<_, _> = known.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let request = pb::DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
            initial_resource_versions: known,
            ..Default::default()
        };
        self.session.request(&request, self.now).unwrap();
    }

    fn answer(&mut self, kind: Kind, nonce: &str, error: Option<&str>) -> Option<Answer> {
        let error = error.map(|text| Status { message: text.into(), ..Status::default() });
        let request = pb::DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            response_nonce: nonce.into(),
            error_detail: error,
            ..Default::default()
        };
        self.session.request(&request, self.now).unwrap()
    }

    fn change(&mut self, all: &[One<'_>]) {
        self.session.change(snapshot(all));
    }

    fn next(&mut self) -> Option<Outgoing<pb::DeltaDiscoveryResponse>> {
        self.session.next(self.now)
    }

    /// All that is said without an answer.
    fn said(&mut self) -> Vec<Short> {
        std::iter::from_fn(|| self.next()).map(|out| brief(&out)).collect()
    }

    /// All that is said to a client that answers at once.
    fn talk(&mut self) -> Vec<Short> {
        let mut said = Vec::new();
        while let Some(out) = self.next() {
            said.push(brief(&out));
            self.answer(out.kind, &out.nonce, None).unwrap();
        }
        said
    }
}

fn brief(out: &Outgoing<pb::DeltaDiscoveryResponse>) -> Short {
    let names = out.response.resources.iter().map(|resource| resource.name.clone()).collect();
    (out.kind, names, out.response.removed_resources.clone())
}

#[test]
fn the_old_wildcard_holds_only_when_nothing_was_named_first() {
    let all = [(C, "a", "1"), (C, "b", "1")];
    let mut stream = Stream::new(&all);
    stream.ask(C, &[], &[]);
    assert_eq!(stream.talk(), [short(C, &["a", "b"], &[])]);
    stream.ask(C, &["a"], &[]);
    assert_eq!(stream.talk(), [short(C, &["a"], &[])], "a re-subscribe is answered");
    stream.ask(C, &[], &["*"]);
    stream.change(&[(C, "a", "2"), (C, "b", "2")]);
    assert_eq!(stream.talk(), [short(C, &["a"], &[])], "only the named one is left");

    let mut named = Stream::new(&all);
    named.ask(C, &["a"], &[]);
    assert_eq!(named.talk(), [short(C, &["a"], &[])]);
    named.ask(C, &[], &["a"]);
    named.ask(C, &[], &[]);
    named.change(&[(C, "a", "2"), (C, "b", "2")]);
    assert_eq!(named.talk(), [], "an empty request is no wildcard after a name");

    let mut routes = Stream::new(&[(R, "r", "1")]);
    routes.ask(R, &[], &[]);
    assert_eq!(routes.talk(), [], "no old wildcard for routes");
    routes.ask(R, &["*"], &[]);
    assert_eq!(routes.talk(), [short(R, &["r"], &[])]);
}

#[test]
fn an_empty_set_is_said() {
    let mut stream = Stream::new(&[]);
    stream.ask(L, &[], &[]);
    assert_eq!(stream.talk(), [short(L, &[], &[])]);
}

#[test]
fn what_does_not_exist_is_said_and_remembered() {
    let mut stream = Stream::new(&[]);
    stream.ask(E, &["later"], &[]);
    assert_eq!(stream.talk(), [short(E, &[], &["later"])]);
    stream.change(&[(E, "later", "1"), (E, "other", "1")]);
    assert_eq!(stream.talk(), [short(E, &["later"], &[])]);
    stream.change(&[(E, "other", "1")]);
    assert_eq!(stream.talk(), [short(E, &[], &["later"])]);
}

#[test]
fn a_name_given_up_under_the_wildcard_is_answered() {
    let mut stream = Stream::new(&[(L, "a", "1")]);
    stream.ask(L, &["*", "a", "none"], &[]);
    assert_eq!(stream.talk(), [short(L, &["a"], &["none"])]);
    stream.ask(L, &[], &["a", "none"]);
    assert_eq!(stream.talk(), [short(L, &["a"], &["none"])]);
}

#[test]
fn nothing_is_said_twice() {
    let all = [(C, "a", "1"), (L, "l", "1")];
    let mut stream = Stream::new(&all);
    stream.ask(C, &[], &[]);
    stream.ask(L, &[], &[]);
    assert_eq!(stream.talk().len(), 2);
    stream.change(&all);
    assert_eq!(stream.talk(), []);
    assert_eq!(stream.answer(C, "77", None), None, "a nonce of nobody");
    assert_eq!(stream.talk(), []);
}

#[test]
fn a_refusal_is_told_by_its_detail_alone_and_is_not_answered() {
    let mut stream = Stream::new(&[(C, "a", "1"), (C, "b", "1")]);
    stream.ask(C, &[], &[]);
    let out = stream.next().unwrap();
    let answer = stream.answer(C, &out.nonce, Some("b: lb_policy: no")).unwrap();
    assert_eq!(answer.error.as_deref(), Some("b: lb_policy: no"));
    let names: Vec<_> = answer.items.iter().map(|item| item.name.as_ref()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(stream.talk(), [], "the same is not sent again");
    stream.change(&[(C, "a", "1"), (C, "b", "2")]);
    assert_eq!(stream.talk(), [short(C, &["b"], &[])]);
}

#[test]
fn a_subscription_counts_although_its_nonce_is_stale() {
    let mut stream = Stream::new(&[(E, "a", "1"), (E, "b", "1")]);
    stream.ask(E, &["a"], &[]);
    let first = stream.next().unwrap();
    stream.change(&[(E, "a", "2"), (E, "b", "1")]);
    let _second = stream.next().unwrap();
    let request = pb::DeltaDiscoveryRequest {
        type_url: E.type_url().into(),
        response_nonce: first.nonce.to_string(),
        resource_names_subscribe: vec!["b".into()],
        ..Default::default()
    };
    stream.session.request(&request, stream.now).unwrap();
    assert_eq!(stream.said(), [short(E, &["b"], &[])]);
}

#[test]
fn after_a_reconnect_only_what_differs_is_said() {
    let all = [(C, "a", "2"), (C, "b", "1"), (E, "a", "1"), (E, "b", "1")];
    let mut stream = Stream::new(&all);
    stream.reconnect(C, &[], &[("a", "1"), ("b", "1"), ("gone", "1")]);
    assert_eq!(stream.talk(), [short(C, &["a"], &["gone"])]);
    stream.reconnect(E, &["a", "b"], &[("a", "1"), ("b", "1")]);
    assert_eq!(stream.talk(), [short(E, &["a", "b"], &[])], "endpoints are said in any case");
    // Only the first request of a stream may say what is known.
    stream.reconnect(C, &["b"], &[("b", "1")]);
    assert_eq!(stream.talk(), [short(C, &["b"], &[])]);
}

#[test]
fn make_comes_before_break() {
    let old = [(C, "old", "1"), (E, "old", "1"), (L, "l", "1"), (R, "r", "to old")];
    let new = [(C, "new", "1"), (E, "new", "1"), (L, "m", "1"), (R, "r", "to new")];
    let mut stream = Stream::new(&old);
    for (kind, names) in [(C, &[][..]), (E, &["old"]), (L, &[]), (R, &["r"])] {
        stream.ask(kind, names, &[]);
    }
    stream.talk();
    stream.change(&new);
    let clusters = stream.next().unwrap();
    assert_eq!(brief(&clusters), short(C, &["new"], &[]));
    assert_eq!(stream.said(), [], "the rest waits for the answer");
    stream.answer(C, &clusters.nonce, None);
    assert_eq!(stream.said(), [], "and for the endpoints to be asked for");
    stream.ask(E, &["new"], &[]);
    let endpoints = stream.next().unwrap();
    assert_eq!(brief(&endpoints), short(E, &["new"], &[]));
    assert_eq!(stream.said(), []);
    stream.answer(E, &endpoints.nonce, None);
    let said = stream.said();
    assert_eq!(said, [short(L, &["m"], &["l"]), short(R, &["r"], &[])]);
    stream.answer(L, "7", None).unwrap();
    stream.answer(R, "8", None).unwrap();
    let said = stream.talk();
    assert_eq!(said, [short(C, &[], &["old"]), short(E, &[], &["old"])]);
}

#[test]
fn a_client_that_does_not_answer_is_not_waited_for_longer_than_said() {
    let mut stream = Stream::new(&[(C, "a", "1"), (E, "a", "1"), (L, "l", "1")]);
    stream.ask(C, &[], &[]);
    stream.ask(L, &[], &[]);
    assert_eq!(stream.said(), [short(C, &["a"], &[])]);
    assert_eq!(stream.session.wake(stream.now), Some(stream.now + ANSWER_WAIT));
    stream.now += ANSWER_WAIT;
    assert_eq!(stream.said(), [short(L, &["l"], &[])]);

    let mut stream = Stream::new(&[(C, "a", "1"), (E, "a", "1"), (L, "l", "1")]);
    stream.ask(C, &[], &[]);
    stream.ask(L, &[], &[]);
    assert_eq!(stream.talk(), [short(C, &["a"], &[])]);
    assert_eq!(stream.session.wake(stream.now), Some(stream.now + ASK_WAIT));
    stream.now += ASK_WAIT;
    assert_eq!(stream.talk(), [short(L, &["l"], &[])]);
}

/// A client that always answers, and always has something still to answer.
#[test]
fn with_changes_in_quick_succession_nothing_waits_longer_than_said() {
    const STEP: Duration = Duration::from_millis(500);
    let mut stream = Stream::new(&[(C, "a", "0"), (C, "old", "1"), (R, "r", "0")]);
    stream.ask(C, &["*"], &[]);
    stream.ask(R, &["r"], &[]);
    stream.talk();
    let (began, mut unanswered) = (stream.now, Vec::new());
    let (mut route_after, mut removal_after) = (None, None);
    for version in 1..40 {
        let version = version.to_string();
        // The route is another one each time, and `old` is gone from the first time on.
        stream.change(&[(C, "a", &version), (R, "r", &version)]);
        let before: Vec<(Kind, Arc<str>)> = std::mem::take(&mut unanswered);
        while let Some(out) = stream.next() {
            let after = Some(stream.now - began);
            match brief(&out) {
                (Kind::Route, _, _) => route_after = route_after.or(after),
                (_, _, removed) if !removed.is_empty() => removal_after = removal_after.or(after),
                _ => {}
            }
            unanswered.push((out.kind, out.nonce));
        }
        // The answers to the responses of the step before.
        for (kind, nonce) in before {
            stream.answer(kind, &nonce, None).unwrap();
        }
        stream.now += STEP;
    }
    assert_eq!((route_after, removal_after), (Some(ANSWER_WAIT), Some(REMOVAL_WAIT)));
}

#[test]
fn endpoints_follow_a_changed_cluster() {
    let mut stream = Stream::new(&[(C, "a", "1"), (C, "b", "1"), (E, "a", "1"), (E, "b", "1")]);
    stream.ask(C, &[], &[]);
    stream.ask(E, &["a", "b"], &[]);
    stream.talk();
    stream.change(&[(C, "a", "2"), (C, "b", "1"), (E, "a", "1"), (E, "b", "1")]);
    assert_eq!(stream.talk(), [short(C, &["a"], &[]), short(E, &["a"], &[])]);
}

#[test]
fn a_resource_that_comes_back_before_its_removal_is_said_stays() {
    let one = [(C, "a", "1"), (R, "r", "1")];
    let mut stream = Stream::new(&one);
    stream.ask(C, &[], &[]);
    stream.ask(R, &["r"], &[]);
    stream.talk();
    stream.change(&[(R, "r", "2")]);
    assert_eq!(stream.said(), [short(R, &["r"], &[])], "its removal waits for the answer");
    stream.change(&one);
    assert_eq!(stream.said(), [short(C, &["a"], &[])]);
}

#[test]
fn a_client_that_answers_nothing_gets_no_more_than_so_many() {
    let mut stream = Stream::new(&[]);
    stream.ask(C, &[], &[]);
    let mut said = 0;
    for version in 0..2 * MAX_UNANSWERED {
        stream.change(&[(C, "a", &version.to_string())]);
        said += stream.said().len();
    }
    assert_eq!(said, MAX_UNANSWERED);
    stream.answer(C, &MAX_UNANSWERED.to_string(), None);
    let last = stream.next().unwrap();
    assert_eq!(last.response.resources[0].version, (2 * MAX_UNANSWERED - 1).to_string());
}

#[test]
fn a_large_set_comes_in_parts() {
    let mut all = plain(&[]);
    let body = bytes::Bytes::from(vec![0; MAX_RESPONSE_BYTES / 4]);
    let one = |_| Resource { version: "1".into(), body: body.clone(), origin: "Test/a/b".into() };
    let names = (0..10).map(|number| (Arc::from(format!("l{number}")), one(number)));
    all.set(L, Arc::new(names.collect()));
    let mut stream = Stream::leasing(Arc::new(all), false);
    stream.ask(L, &[], &[]);
    let sizes: Vec<_> = stream.said().iter().map(|(_, names, _)| names.len()).collect();
    assert_eq!(sizes, [4, 4, 2]);
}

#[test]
fn leases_are_renewed_without_a_body() {
    let mut all = plain(&[(L, "l", "1"), (L, "m", "1")]);
    all.set_ttl(L, "l".into(), Duration::from_secs(9));
    let mut stream = Stream::leasing(Arc::new(all.clone()), true);
    stream.ask(L, &[], &[]);
    let first = stream.next().unwrap().response;
    assert_eq!(first.resources[0].ttl.map(|ttl| ttl.seconds), Some(9));
    assert_eq!(first.resources[1].ttl, None);
    stream.answer(L, &first.nonce, None);
    assert_eq!(stream.session.wake(stream.now), Some(stream.now + Duration::from_secs(3)));
    stream.now += Duration::from_secs(3);
    let renewal = stream.next().unwrap().response;
    let [one] = &renewal.resources[..] else { panic!("{renewal:?}") };
    assert_eq!((one.name.as_str(), one.version.as_str(), one.resource.is_none()), ("l", "1", true));
    assert_eq!(one.ttl.map(|ttl| ttl.seconds), Some(9));
    assert!(stream.next().is_none());
    // The lease is taken off: the resource is said again, without it.
    stream.session.change(snapshot(&[(L, "l", "1"), (L, "m", "1")]));
    let last = stream.next().unwrap().response;
    assert_eq!((last.resources[0].name.as_str(), last.resources[0].ttl), ("l", None));

    let mut without = Stream::leasing(Arc::new(all.clone()), false);
    without.ask(L, &[], &[]);
    assert_eq!(without.next().unwrap().response.resources[0].ttl, None, "for clients that know of it only");
    without.session.change(Arc::new(all));
    assert!(without.next().is_none());
}

#[test]
fn a_renewal_that_is_refused_is_the_last_one_until_it_is_told_anew() {
    let mut all = plain(&[(Kind::Faults, "shop/a", "1"), (Kind::Faults, "shop/b", "1")]);
    for name in ["shop/a", "shop/b"] {
        all.set_ttl(Kind::Faults, name.into(), Duration::from_secs(9));
    }
    let mut stream = Stream::leasing(Arc::new(all.clone()), true);
    stream.ask(Kind::Faults, &[], &[]);
    assert_eq!(stream.talk(), [short(Kind::Faults, &["shop/a", "shop/b"], &[])]);
    // The client takes nothing for a while, and then says of all renewals what it thinks of one.
    let mut renewals = Vec::new();
    for _ in 0..4 {
        stream.now += Duration::from_secs(3);
        renewals.push(stream.next().unwrap().nonce);
    }
    let late = Some("shop/a: ttl: had run out");
    let answer = stream.answer(Kind::Faults, &renewals[0], late).unwrap();
    assert_eq!(answer.lapsed, ["shop/a".into()]);
    stream.answer(Kind::Faults, &renewals[1], late).unwrap();
    stream.now += Duration::from_secs(3);
    let next = stream.next().unwrap();
    assert_eq!(brief(&next), short(Kind::Faults, &["shop/b"], &[]));
    // Neither does another resource bring it back.
    let mut more = plain(&[(Kind::Faults, "shop/a", "1"), (Kind::Faults, "shop/c", "1")]);
    more.set_ttl(Kind::Faults, "shop/a".into(), Duration::from_secs(9));
    stream.session.change(Arc::new(more));
    assert_eq!(stream.said(), [short(Kind::Faults, &["shop/c"], &["shop/b"])]);
    // A new version does, whatever is still answered to what came before it.
    let mut anew = plain(&[(Kind::Faults, "shop/a", "2")]);
    anew.set_ttl(Kind::Faults, "shop/a".into(), Duration::from_secs(9));
    stream.session.change(Arc::new(anew));
    let told = stream.next().unwrap();
    assert!(told.response.resources[0].resource.is_some());
    stream.answer(Kind::Faults, &renewals[3], late).unwrap();
    stream.answer(Kind::Faults, &told.nonce, None).unwrap();
    stream.now += Duration::from_secs(3);
    assert_eq!(stream.said(), [short(Kind::Faults, &["shop/a"], &[])]);
}

#[test]
fn bounds_are_kept_and_other_types_are_passed_over() {
    let mut stream = Stream::new(&[]);
    let long = pb::DeltaDiscoveryRequest {
        type_url: E.type_url().into(),
        resource_names_subscribe: vec!["n".repeat(super::super::MAX_NAME_BYTES + 1)],
        ..Default::default()
    };
    assert!(matches!(stream.session.request(&long, stream.now), Err(ProtocolError::NameTooLong(_))));
    let other =
        pb::DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() };
    assert_eq!(stream.session.request(&other, stream.now), Ok(None));
    assert!(stream.next().is_none());
}
