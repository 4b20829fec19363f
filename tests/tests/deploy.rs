//! The manifests of `deploy/`: what they allow is what is needed, and our own audit passes on them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use outrider_control::audit::{Level, audit_text};
use outrider_control::inject::manifest;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// All objects of the base, with the files that they stand in.
fn base() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(deploy().join("base")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "kustomization.yaml" {
            let text = fs::read_to_string(&path).unwrap();
            let documents = manifest::documents(&text);
            all.extend(documents.iter().map(|one| (name.clone(), manifest::parse(&one.text).unwrap())));
        }
    }
    all
}

fn one(kind: &str, name: &str) -> Value {
    let found = base().into_iter().find(|(_, one)| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("{kind}/{name}")).1
}

#[test]
fn every_file_is_part_of_the_base_and_every_object_in_its_namespace() {
    let kustomization = fs::read_to_string(deploy().join("base/kustomization.yaml")).unwrap();
    let kustomization = manifest::parse(&kustomization).unwrap();
    let listed: BTreeSet<&str> =
        kustomization["resources"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let all = base();
    let there: BTreeSet<&str> = all.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(listed, there);
    let wide = ["Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];
    for (file, object) in &all {
        let kind = object["kind"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str();
        assert_eq!(namespace, (!wide.contains(&kind)).then_some("outrider-system"), "{file}: {kind}");
    }
}

#[test]
fn our_own_audit_passes_at_its_highest_level() {
    let text = fs::read_to_string(deploy().join("base/control.yaml")).unwrap();
    let audited = audit_text("control.yaml", &text, (Level::Restricted, &[], None)).unwrap();
    assert_eq!(audited.len(), 1);
    let findings: Vec<String> = audited[0].findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, Vec::<String>::new());
    let deployment = one("Deployment", "outrider-control");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
}

/// What each right is for. A right that is not here is one too many.
const RIGHTS: &[(&str, &str, &str, &str)] = &[
    ("", "namespaces", "list watch", "labels of namespaces decide on policies"),
    ("", "services", "list watch", "services are what the mesh routes to"),
    ("", "pods", "list watch", "pods are workloads; their identities and ports"),
    ("discovery.k8s.io", "endpointslices", "list watch", "where services are"),
    (
        "gateway.networking.k8s.io",
        "httproutes",
        "get list watch",
        "routes; get, to write a status beside that of others",
    ),
    ("gateway.networking.k8s.io", "grpcroutes", "get list watch", "as httproutes"),
    ("gateway.networking.k8s.io", "tcproutes", "get list watch", "as httproutes"),
    ("gateway.networking.k8s.io", "httproutes/status", "patch", "what has become of them"),
    ("gateway.networking.k8s.io", "grpcroutes/status", "patch", "what has become of them"),
    ("gateway.networking.k8s.io", "tcproutes/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "workloads", "get list watch", "instances outside the cluster"),
    ("mesh.outrider.dev", "trafficpolicies", "get list watch", "our own kinds"),
    ("mesh.outrider.dev", "authorizationpolicies", "get list watch", "our own kinds"),
    ("mesh.outrider.dev", "egresspolicies", "get list watch", "our own kinds"),
    ("mesh.outrider.dev", "faultinjections", "get list watch", "our own kinds"),
    ("mesh.outrider.dev", "workloads/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "trafficpolicies/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "authorizationpolicies/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "egresspolicies/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "faultinjections/status", "patch", "what has become of them"),
    ("authentication.k8s.io", "tokenreviews", "create", "whose token a sidecar shows"),
];

#[test]
fn each_right_is_there_for_a_reason() {
    let mut expected = BTreeSet::new();
    for (group, resource, verbs, _) in RIGHTS {
        expected.extend(verbs.split(' ').map(|verb| format!("{group}/{resource} {verb}")));
    }
    let role = one("ClusterRole", "outrider-control");
    assert_eq!(rights(&role), expected);
    // In its own namespace: which of several replicas writes statuses.
    let own = ["get", "create", "update"].map(|verb| format!("coordination.k8s.io/leases {verb}"));
    assert_eq!(rights(&one("Role", "outrider-control")), BTreeSet::from(own));
    for (_, object) in base() {
        assert!(!object.to_string().contains("secrets\""), "no right to read secrets");
    }
}

fn rights(role: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let list = |name: &str| -> Vec<String> {
            rule[name].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
        };
        for group in list("apiGroups") {
            for resource in list("resources") {
                found.extend(list("verbs").iter().map(|verb| format!("{group}/{resource} {verb}")));
            }
        }
    }
    assert!(!found.iter().any(|right| right.contains('*')), "{found:?}");
    found
}

#[test]
fn our_own_kinds_are_those_of_the_control_server() {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = ["outrider", "crds"].map(Into::into);
    assert_eq!(outrider_control::cli::run(arguments, &mut out, &mut err), 0);
    let written = fs::read_to_string(deploy().join("base/crds.yaml")).unwrap();
    assert!(written.as_bytes() == out, "write deploy/base/crds.yaml anew with `outrider crds`");
}

#[test]
fn the_control_servers_ports_are_let_in_and_nothing_else() {
    let policy = one("NetworkPolicy", "outrider-control");
    let ports: BTreeSet<String> = policy["spec"]["ingress"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["ports"].as_array().unwrap())
        .map(|port| port["port"].as_str().unwrap().to_owned())
        .collect();
    let deployment = one("Deployment", "outrider-control");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let served: BTreeSet<String> = container["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ports, served);
    let denied = one("NetworkPolicy", "default-deny");
    assert_eq!(denied["spec"]["podSelector"], serde_json::json!({}));
    assert!(denied["spec"].get("ingress").is_none() && denied["spec"].get("egress").is_none());
}

#[test]
fn overlays_build_and_pass_the_audit() {
    let Ok(version) = Command::new("kubectl").args(["version", "--client"]).output() else {
        assert!(std::env::var_os("CI").is_none(), "kubectl is missing and CI must have it");
        eprintln!("not tested: kubectl is missing");
        return;
    };
    assert!(version.status.success());
    for (overlay, replicas) in [("dev", 1), ("ha", 3)] {
        let built =
            Command::new("kubectl").arg("kustomize").arg(deploy().join("overlays").join(overlay)).output();
        let built = built.unwrap();
        let text = String::from_utf8_lossy(&built.stdout);
        assert!(built.status.success(), "{overlay}: {}", String::from_utf8_lossy(&built.stderr));
        let audited = audit_text(overlay, &text, (Level::Restricted, &[], None)).unwrap();
        assert!(audited.len() == 1 && audited[0].findings.is_empty(), "{audited:?}");
        let deployment = manifest::documents(&text)
            .iter()
            .map(|one| manifest::parse(&one.text).unwrap())
            .find(|one| one["kind"] == "Deployment")
            .unwrap();
        assert_eq!(deployment["spec"]["replicas"], replicas, "{overlay}");
    }
}
