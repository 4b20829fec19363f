use serde_json::{Value, json};

use super::report::{Form, write};
use super::*;

/// A pod that is let pass at the highest level.
fn good() -> Value {
    json!({"metadata": {"name": "good"}, "spec": {
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": "x", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        "initContainers": [{"name": "first", "image": "x", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    }})
}

/// The good pod with one thing set.
fn with(pointer: &str, value: Value) -> Value {
    let mut pod = good();
    let mut at = &mut pod;
    for part in pointer.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => {
                if !at.is_array() {
                    *at = json!([{}]);
                }
                &mut at[index]
            }
            Err(_) => &mut at[part.replace("~1", "/")],
        };
    }
    *at = value;
    pod
}

fn names(pod: &Value, level: Level) -> Vec<&'static str> {
    audit(pod, level, None).iter().map(|finding| finding.rule.name).collect()
}

#[test]
fn a_good_pod_has_no_findings_and_an_empty_one_has_those_of_restricted() {
    assert_eq!(names(&good(), Level::Restricted), Vec::<&str>::new());
    let usual = json!({"spec": {"containers": [{"name": "main"}]}});
    assert_eq!(names(&usual, Level::Baseline), Vec::<&str>::new());
    let expected =
        ["token-automount", "run-as-non-root", "privilege-escalation", "seccomp", "capabilities-drop"];
    assert_eq!(names(&usual, Level::Restricted), expected);
}

#[test]
fn each_rule_of_baseline_finds_what_it_is_for_and_nothing_else() {
    let table: Vec<(&str, Value, &[&str])> = vec![
        ("/spec/hostNetwork", json!(true), &["host-namespaces"]),
        ("/spec/hostPID", json!(true), &["host-namespaces"]),
        ("/spec/hostIPC", json!(true), &["host-namespaces"]),
        ("/spec/hostIPC", json!(false), &[]),
        ("/spec/securityContext/windowsOptions/hostProcess", json!(true), &["host-process"]),
        ("/spec/initContainers/0/securityContext/windowsOptions/hostProcess", json!(true), &["host-process"]),
        ("/spec/initContainers/0/securityContext/privileged", json!(true), &["privileged"]),
        ("/spec/ephemeralContainers", json!([{"securityContext": {"privileged": true}}]), &["privileged"]),
        ("/spec/containers/0/securityContext/capabilities/add", json!(["CHOWN"]), &[]),
        ("/spec/containers/0/securityContext/capabilities/add", json!(["LEASE"]), &["capabilities"]),
        (
            "/spec/containers/0/securityContext/capabilities/add",
            json!(["SYS_ADMIN"]),
            &["capabilities", "dangerous-capability"],
        ),
        ("/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/srv"}}]), &["host-path"]),
        ("/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/run/x.sock"}}]), &["host-path"]),
        (
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "/var/run//docker.sock/"}}]),
            &["host-path", "runtime-socket"],
        ),
        ("/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/"}}]), &["host-path", "node-files"]),
        (
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "/srv/../etc"}}]),
            &["host-path", "node-files"],
        ),
        ("/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/etcetera"}}]), &["host-path"]),
        ("/spec/containers/0/ports", json!([{"containerPort": 80, "hostPort": 80}]), &["host-ports"]),
        ("/spec/containers/0/ports", json!([{"containerPort": 80, "hostPort": 0}]), &[]),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"host": "10.0.0.1", "port": 1}}),
            &["host-probes"],
        ),
        ("/spec/containers/0/lifecycle", json!({"preStop": {"tcpSocket": {"host": "a"}}}), &["host-probes"]),
        ("/spec/containers/0/livenessProbe", json!({"httpGet": {"host": "", "port": 1}}), &[]),
        ("/spec/securityContext/appArmorProfile", json!({"type": "Unconfined"}), &["apparmor"]),
        (
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}),
            &["apparmor"],
        ),
        (
            "/metadata/annotations",
            json!({"container.apparmor.security.beta.kubernetes.io/main": "localhost/x"}),
            &[],
        ),
        ("/spec/securityContext/seLinuxOptions", json!({"type": "spc_t"}), &["selinux"]),
        ("/spec/securityContext/seLinuxOptions", json!({"type": "container_t", "level": "s0"}), &[]),
        ("/spec/securityContext/seLinuxOptions", json!({"user": "root"}), &["selinux"]),
        ("/spec/containers/0/securityContext/procMount", json!("Unmasked"), &["proc-mount"]),
        ("/spec/containers/0/securityContext/procMount", json!("Default"), &[]),
        ("/spec/securityContext/seccompProfile/type", json!("Unconfined"), &["seccomp-unconfined"]),
        ("/spec/securityContext/sysctls", json!([{"name": "kernel.msgmax"}]), &["sysctls"]),
        ("/spec/securityContext/sysctls", json!([{"name": "net.ipv4.tcp_syncookies"}]), &[]),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "v", "mountPropagation": "Bidirectional"}]),
            &["mount-propagation"],
        ),
    ];
    for (pointer, value, expected) in table {
        assert_eq!(names(&with(pointer, value.clone()), Level::Baseline), expected, "{pointer} {value}");
    }
}

#[test]
fn only_user_and_group_together_are_the_proxys() {
    let mut proxy = with("/spec/containers/0/securityContext/runAsUser", json!(1502));
    assert_eq!(names(&proxy, Level::Baseline), Vec::<&str>::new());
    proxy["spec"]["securityContext"]["runAsGroup"] = json!(1502);
    assert_eq!(names(&proxy, Level::Baseline), ["proxy-identity"]);
}

#[test]
fn each_rule_of_restricted_finds_what_it_is_for() {
    let table: Vec<(&str, Value, &[&str])> = vec![
        ("/spec/volumes", json!([{"name": "v", "nfs": {"path": "/"}}]), &["volume-types"]),
        ("/spec/volumes", json!([{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {}}]), &[]),
        (
            "/spec/containers/0/securityContext/allowPrivilegeEscalation",
            json!(null),
            &["privilege-escalation"],
        ),
        ("/spec/securityContext/runAsNonRoot", json!(null), &["run-as-non-root", "run-as-non-root"]),
        ("/spec/containers/0/securityContext/runAsNonRoot", json!(false), &["run-as-non-root"]),
        ("/spec/securityContext/runAsUser", json!(0), &["run-as-user"]),
        ("/spec/containers/0/securityContext/runAsUser", json!(0), &["run-as-user"]),
        ("/spec/containers/0/securityContext/seccompProfile", json!({"type": "Localhost"}), &[]),
        ("/spec/securityContext/seccompProfile", json!(null), &["seccomp", "seccomp"]),
        ("/spec/containers/0/securityContext/capabilities/drop", json!(["NET_RAW"]), &["capabilities-drop"]),
        ("/spec/containers/0/securityContext/capabilities/add", json!(["NET_BIND_SERVICE"]), &[]),
        ("/spec/containers/0/securityContext/capabilities/add", json!(["CHOWN"]), &["capabilities-drop"]),
        ("/spec/automountServiceAccountToken", json!(true), &["token-automount"]),
        ("/spec/shareProcessNamespace", json!(true), &["shared-processes"]),
    ];
    for (pointer, value, expected) in table {
        assert_eq!(names(&with(pointer, value.clone()), Level::Restricted), expected, "{pointer} {value}");
    }
}

#[test]
fn the_meshs_own_init_container_is_let_pass_and_one_that_pretends_to_be_it_is_not() {
    let image = "example.org/outrider:1";
    let settings = crate::inject::Settings::new(image, ("c", 1), "-----BEGIN CERTIFICATE-----");
    let around = crate::inject::Surroundings { unless_said: true, ..Default::default() };
    let Ok(crate::inject::Outcome::Injected(injected)) = crate::inject::inject(&good(), &around, &settings)
    else {
        panic!()
    };
    let found = |pod: &Value, image: Option<&str>| {
        audit(pod, Level::Restricted, image).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found(&injected.pod, Some(image)), Vec::<String>::new());
    assert!(!found(&injected.pod, None).is_empty());
    assert!(!found(&injected.pod, Some("example.org/other")).is_empty());
    let changes = [
        ("command", json!(["/bin/sh"])),
        ("args", json!(["fetch-svid"])),
        ("env", json!([{"name": "LD_PRELOAD", "value": "/x"}])),
        ("volumeMounts", json!([{"name": "x", "mountPath": "/usr/sbin"}])),
        ("volumeDevices", json!([{"name": "x", "devicePath": "/dev/x"}])),
    ];
    for (field, value) in changes {
        let mut pod = injected.pod.clone();
        pod["spec"]["initContainers"][0][field] = value;
        assert!(!found(&pod, Some(image)).is_empty(), "{field}");
    }
    let mut pod = injected.pod.clone();
    pod["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"] =
        json!(["NET_ADMIN", "SYS_ADMIN"]);
    assert!(found(&pod, Some(image)).iter().any(|finding| finding.contains("SYS_ADMIN")));
}

#[test]
fn exemptions_are_for_some_and_for_named_rules() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: NS}\nspec: {serviceAccountName: node, hostPID: true, hostNetwork: true, volumes: [{hostPath: {path: /srv}}]}\n";
    let exempt: Exemption = "infra/node=host-path, host-namespaces".parse().unwrap();
    let count = |namespace: &str, exempt: &Exemption| {
        let text = text.replace("NS", namespace);
        let audited = audit_text("a.yaml", &text, (Level::Baseline, std::slice::from_ref(exempt), None));
        audited.unwrap()[0].findings.len()
    };
    assert_eq!((count("infra", &exempt), count("shop", &exempt)), (0, 3));
    assert_eq!(count("infra", &"infra/*=host-path".parse().unwrap()), 2);
    assert_eq!(count("infra", &"infra/other=host-path".parse().unwrap()), 3);
    for wrong in
        ["infra=host-path", "*/node=host-path", "infra/node=*", "infra/node=no-such-rule", "infra/=x"]
    {
        assert!(wrong.parse::<Exemption>().is_err(), "{wrong}");
    }
}

#[test]
fn reports_have_the_forms_that_their_readers_want() {
    let text = "# one\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: \"a<b>\"}\nspec: {template: {spec: {hostPID: true}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: ok}\nspec: {}\n";
    let audited = audit_text("x y.yaml", text, (Level::Baseline, &[], None)).unwrap();
    let shown = |form: Form| {
        let mut out = Vec::new();
        write(&audited, form, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        shown(Form::Text),
        "x y.yaml:3: Deployment/default/a<b>: spec.template.spec.hostPID: must not be true; remove it \
         [host-namespaces]\n2 pods and templates, 1 of them with 1 findings\n"
    );
    let json: Value = serde_json::from_str(&shown(Form::Json)).unwrap();
    assert_eq!(json["findings"][0]["rule"], "host-namespaces");
    let sarif: Value = serde_json::from_str(&shown(Form::Sarif)).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "x%20y.yaml");
    let rule = &sarif["runs"][0]["tool"]["driver"]["rules"]
        [usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
    assert_eq!(rule["id"], "host-namespaces");
    let junit = shown(Form::Junit);
    assert!(junit.contains("tests=\"2\" failures=\"1\""), "{junit}");
    assert!(junit.contains("name=\"Deployment/default/a&lt;b&gt;\">\n<failure"), "{junit}");
}

#[test]
fn rules_have_names_of_their_own() {
    let mut names: Vec<&str> = rules().iter().map(|rule| rule.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
