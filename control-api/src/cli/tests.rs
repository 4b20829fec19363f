use serde_json::Value;

use super::*;

fn outrider(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = std::iter::once("outrider").chain(arguments.iter().copied()).map(OsString::from);
    let code = run(all, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

const GOOD: &str = "
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
";

const BAD: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: a}]
  rules: [{backendRefs: [{name: gone, port: 80}]}]
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: w, namespace: shop}
spec: {address: 10.0.0.9, adress: x}
---
kind: [
";

/// A directory of this test alone.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("outrider-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn who_is_revoked_of_another_trust_domain_may_be_a_mistake() {
    let revocation = "apiVersion: mesh.outrider.dev/v1alpha1\nkind: Revocation\nmetadata: {name: r}\n\
                      spec: {identities: [\"spiffe://partner.example/vm/7\"]}\n";
    let dir = Dir::new("revocation", &[("a.yaml", revocation)]);
    let folder = dir.0.to_str().unwrap();
    let (code, out, _) = outrider(&["validate", folder]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.starts_with("a.yaml:1: warning: Revocation//r: OtherTrustDomain: spiffe://partner.example/vm/7")
    );
    assert_eq!(outrider(&["validate", "--strict", folder]).0, 1);
    let known = outrider(&["validate", "--strict", "--trust-domain", "partner.example", folder]);
    assert_eq!(known.0, 0, "{}", known.1);
}

#[test]
fn good_objects_pass() {
    let dir = Dir::new("good", &[("a.yaml", GOOD)]);
    let (code, out, err) = outrider(&["validate", dir.0.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "1 object is good in itself; 0 errors, 0 warnings\n");
}

#[test]
fn what_is_wrong_is_said_with_file_line_and_field() {
    let dir = Dir::new("bad", &[("a.yaml", GOOD), ("b c.yaml", BAD)]);
    let (code, out, _) = outrider(&["validate", dir.0.to_str().unwrap()]);
    assert_eq!(code, 1);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "b c.yaml:2: error: HTTPRoute/shop/r: BackendNotFound: there is no Service/shop/gone \
         (for Service/shop/a) [unresolved-reference]"
    );
    assert!(
        lines[1].starts_with("b c.yaml:9: error: document 2: Workload/shop/w: spec.adress: unknown field")
    );
    assert!(lines[1].ends_with("[invalid-object]"), "{}", lines[1]);
    assert!(lines[2].starts_with("b c.yaml:14: error: document 3: not valid YAML"), "{}", lines[2]);
    assert_eq!(lines[3], "2 objects are good in themselves; 3 errors, 0 warnings");
}

#[test]
fn one_file_can_be_looked_at() {
    let dir = Dir::new("file", &[("a.yaml", GOOD), ("b.txt", BAD)]);
    let file = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
    assert_eq!(outrider(&["validate", &file("a.yaml")]).0, 0);
    let (code, out, _) = outrider(&["validate", "-o", "json", &file("b.txt")]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["findings"][0]["file"].as_str()), (1, Some(&*file("b.txt"))));
}

#[test]
fn programs_get_json_and_sarif() {
    let dir = Dir::new("forms", &[("a.yaml", GOOD), ("b c.yaml", BAD)]);
    let path = dir.0.to_str().unwrap();
    let (code, out, _) = outrider(&["validate", path, "--output", "json"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["errors"].as_u64()), (1, Some(3)));
    assert_eq!(json["findings"][1]["field"], "spec.adress");
    let (code, out, _) = outrider(&["validate", path, "--output", "sarif"]);
    let sarif: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, sarif["version"].as_str()), (1, Some("2.1.0")));
    let run = &sarif["runs"][0];
    let result = &run["results"][1];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "b%20c.yaml");
    assert_eq!(place["region"]["startLine"], 9);
    let rule = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], result["ruleId"]);
    assert_eq!(result["level"], "error");
}

#[test]
fn what_cannot_be_done_is_told_apart_from_what_is_wrong() {
    assert_eq!(outrider(&["validate", "/nowhere/at/all"]).0, 2);
    assert_eq!(outrider(&["validate"]).0, 2);
    assert_eq!(outrider(&["unknown"]).0, 2);
    assert_eq!(outrider(&["--help"]).0, 0);
}

#[test]
fn definitions_are_structural() {
    let (code, out, _) = outrider(&["crds"]);
    assert_eq!(code, 0);
    let all: Vec<Value> = out
        .split("---\n")
        .filter(|text| !text.is_empty())
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    assert_eq!(all.len(), 6);
    for definition in &all {
        let version = &definition["spec"]["versions"][0];
        let mut wrong = Vec::new();
        walk(&version["schema"]["openAPIV3Schema"], "", &mut wrong);
        assert!(wrong.is_empty(), "{}: {wrong:#?}", definition["metadata"]["name"]);
        assert!(version["additionalPrinterColumns"].as_array().unwrap().len() >= 3);
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert!(!spec["properties"].as_object().unwrap().is_empty());
    }
}

#[test]
fn definitions_know_words_bounds_and_what_is_needed() {
    let all = crds::all();
    let spec = |index: usize| {
        all[index]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    };
    let (workload, authorization) = (spec(0), spec(2));
    assert_eq!(workload["required"], serde_json::json!(["address"]));
    assert_eq!(workload["properties"]["weight"]["maximum"], 1_000_000);
    let protocol = &workload["properties"]["ports"]["items"]["properties"]["protocol"];
    assert_eq!(
        (&protocol["type"], &protocol["enum"]),
        (&"string".into(), &serde_json::json!(["HTTP", "HTTP2", "GRPC", "TCP"]))
    );
    assert_eq!(authorization["properties"]["mtls"]["enum"], serde_json::json!(["Strict", "Permissive"]));
    let from = &authorization["properties"]["rules"]["items"]["properties"]["from"]["items"];
    assert_eq!(from["properties"]["ipBlocks"]["items"]["type"], "string");
    // The API server itself turns away what would cut nobody off, and only who may write for all namespaces writes it.
    let scopes: Vec<_> = all.iter().map(|one| one["spec"]["scope"].clone()).collect();
    assert_eq!((&scopes[0], &scopes[5]), (&"Namespaced".into(), &"Cluster".into()));
    let identities = &spec(5)["properties"]["identities"];
    assert_eq!(identities["maxItems"], 1000);
    assert_eq!(identities["items"]["pattern"], "^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$");
}

/// What a node may hold in a structural schema.
fn walk(schema: &Value, at: &str, wrong: &mut Vec<String>) {
    const KNOWN: [&str; 18] = [
        "type",
        "description",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "enum",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ];
    let fields = schema.as_object().unwrap_or_else(|| panic!("{at} is no schema"));
    for name in fields.keys() {
        if !KNOWN.contains(&name.as_str()) {
            wrong.push(format!("{at}: {name}"));
        }
    }
    let types = ["object", "array", "string", "integer", "number", "boolean"];
    if !schema["type"].as_str().is_some_and(|name| types.contains(&name)) {
        wrong.push(format!("{at}: type {}", schema["type"]));
    }
    if schema["type"] == "array" && schema["items"].is_null() {
        wrong.push(format!("{at}: an array without items"));
    }
    if fields.contains_key("properties") && fields.contains_key("additionalProperties") {
        wrong.push(format!("{at}: properties and additionalProperties"));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{at}.{name}"), wrong);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get(name) {
            walk(inner, &format!("{at}.{name}"), wrong);
        }
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostPID: true, containers: [{name: a, image: x}]}\n";
const ROOTS: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

#[test]
fn sidecars_come_into_manifests_and_out_again() {
    let dir = Dir::new("inject", &[("pod.yaml", POD), ("ca.pem", ROOTS), ("bad.yaml", "a: [")]);
    let file = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
    let (pod, roots) = (file("pod.yaml"), file("ca.pem"));
    let (code, out, err) =
        outrider(&["inject", "-f", &pod, "--roots", &roots, "--sidecar-image", "example.org/p:1"]);
    assert_eq!((code, err.as_str()), (0, "Pod/a: injected\n"));
    assert!(out.contains("image: \"example.org/p:1\""), "{out}");
    std::fs::write(dir.0.join("injected.yaml"), &out).unwrap();
    let (code, out, err) = outrider(&["uninject", "-f", &file("injected.yaml")]);
    assert_eq!((code, err.as_str()), (0, "Pod/a: sidecar removed\n"));
    let parse = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();
    assert_eq!(parse(&out), parse(POD));

    let (code, out, err) = outrider(&["inject", "-f", &file("bad.yaml"), "--roots", &roots]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("bad.yaml: document 1: not valid YAML: line 1, column "), "{err}");
    let (code, _, err) = outrider(&["inject", "-f", &pod, "--roots", &pod]);
    assert!(code == 2 && err.contains("roots: holds no certificate"), "{err}");
    let (code, _, err) = outrider(&["inject", "-f", &pod, "--roots", &file("gone")]);
    assert!(code == 2 && err.contains("gone: No such file"), "{err}");
}

#[test]
fn an_audit_fails_where_there_are_findings() {
    let dir = Dir::new("audit", &[("pod.yaml", POD), ("none.yaml", GOOD)]);
    let file = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
    let (code, out, _) = outrider(&["audit", "--level", "baseline", &file("pod.yaml")]);
    assert!(code == 1 && out.contains("Pod/default/a: spec.hostPID: must not be true"), "{out}");
    let exempt = ["--exempt", "default/*=host-namespaces"];
    let (code, ..) = outrider(&["audit", "--level", "baseline", exempt[0], exempt[1], &file("pod.yaml")]);
    assert_eq!(code, 0);
    let (code, out, _) = outrider(&["audit", "-o", "json", &file("none.yaml")]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()["audited"].as_u64()), (0, Some(0)));
    assert_eq!(outrider(&["audit", "--exempt", "x=y", &file("pod.yaml")]).0, 2);
}

#[test]
fn an_audit_lets_pass_what_inject_has_written() {
    let pod = POD.replace("hostPID: true, ", "");
    let dir = Dir::new("audit-injected", &[("pod.yaml", &pod), ("ca.pem", ROOTS)]);
    let file = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
    let (_, out, _) = outrider(&["inject", "-f", &file("pod.yaml"), "--roots", &file("ca.pem")]);
    std::fs::write(dir.0.join("injected.yaml"), &out).unwrap();
    let (code, out, _) = outrider(&["audit", "--level", "baseline", &file("injected.yaml")]);
    assert_eq!(code, 0, "{out}");
    let foreign = ["audit", "--level", "baseline", "--sidecar-image", "x:1", &file("injected.yaml")];
    assert_eq!(outrider(&foreign).0, 1);
}
