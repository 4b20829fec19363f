use serde_json::{Value, json};

use super::*;
use crate::ca::testing::Scratch;
use crate::object::{ObjectKind, Place};

fn object(name: &str, spec: Value) -> Arc<Object<FaultInjection>> {
    let value = json!({
        "apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "FaultInjection", "spec": spec,
        "metadata": {"name": name, "namespace": "shop"},
    });
    let AnyObject::FaultInjection(object) = AnyObject::from_value(value, &Place::default()).unwrap() else {
        panic!("of another kind");
    };
    object
}

fn objects(all: &[Arc<Object<FaultInjection>>]) -> Arc<Objects> {
    let mut objects = Objects::default();
    all.iter().for_each(|one| objects.insert(AnyObject::FaultInjection(Arc::clone(one))));
    Arc::new(objects)
}

fn minute() -> Value {
    json!({"direction": "Inbound", "refuse": {}, "duration": "1m"})
}

fn key(name: &str) -> Key {
    Key::new(ObjectKind::FaultInjection, "shop", name)
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_with_its_duration_and_begins_anew_when_its_object_changes() {
    let runs = Experiments::default();
    let first = objects(&[object("a", minute())]);
    runs.observe(&first, true);
    assert_eq!(runs.in_force(), InForce::default());
    tokio::time::advance(Duration::from_secs(59)).await;
    runs.observe(&first, true);
    assert_eq!(runs.phase(&key("a")), Some(Phase::Running { left: Duration::from_secs(1) }));
    assert_eq!(runs.next_end(), Some(Instant::now() + Duration::from_secs(1)));
    tokio::time::advance(Duration::from_secs(1)).await;
    runs.observe(&first, true);
    assert_eq!((runs.phase(&key("a")), runs.next_end()), (Some(Phase::Over), None));
    assert_eq!(runs.in_force().over, [key("a")].into());
    runs.observe(&objects(&[object("a", json!({"direction": "Inbound", "blackhole": {}}))]), true);
    assert_eq!(runs.phase(&key("a")), Some(Phase::Running { left: Duration::from_secs(600) }));
    runs.observe(&Objects::default(), false);
    assert!(runs.phase(&key("a")).is_some(), "what was not read may still be there");
    runs.observe(&Objects::default(), true);
    assert!(runs.phase(&key("a")).is_none());
}

#[tokio::test]
async fn stops_and_begun_runs_outlive_the_process_and_what_was_applied_does_not() {
    let scratch = Scratch::new("experiments");
    let state = StateDir::open(&scratch.path().join("state")).unwrap();
    let source = objects(&[object("a", minute()), object("b", minute())]);
    let runs = Experiments::open(state.clone()).unwrap();
    runs.apply(vec![object("c", minute())], &source).unwrap();
    let all = runs.with_applied(&source);
    runs.observe(&all, true);
    assert!(runs.stop(&key("b")).unwrap() && !runs.stop(&key("none")).unwrap());
    assert_eq!(all.faults.len(), 3);

    let again = Experiments::open(state.clone()).unwrap();
    assert!(Arc::ptr_eq(&again.with_applied(&source), &source));
    again.observe(&source, true);
    assert_eq!(again.in_force().over, [key("b")].into());
    let Some(Phase::Running { left }) = again.phase(&key("a")) else { panic!("it runs") };
    assert!(left <= Duration::from_secs(60));
    again.stop_all(true).unwrap();

    let stopped = Experiments::open(state.clone()).unwrap();
    stopped.observe(&source, true);
    assert!(stopped.in_force().stopped && stopped.is_stopped());
    assert_eq!(stopped.phase(&key("a")), Some(Phase::Stopped));
    assert_eq!(stopped.apply(vec![object("d", minute())], &source), Err(ApplyError::Stopped));
    stopped.stop_all(false).unwrap();
    assert!(!Experiments::open(state.clone()).unwrap().is_stopped());
    state.write("faults.json", b"{", 0o600).unwrap();
    assert!(Experiments::open(state).is_err(), "a stop must not be forgotten");
}

#[tokio::test]
async fn a_file_that_says_nonsense_about_time_makes_no_run_longer() {
    let scratch = Scratch::new("experiments-time");
    let state = StateDir::open(&scratch.path().join("state")).unwrap();
    let source = objects(&[object("a", minute())]);
    Experiments::open(state.clone()).unwrap().observe(&source, true);
    let mut kept: Value = serde_json::from_slice(&state.read("faults.json").unwrap().unwrap()).unwrap();
    // A calendar that has gone back by years, and one that has gone on.
    for (since, most) in [(u64::MAX, 60), (0, 0)] {
        kept["runs"][0]["since_unix_ms"] = since.into();
        state.write("faults.json", kept.to_string().as_bytes(), 0o600).unwrap();
        let again = Experiments::open(state.clone()).unwrap();
        again.observe(&source, true);
        match again.phase(&key("a")) {
            Some(Phase::Running { left }) => assert!(most > 0 && left <= Duration::from_secs(most)),
            phase => assert_eq!((phase, most), (Some(Phase::Over), 0)),
        }
    }
}

#[test]
fn what_is_in_a_file_is_changed_there() {
    let runs = Experiments::default();
    let source = objects(&[object("a", minute())]);
    assert_eq!(runs.apply(vec![object("a", minute())], &source), Err(ApplyError::InSource(key("a"))));
    for number in 0..MAX_APPLIED {
        runs.apply(vec![object(&format!("n{number}"), minute())], &source).unwrap();
    }
    assert_eq!(runs.apply(vec![object("more", minute())], &source), Err(ApplyError::TooMany));
    runs.apply(vec![object("n0", minute())], &source).unwrap();
    // All of them or none: what came before the one that may not be does not run either.
    let runs = Experiments::default();
    let both = vec![object("b", minute()), object("a", minute())];
    assert_eq!(runs.apply(both, &source), Err(ApplyError::InSource(key("a"))));
    let many = (0..=MAX_APPLIED).map(|number| object(&format!("n{number}"), minute())).collect();
    assert_eq!(runs.apply(many, &source), Err(ApplyError::TooMany));
    assert!(Arc::ptr_eq(&runs.with_applied(&source), &source));
    assert_eq!((runs.phase(&key("b")), runs.phase(&key("n0"))), (None, None));
    runs.apply(vec![object("b", minute()), object("c", minute())], &source).unwrap();
    assert_eq!(runs.with_applied(&source).faults.len(), 3);
    runs.stop_all(true).unwrap();
    assert!(Arc::ptr_eq(&runs.with_applied(&source), &source));
}
