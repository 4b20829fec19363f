//! The manifests of `deploy/`: what they allow is what is needed, and our own audit passes on them.

mod chart;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{core::v1 as core, rbac::v1 as rbac};
use outrider_control::audit::{Level, audit_text};
use outrider_control::inject::manifest;
use serde::Serialize;
use serde::de::DeserializeOwned;
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
    let wide = [
        "Namespace",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ];
    for (file, object) in &all {
        let kind = object["kind"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str();
        assert_eq!(namespace, (!wide.contains(&kind)).then_some("outrider-system"), "{file}: {kind}");
    }
}

/// Reads an object as one of its kind and writes it again: a field that is not known, a value of another type and a field
/// that must be there and is not make a difference. `make test-kube` has a real API server look as well.
fn read_as<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    let read: T = match serde_json::from_value(object.clone()) {
        Ok(read) => read,
        Err(error) => return vec![error.to_string()],
    };
    let mut wrong = Vec::new();
    differences(object, &serde_json::to_value(read).unwrap(), "", &mut wrong);
    wrong
}

fn differences(written: &Value, read: &Value, path: &str, wrong: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(one), Value::Object(other)) => {
            for name in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
                let of =
                    |fields: &serde_json::Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                differences(&of(one), &of(other), &format!("{path}.{name}"), wrong);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differences(one, other, &format!("{path}[{index}]"), wrong);
            }
        }
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => {}
        (one, other) if one == other => {}
        (one, other) => wrong.push(format!("{path}: {one} is read as {other}")),
    }
}

fn schema(object: &Value) -> Vec<String> {
    match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
        ("v1", "Namespace") => read_as::<core::Namespace>(object),
        ("v1", "Service") => read_as::<core::Service>(object),
        ("v1", "ServiceAccount") => read_as::<core::ServiceAccount>(object),
        ("apps/v1", "Deployment") => read_as::<k8s_openapi::api::apps::v1::Deployment>(object),
        ("policy/v1", "PodDisruptionBudget") => {
            read_as::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(object)
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            read_as::<k8s_openapi::api::networking::v1::NetworkPolicy>(object)
        }
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => read_as::<rbac::ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => read_as::<rbac::ClusterRoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => read_as::<rbac::Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => read_as::<rbac::RoleBinding>(object),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => read_as::<
            k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >(object),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => {
            read_as::<admission::MutatingWebhookConfiguration>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration") => {
            read_as::<admission::ValidatingWebhookConfiguration>(object)
        }
        (version, kind) => vec![format!("{version} {kind}: not known here")],
    }
}

#[test]
fn every_manifest_is_what_kubernetes_knows() {
    let all = base();
    assert!(all.len() >= 18, "{}", all.len());
    for (file, object) in &all {
        assert_eq!(schema(object), Vec::<String>::new(), "{file}: {}", object["kind"]);
    }
    // That it would be seen: a field misspelt, one of another type, one too few.
    let found = |change: &dyn Fn(&mut Value)| {
        let mut deployment = one("Deployment", "outrider-control");
        change(&mut deployment["spec"]);
        schema(&deployment).join("; ")
    };
    let misspelt =
        found(&|spec| spec["template"]["spec"]["containers"][0]["readinesProbe"] = serde_json::json!({}));
    assert!(misspelt.starts_with(".spec.template.spec.containers[0].readinesProbe: "), "{misspelt}");
    assert!(found(&|spec| spec["replicas"] = "1".into()).contains("invalid type"));
    let missing = found(&|spec| drop(spec.as_object_mut().unwrap().remove("selector")));
    assert!(missing.contains(".spec.selector"), "{missing}");
}

#[test]
fn both_images_are_of_this_version() {
    let kustomization = fs::read_to_string(deploy().join("base/kustomization.yaml")).unwrap();
    let kustomization = manifest::parse(&kustomization).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let deployment = one("Deployment", "outrider-control");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let image = &kustomization["images"][0];
    assert_eq!((&image["name"], &image["newTag"]), (&container["image"], &version.into()));
    let sidecar = format!("--sidecar-image=outrider-proxy:{version}");
    assert!(container["args"].as_array().unwrap().contains(&sidecar.into()));
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
    // The root of a volume is open to others, which the control server does not take for its state.
    let argument = |one: &Value| one.as_str().unwrap().strip_prefix("--state-dir=").map(ToOwned::to_owned);
    let state = container["args"].as_array().unwrap().iter().find_map(argument).unwrap();
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "state").unwrap()["mountPath"].as_str().unwrap();
    assert!(state.strip_prefix(mount).is_some_and(|below| below.len() > 1), "{state} in {mount}");
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
    ("mesh.outrider.dev", "revocations", "get list watch", "who is cut off"),
    ("mesh.outrider.dev", "workloads/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "trafficpolicies/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "authorizationpolicies/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "egresspolicies/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "faultinjections/status", "patch", "what has become of them"),
    ("mesh.outrider.dev", "revocations/status", "patch", "what has become of them"),
    ("authentication.k8s.io", "tokenreviews", "create", "whose token a sidecar shows"),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "get patch",
        "its roots in caBundle of the webhooks for sidecars, and in no other's",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        "get patch",
        "the same for those of the audit",
    ),
];

#[test]
fn each_right_is_there_for_a_reason() {
    let mut expected = BTreeSet::new();
    for (group, resource, verbs, _) in RIGHTS {
        expected.extend(verbs.split(' ').map(|verb| format!("{group}/{resource} {verb}")));
    }
    let role = one("ClusterRole", "outrider-control");
    assert_eq!(rights(&role), expected);
    // Whoever may write any webhook of a cluster may become anybody in it.
    for rule in role["rules"].as_array().unwrap() {
        let webhooks = rule["apiGroups"][0] == "admissionregistration.k8s.io";
        assert_eq!(rule["resourceNames"].as_array().map_or(0, Vec::len), usize::from(webhooks), "{rule}");
    }
    // In its own namespace: which of several replicas writes statuses, and what all of them remember.
    let verbs = ["get", "create", "update"];
    let own = ["coordination.k8s.io/leases", "/configmaps"].into_iter();
    let own =
        own.flat_map(|of| verbs.map(|verb| format!("{of} {verb}"))).chain(["/configmaps patch".to_owned()]);
    let role = one("Role", "outrider-control");
    assert_eq!(rights(&role), own.collect());
    // Nothing can be made by name only; all else it may do with its own object alone.
    let maps = role["rules"].as_array().unwrap().iter().filter(|rule| rule["resources"][0] == "configmaps");
    for rule in maps {
        let makes = rule["verbs"] == serde_json::json!(["create"]);
        assert_eq!(rule["resourceNames"].as_array().map_or(0, Vec::len), usize::from(!makes), "{rule}");
    }
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
fn what_is_made_by_a_command_is_as_it_makes_it() {
    for (command, file) in [("crds", "crds.yaml"), ("webhooks", "webhooks.yaml")] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = ["outrider", command].map(Into::into);
        assert_eq!(outrider_control::cli::run(arguments, &mut out, &mut err), 0);
        let path = deploy().join("base").join(file);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &out).unwrap();
        }
        let written = fs::read(path).unwrap_or_default();
        assert!(written == out, "UPDATE_DOCS=1 writes deploy/base/{file} as `outrider {command}` does");
    }
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
fn network_policies_that_are_printed_are_what_kubernetes_knows() {
    let mesh = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-api/src/segment/golden/mesh");
    let print = |more: &[&str]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = ["outrider", "policy", "network", mesh.to_str().unwrap()];
        let arguments = arguments.iter().chain(more).map(Into::into);
        assert_eq!(outrider_control::cli::run(arguments, &mut out, &mut err), 0);
        let text = String::from_utf8(out).unwrap();
        let all = manifest::documents(&text);
        all.iter().map(|one| manifest::parse(&one.text).unwrap()).collect::<Vec<Value>>()
    };
    let all = print(&[]);
    assert!(all.len() >= 10, "{}", all.len());
    let names: BTreeSet<String> = all
        .iter()
        .map(|one| format!("{}{}", one["metadata"]["namespace"], one["metadata"]["name"]))
        .collect();
    assert_eq!(names.len(), all.len(), "none stands in another's place");
    for policy in &all {
        assert_eq!(schema(policy), Vec::<String>::new(), "{policy}");
    }
    let of_edge = print(&["--namespace", "edge"]);
    assert!(!of_edge.is_empty() && of_edge.len() < all.len());
    assert!(of_edge.iter().all(|one| one["metadata"]["namespace"] == "edge"));
}

/// `kubectl kustomize`, or `kustomize build` where there is no `kubectl`, of a folder; in CI one of them must be there.
fn kustomize(folder: &str) -> Option<Output> {
    let own = deploy().join("../.venv/bin/kustomize");
    let built =
        [("kubectl".into(), "kustomize"), (own, "build")].into_iter().find_map(|(program, command)| {
            Command::new(program).arg(command).arg(deploy().join(folder)).output().ok()
        });
    assert!(built.is_some() || std::env::var_os("CI").is_none(), "kubectl is missing and CI must have it");
    if built.is_none() {
        eprintln!("not tested: there is neither kubectl nor kustomize");
    }
    built
}

#[test]
fn overlays_build_and_pass_the_audit() {
    for (overlay, replicas) in [("dev", 1), ("ha", 3)] {
        let Some(built) = kustomize(&format!("overlays/{overlay}")) else { return };
        let text = String::from_utf8_lossy(&built.stdout);
        assert!(built.status.success(), "{overlay}: {}", String::from_utf8_lossy(&built.stderr));
        let audited = audit_text(overlay, &text, (Level::Restricted, &[], None)).unwrap();
        assert!(audited.len() == 1 && audited[0].findings.is_empty(), "{audited:?}");
        let all = manifest::documents(&text);
        let all: Vec<Value> = all.iter().map(|one| manifest::parse(&one.text).unwrap()).collect();
        for object in &all {
            assert_eq!(schema(object), Vec::<String>::new(), "{overlay}: {}", object["kind"]);
        }
        let deployment = all.iter().find(|one| one["kind"] == "Deployment").unwrap();
        assert_eq!(deployment["spec"]["replicas"], replicas, "{overlay}");
    }
}

#[test]
fn the_list_of_parts_names_all_that_is_linked_and_nothing_else() {
    let root = deploy().join("..");
    let manifest = root.join("Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata = command.args(["--locked", "--offline", "--manifest-path"]).arg(manifest).output().unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let file = outrider_tests::process::scratch("sbom").join("metadata.json");
    fs::write(&file, metadata.stdout).unwrap();
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    for (name, there, not_there) in [
        ("outrider-proxy", ["rustls", "h2", "landlock"], ["kube", "proptest", "outrider-control"]),
        (
            "outrider-control",
            ["rustls", "kube", "outrider-proto"],
            ["landlock", "proptest", "outrider-proxy"],
        ),
    ] {
        let jq = Command::new("jq")
            .args(["--arg", "root", name, "-f"])
            .arg(deploy().join("sbom.jq"))
            .arg(&file)
            .output();
        let Ok(made) = jq else {
            assert!(std::env::var_os("CI").is_none(), "jq is missing and CI must have it");
            eprintln!("not tested: jq is missing");
            return;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let parts: Value = serde_json::from_slice(&made.stdout).unwrap();
        assert_eq!((&parts["bomFormat"], &parts["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        assert_eq!(parts["metadata"]["component"]["name"], name);
        let components = parts["components"].as_array().unwrap();
        for part in components {
            let (name, version) = (part["name"].as_str().unwrap(), part["version"].as_str().unwrap());
            assert!(
                lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")),
                "{name} {version}"
            );
            assert!(part["licenses"][0]["expression"].is_string(), "{name}: no licence");
        }
        let has = |name: &str| components.iter().any(|part| part["name"] == name);
        assert!(there.iter().all(|name| has(name)), "{name}: {there:?}");
        assert!(!not_there.iter().any(|name| has(name)), "{name}: {not_there:?}");
        // One entry for each part, and for the whole.
        assert_eq!(parts["dependencies"].as_array().unwrap().len(), components.len() + 1);
    }
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}
