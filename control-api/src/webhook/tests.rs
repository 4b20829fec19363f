use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::configuration::Registered;
use super::question::Question;
use super::review::{ReviewError, answer};
use super::*;

fn policy(on_error: OnError) -> Policy {
    let settings = Settings::new("example.org/p:1", ("control", 15012), "-----BEGIN CERTIFICATE-----\n");
    Policy { settings, exemptions: vec!["infra/node=host-namespaces".parse().unwrap()], on_error }
}

fn review(namespace: &str, object: Value) -> Value {
    let kind = object["kind"].clone();
    let group = if kind == "Pod" { "" } else { "apps" };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"group": group, "version": "v1", "kind": kind}, "operation": "CREATE",
        "namespace": namespace, "object": object, "dryRun": true,
    }})
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"},
        "spec": {"containers": [{"name": "a", "image": "x"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

fn ask(path: &str, review: &Value, on_error: OnError) -> Value {
    let answer = answer(review, Question::parse(path).unwrap(), &policy(on_error)).unwrap();
    assert_eq!(answer["response"]["uid"], "u-1");
    answer["response"].clone()
}

#[test]
fn a_pod_gets_its_patch_and_the_second_time_none() {
    let mut asked = review("shop", pod(json!({})));
    let response = ask("/inject/enabled", &asked, OnError::Deny);
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert!(patch.as_array().unwrap().iter().any(|one| one["path"] == "/spec/initContainers"), "{patch}");
    assert_eq!(response, ask("/inject/enabled", &asked, OnError::Deny), "asked twice");

    let around = crate::inject::Surroundings { unless_said: true, ..Default::default() };
    let injected =
        crate::inject::inject(&asked["request"]["object"], &around, &policy(OnError::Deny).settings);
    let Ok(crate::inject::Outcome::Injected(injected)) = injected else { panic!() };
    asked["request"]["object"] = injected.pod;
    let response = ask("/inject/enabled", &asked, OnError::Deny);
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
}

#[test]
fn who_gets_none_passes_unchanged() {
    let quiet = review("shop", pod(json!({})));
    let mut update = quiet.clone();
    update["request"]["operation"] = "UPDATE".into();
    let mut ephemeral = quiet.clone();
    ephemeral["request"]["subResource"] = "ephemeralcontainers".into();
    let table = [
        ("/inject", quiet, "skipped: neither it nor"),
        ("/inject/enabled", review("outrider-system", pod(json!({}))), "skipped: its namespace is one"),
        (
            "/inject/enabled",
            review("shop", pod(json!({"hostNetwork": true}))),
            "skipped: it uses the network",
        ),
        ("/inject/enabled", update, "not a pod that is created"),
        ("/inject/enabled", ephemeral, "not a pod that is created"),
        ("/inject/enabled", review("shop", json!({"kind": "Deployment"})), "not a pod that is created"),
    ];
    for (path, asked, decision) in table {
        let response = ask(path, &asked, OnError::Deny);
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null), "{decision}");
        let said = response["auditAnnotations"]["decision"].as_str().unwrap();
        assert!(said.starts_with(decision), "{said}");
    }
}

#[test]
fn a_sidecar_that_is_not_possible_is_refused_or_left_out_as_configured() {
    let mut asked = review("shop", pod(json!({})));
    asked["request"]["object"]["metadata"]["annotations"] = json!({"config.outrider.dev/log-level": "loud"});
    let response = ask("/inject/enabled", &asked, OnError::Deny);
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    assert!(
        response["status"]["message"].as_str().unwrap().contains("config.outrider.dev/log-level]: \"loud\"")
    );
    let response = ask("/inject/enabled", &asked, OnError::Allow);
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    assert!(response["warnings"][0].as_str().unwrap().starts_with("the pod gets no sidecar: "));
}

#[test]
fn findings_are_refused_or_told_as_the_namespace_wants() {
    let bad = review("shop", pod(json!({"hostPID": true})));
    let refused = ask("/audit/enforce/baseline", &bad, OnError::Deny);
    assert_eq!(refused["allowed"], false);
    assert!(refused["status"]["message"].as_str().unwrap().contains("spec.hostPID: must not be true"));
    let warned = ask("/audit/warn/baseline", &bad, OnError::Deny);
    assert_eq!((&warned["allowed"], warned["warnings"].as_array().unwrap().len()), (&json!(true), 1));
    let noted = ask("/audit/audit/baseline", &bad, OnError::Deny);
    assert_eq!((&noted["allowed"], &noted["warnings"]), (&json!(true), &Value::Null));
    assert!(noted["auditAnnotations"]["decision"].as_str().unwrap().contains("host-namespaces"));

    let good = ask("/audit/enforce/baseline", &review("shop", pod(json!({}))), OnError::Deny);
    assert_eq!(good["allowed"], true);
    let strict = ask("/audit/enforce/restricted", &review("shop", pod(json!({}))), OnError::Deny);
    assert_eq!(strict["allowed"], false);
    let agent = review("infra", pod(json!({"hostPID": true, "serviceAccountName": "node"})));
    assert_eq!(ask("/audit/enforce/baseline", &agent, OnError::Deny)["allowed"], true, "it is exempt");
}

#[test]
fn what_was_there_before_may_be_changed_but_not_made_worse() {
    let mut update = review("shop", pod(json!({"hostPID": true})));
    update["request"]["operation"] = "UPDATE".into();
    update["request"]["oldObject"] = update["request"]["object"].clone();
    assert_eq!(ask("/audit/enforce/baseline", &update, OnError::Deny)["allowed"], true);
    let debug = json!([{"name": "d", "securityContext": {"privileged": true}}]);
    update["request"]["object"]["spec"]["ephemeralContainers"] = debug;
    assert_eq!(ask("/audit/enforce/baseline", &update, OnError::Deny)["allowed"], false);
}

#[test]
fn what_makes_pods_is_warned_of_and_never_refused() {
    let template = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "spec": {"template": pod(json!({"hostPID": true}))}});
    let response = ask("/audit/enforce/baseline", &review("shop", template), OnError::Deny);
    assert_eq!((&response["allowed"], response["warnings"].as_array().unwrap().len()), (&json!(true), 1));
}

#[test]
fn answers_stay_within_what_the_api_server_takes() {
    let containers: Vec<Value> = (0..200).map(|n| json!({"name": format!("ü{n}")})).collect();
    let many = review("shop", pod(json!({"containers": containers})));
    let response = ask("/audit/warn/restricted", &many, OnError::Deny);
    let warnings = response["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 15);
    assert!(warnings.iter().all(|warning| warning.as_str().unwrap().len() <= 256));
    let response = ask("/audit/enforce/restricted", &many, OnError::Deny);
    assert!(response["status"]["message"].as_str().unwrap().len() <= 4096);
}

#[test]
fn what_is_no_question_is_not_answered() {
    for path in [
        "",
        "/",
        "/inject/disabled",
        "/audit",
        "/audit/enforce",
        "/audit/Enforce/baseline",
        "/audit/warn/none",
    ] {
        assert_eq!(Question::parse(path), None, "{path}");
    }
    let question = Question::parse("/inject").unwrap();
    let ask = |review: Value| answer(&review, question, &policy(OnError::Deny)).unwrap_err();
    assert_eq!(ask(json!(null)), ReviewError::NotAReview);
    assert_eq!(
        ask(json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"})),
        ReviewError::NotAReview
    );
    assert_eq!(
        ask(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})),
        ReviewError::NoUid
    );
    // A request without an object is one for a pod without containers.
    let mut empty = review("shop", Value::Null);
    empty["request"]["kind"] = json!({"group": "", "version": "v1", "kind": "Pod"});
    let response = answer(&empty, Question::Inject { enabled: true }, &policy(OnError::Deny)).unwrap();
    assert_eq!(response["response"]["allowed"], false);
}

#[test]
fn every_path_that_is_registered_is_one_that_is_answered() {
    let registered = Registered { root_namespace: "outrider-system", roots: Some("R"), fail_closed: true };
    let mut count = 0;
    for webhook in registered.objects().iter().flat_map(|one| one["webhooks"].as_array().unwrap()) {
        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap();
        assert!(Question::parse(path).is_some(), "{path}");
        // The API server takes segments of lower case letters, digits, '-' and '.' only.
        assert!(path.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'/'), "{path}");
        assert_eq!(webhook["clientConfig"]["caBundle"], STANDARD.encode("R"));
        let enforces = !path.starts_with("/audit") || path.starts_with("/audit/enforce");
        assert_eq!(webhook["failurePolicy"], if enforces { "Fail" } else { "Ignore" }, "{path}");
        count += 1;
    }
    assert_eq!(count, 8);
}
