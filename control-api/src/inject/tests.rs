use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

const ROOTS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

fn settings() -> Settings {
    let settings =
        Settings::new("example.org/outrider:0.1.0", ("outrider-control.outrider-system.svc", 15012), ROOTS);
    settings.check().unwrap();
    settings
}

fn around() -> Surroundings {
    Surroundings { namespace: "shop".to_owned(), unless_said: true, ..Surroundings::default() }
}

/// File names and texts.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject/golden/in");
    let mut all: Vec<(String, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// The first pod of a file.
fn pod(text: &str) -> Value {
    manifest::template(&mut manifest::parse(text).unwrap()).unwrap().clone()
}

#[test]
fn pods_of_all_shapes_come_out_as_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject/golden/out");
    let mut wrong = Vec::new();
    for (name, text) in files() {
        let (out, notes) = manifest::inject_all(&text, &around(), &settings()).unwrap();
        let notes: String = notes.iter().map(|note| format!("# {}: {}\n", note.object, note.done)).collect();
        let found = format!("{notes}{out}");
        let file = folder.join(&name);
        if std::env::var_os("OUTRIDER_GOLDEN").is_some_and(|what| what == "write") {
            fs::write(&file, &found).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != found {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?} differ; look at them, then set OUTRIDER_GOLDEN=write");
}

#[test]
fn injecting_again_changes_nothing_and_undoing_it_brings_back_what_was() {
    for (name, text) in files() {
        let once = manifest::inject_all(&text, &around(), &settings()).unwrap().0;
        assert_eq!(manifest::inject_all(&once, &around(), &settings()).unwrap().0, once, "{name}");
        let undone = manifest::uninject_all(&once).unwrap().0;
        let (undone, before) = (manifest::documents(&undone), manifest::documents(&text));
        assert_eq!(undone.len(), before.len(), "{name}");
        for (undone, before) in undone.iter().zip(&before) {
            let (undone, before) = (undone.value().unwrap(), before.value().unwrap());
            assert_eq!(undone, before, "{name}");
        }
    }
}

#[test]
fn another_version_of_the_settings_takes_the_place_of_the_first() {
    for (name, text) in files() {
        let other = Settings { image: "example.org/outrider:2".to_owned(), native: false, ..settings() };
        let upgraded = manifest::inject_all(&text, &around(), &settings()).unwrap().0;
        let upgraded = manifest::inject_all(&upgraded, &around(), &other).unwrap().0;
        let fresh = manifest::inject_all(&text, &around(), &other).unwrap().0;
        assert_eq!(upgraded, fresh, "{name}");
    }
}

#[test]
fn a_container_that_another_webhook_added_afterwards_is_led_through_the_sidecar_too() {
    let text = files().remove(0).1;
    let Outcome::Injected(mut first) = inject(&pod(&text), &around(), &settings()).unwrap() else { panic!() };
    let added =
        json!({"name": "late", "image": "x", "readinessProbe": {"httpGet": {"path": "/x", "port": 7070}}});
    first.pod["spec"]["containers"].as_array_mut().unwrap().push(added);
    let Outcome::Injected(second) = inject(&first.pod, &around(), &settings()).unwrap() else { panic!() };
    assert_eq!(
        second.pod["spec"]["containers"][1]["readinessProbe"]["httpGet"]["path"],
        "/app-health/late/readyz"
    );
    assert!(
        second.pod["metadata"]["annotations"][names::BOOTSTRAP].as_str().unwrap().contains("probe-http-7070")
    );
}

#[test]
fn a_sidecar_that_somebody_changed_becomes_ours_again() {
    let text = files().remove(0).1;
    let Outcome::Injected(first) = inject(&pod(&text), &around(), &settings()).unwrap() else { panic!() };
    let mut changed = first.pod.clone();
    changed["spec"]["initContainers"][1]["securityContext"] = json!({"privileged": true});
    assert_eq!(inject(&changed, &around(), &settings()).unwrap(), Outcome::Injected(first));
}

#[test]
fn what_would_not_work_or_slip_out_is_refused_by_field() {
    let main = |more: Value| {
        let mut container = json!({"name": "main", "image": "x"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"spec": {"containers": [container]}})
    };
    let mut by_pod = main(json!({"securityContext": {"runAsGroup": 1502}}));
    by_pod["spec"]["securityContext"] = json!({"runAsUser": 1502});
    let mut noted = main(json!({}));
    noted["metadata"] = json!({"annotations": {"config.outrider.dev/log-level": "loud"}});
    let table = [
        (json!({"spec": {}}), "spec.containers: missing"),
        (main(json!({"name": "outrider-proxy"})), "spec: the name \"outrider-proxy\" is kept"),
        (by_pod, "spec.containers[0].securityContext: user and group 1502"),
        (
            main(json!({"securityContext": {"runAsUser": 1502, "runAsGroup": 1502}})),
            "spec.containers[0].securityContext: user and group 1502",
        ),
        (
            main(json!({"ports": [{"containerPort": 15006}]})),
            "spec.containers[0].ports[0].containerPort: is a port of",
        ),
        (
            main(json!({"livenessProbe": {"httpGet": {"port": "nowhere"}}})),
            "spec.containers[0].livenessProbe: port \"nowhere\" is neither",
        ),
        (
            main(json!({"lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/a b"}}}})),
            "spec.containers[0].lifecycle.preStop: path \"/a b\" holds",
        ),
        (
            main(json!({"lifecycle": {"preStop": {"httpGet": {"port": 1, "scheme": "HTTPS"}}}})),
            "spec.containers[0].lifecycle.preStop: over HTTPS it cannot",
        ),
        (noted, "metadata.annotations[config.outrider.dev/log-level]: \"loud\" is none of"),
    ];
    for (pod, expected) in table {
        let error = inject(&pod, &around(), &settings()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn only_half_of_the_proxys_identity_is_nobody() {
    for id in ["runAsUser", "runAsGroup"] {
        let pod = json!({"spec": {"containers": [{"name": "a", "securityContext": {id: 1502}}]}});
        assert!(matches!(inject(&pod, &around(), &settings()), Ok(Outcome::Injected(_))), "{id}");
    }
}

#[test]
fn the_patch_makes_the_pod_of_the_pod() {
    for (name, text) in files() {
        let Some(mut before) =
            manifest::template(&mut manifest::documents(&text)[0].value().unwrap()).cloned()
        else {
            continue;
        };
        let Outcome::Injected(after) = inject(&before, &around(), &settings()).unwrap() else { continue };
        for operation in patch::diff(&before, &after.pod) {
            apply(&mut before, &operation);
        }
        assert_eq!(before, after.pod, "{name}");
    }
}

/// RFC 6902, as far as patches of ours go.
fn apply(target: &mut Value, operation: &Value) {
    let (parent, last) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    let parent = target.pointer_mut(parent).unwrap();
    let value = operation["value"].clone();
    match (operation["op"].as_str().unwrap(), parent) {
        ("remove", Value::Object(fields)) => assert!(fields.remove(&last).is_some()),
        ("add", Value::Object(fields)) => assert!(fields.insert(last, value).is_none()),
        ("replace", Value::Object(fields)) => assert!(fields.insert(last, value).is_some()),
        ("replace", Value::Array(items)) => items[last.parse::<usize>().unwrap()] = value,
        (other, parent) => panic!("{other} {parent}"),
    }
}

#[test]
fn probes_by_grpc_are_answered_where_the_application_has_no_port() {
    let probe = |port: u16| json!({"grpc": {"port": port}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "a", "livenessProbe": probe(9000), "readinessProbe": probe(15_031)},
        {"name": "b", "ports": [{"containerPort": 15_030}], "livenessProbe": probe(9001)},
    ]}});
    let Outcome::Injected(done) = inject(&pod, &around(), &settings()).unwrap() else { panic!() };
    let container = |name: &str| {
        let all = done.pod["spec"]["containers"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    let asked = |name: &str, probe: &str| container(name)[probe]["grpc"]["port"].clone();
    assert_eq!(asked("a", "livenessProbe"), 15_032);
    assert_eq!(asked("a", "readinessProbe"), 15_033);
    assert_eq!(asked("b", "livenessProbe"), 15_034);
    let redirect = done.pod["spec"]["initContainers"][0]["args"].to_string();
    assert!(redirect.contains("15032,15033,15034"), "{redirect}");
}

#[test]
fn a_namespace_of_the_file_says_what_holds_for_its_pods() {
    let pod = |name: &str, namespace: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{namespace}}}\nspec: {{containers: [{{name: a, image: x}}]}}\n"
        )
    };
    let namespace = |name: &str, part: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, {part}: {{outrider.dev/inject: disabled}}}}\n"
        )
    };
    // Before and behind its pods, and as the one that is meant where a pod names none.
    let text = pod("early", ", namespace: off")
        + &namespace("off", "labels")
        + &pod("late", ", namespace: off")
        + &pod("here", "")
        + &pod("elsewhere", ", namespace: on")
        + &namespace("shop", "labels");
    let (_, notes) = manifest::inject_all(&text, &around(), &settings()).unwrap();
    let done: Vec<_> = notes.iter().map(|note| (note.object.as_str(), note.done == "injected")).collect();
    let expected = [("Pod/early", false), ("Pod/late", false), ("Pod/here", false), ("Pod/elsewhere", true)];
    assert_eq!(done, expected);
}

#[test]
fn what_is_no_yaml_is_said_with_the_line_of_the_file() {
    let text = "# a\nkind: A\n---\n# b\n\nkind: B\nkind: C\n";
    let error = manifest::inject_all(text, &around(), &settings()).unwrap_err().to_string();
    assert_eq!(
        error,
        "document 2: not valid YAML: line 7, column 1: duplicate mapping key: kind not allowed here"
    );
}
