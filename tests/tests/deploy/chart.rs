//! The Helm chart makes what the base makes, and its values change what they say and nothing else.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use outrider_control::audit::{Level, audit_text};
use outrider_control::inject::manifest;
use serde_json::{Value, json};

use super::{deploy, kustomize, schema};

const RELEASE: &str = "outrider-system";

/// Helm with the chart and more arguments; only `make test-kube` looks for it, because it may have to be built.
fn helm(command: &[&str], more: &[&str]) -> Option<Output> {
    let Some(helm) = std::env::var_os("OUTRIDER_TEST_HELM") else {
        eprintln!("SKIPPED: there is no Helm; `make test-kube` finds or builds it");
        return None;
    };
    let chart = deploy().join("chart");
    Some(Command::new(helm).args(command).arg(chart).args(more).output().expect("Helm"))
}

/// What the chart makes in a namespace, by kind and name.
fn objects(namespace: &str, more: &[&str]) -> Option<BTreeMap<String, Value>> {
    // A Helm that is built with `go install` takes Kubernetes for an old one.
    let fixed = ["--namespace", namespace, "--kube-version", "1.36.3"];
    let output = helm(&["template", "outrider"], &[&fixed, more].concat())?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let audited = audit_text("chart", &text, (Level::Restricted, &[], None)).unwrap();
    assert!(audited.len() == 1 && audited[0].findings.is_empty(), "{audited:?}");
    Some(by_name(&text))
}

fn by_name(text: &str) -> BTreeMap<String, Value> {
    let documents = manifest::documents(text);
    let all = documents.iter().map(|one| manifest::parse(&one.text).unwrap()).filter(Value::is_object);
    all.map(|one| (format!("{}/{}", one["kind"], one["metadata"]["name"]).replace('"', ""), one)).collect()
}

#[test]
fn the_chart_makes_what_the_base_makes() {
    let Some(output) = helm(&["lint", "--strict"], &[]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let Some(mut made) = objects(RELEASE, &[]) else { return };
    let Some(base) = kustomize("base") else { return };
    assert!(base.status.success(), "{}", String::from_utf8_lossy(&base.stderr));
    let mut base = by_name(&String::from_utf8(base.stdout).unwrap());
    // Helm makes the namespace itself, if it is asked to; the labels of the base's are told of when it is done.
    assert!(base.remove(&format!("Namespace/{RELEASE}")).is_some());
    for object in made.values_mut() {
        assert_eq!(schema(object), Vec::<String>::new(), "{object}");
        if object["kind"] == "CustomResourceDefinition" {
            let annotations = object["metadata"].as_object_mut().unwrap().remove("annotations");
            assert_eq!(annotations, Some(json!({"helm.sh/resource-policy": "keep"})));
        }
    }
    let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&base));
    for (name, object) in &base {
        assert_eq!(&made[name], object, "{name}");
    }
    eprintln!("{} objects, the same as of the base", made.len());
}

#[test]
fn each_value_changes_what_it_says_and_nothing_else() {
    let Some(usual) = objects(RELEASE, &[]) else { return };
    let container = "/spec/template/spec/containers/0";
    let table = [
        ("image=example.org/c:2", format!("{container}/image"), json!("example.org/c:2")),
        ("imagePullPolicy=Always", format!("{container}/imagePullPolicy"), json!("Always")),
        (
            "sidecarImage=example.org/p:2",
            format!("{container}/args/8"),
            json!("--sidecar-image=example.org/p:2"),
        ),
        ("replicas=3", "/spec/replicas".to_owned(), json!(3)),
        ("resources.limits.memory=2Gi", format!("{container}/resources/limits/memory"), json!("2Gi")),
        ("trustDomain=example.org", format!("{container}/args/11"), json!("--trust-domain=example.org")),
        (
            "arguments={--sidecar-redirect=cni}",
            format!("{container}/args/11"),
            json!("--sidecar-redirect=cni"),
        ),
    ];
    for (value, path, expected) in table {
        let mut made = objects(RELEASE, &["--set", value]).unwrap();
        let deployment = made.get_mut("Deployment/outrider-control").unwrap();
        assert_eq!(deployment.pointer(&path), Some(&expected), "{value}");
        // Put back what it was, and all is as before.
        let before = usual["Deployment/outrider-control"].pointer(&path).cloned();
        let (parent, last) = path.rsplit_once('/').unwrap();
        match (deployment.pointer_mut(parent).unwrap(), before) {
            (Value::Array(items), None) => drop(items.pop()),
            (Value::Array(items), Some(before)) => items[last.parse::<usize>().unwrap()] = before,
            (parent, None) => drop(parent.as_object_mut().unwrap().remove(last)),
            (parent, Some(before)) => parent[last] = before,
        }
        assert_eq!(made, usual, "{value}");
    }
    let open = objects(RELEASE, &["--set", "failurePolicy=Ignore"]).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = ["outrider", "webhooks", "--fail-open"].map(Into::into);
    assert_eq!(outrider_control::cli::run(arguments, &mut out, &mut err), 0);
    for (name, object) in by_name(&String::from_utf8(out).unwrap()) {
        assert_eq!(open[&name], object, "{name}");
    }
}

#[test]
fn in_another_namespace_nothing_is_left_of_the_usual_one() {
    let Some(made) = objects("mesh", &[]) else { return };
    let deployment = &made["Deployment/outrider-control"];
    for (name, object) in &made {
        assert_eq!(schema(object), Vec::<String>::new(), "{name}");
        assert!(!object.to_string().contains(RELEASE), "{name}: {object:#}");
    }
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    for expected in [
        "--root-namespace=mesh",
        "--server-name=outrider-control.mesh.svc",
        "=outrider-control.mesh.svc:15012",
    ] {
        assert!(arguments.contains(expected), "{expected}: {arguments}");
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let asked = ["outrider", "webhooks", "--root-namespace", "mesh"].map(Into::into);
    assert_eq!(outrider_control::cli::run(asked, &mut out, &mut err), 0);
    for (name, object) in by_name(&String::from_utf8(out).unwrap()) {
        assert_eq!(made[&name], object, "{name}");
    }
}

#[test]
fn values_that_cannot_be_right_are_refused_by_name() {
    for (value, named) in [
        ("replicas=0", "replicas"),
        ("replicas=many", "replicas"),
        ("replica=2", "replica"),
        ("image=", "image"),
        ("failurePolicy=Sometimes", "failurePolicy"),
        ("trustDomain=Example Org", "trustDomain"),
        ("resources.limits.memory=lots", "memory"),
        ("resources.max=1", "max"),
        ("arguments={log-json}", "arguments"),
    ] {
        let Some(output) = helm(&["template", "outrider"], &["--kube-version", "1.36.3", "--set", value])
        else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(named), "{value}: {said}");
    }
}
