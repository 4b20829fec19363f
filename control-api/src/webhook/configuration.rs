//! What the API server is told of the webhooks: who is asked about what, and what happens when nobody answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::audit::Level;
use crate::inject::names::SWITCH;

/// The label of namespaces that says what comes of a finding: `enforce`, `warn` or `audit`.
pub const MODE_LABEL: &str = "audit.outrider.dev/mode";
/// The label of namespaces that says how much is asked; `baseline` when it is not there.
pub const LEVEL_LABEL: &str = "audit.outrider.dev/level";
/// The object that registers the webhooks for sidecars.
pub const INJECT: &str = "outrider-inject";
/// The object that registers those of the audit.
pub const AUDIT: &str = "outrider-audit";
/// How long the API server waits for an answer.
const TIMEOUT_S: u32 = 10;

/// What the configurations say.
#[derive(Clone, Copy, Debug)]
pub struct Registered<'a> {
    /// The namespace of the control server.
    pub root_namespace: &'a str,
    /// The roots that the webhook is verified with (PEM); none when they are put there later.
    pub roots: Option<&'a str>,
    /// Whether pods are refused while the webhook does not answer.
    pub fail_closed: bool,
}

impl Registered<'_> {
    /// The objects: one for sidecars, one for the audit.
    #[must_use]
    pub fn objects(&self) -> [Value; 2] {
        let kind = |kind: &str, name: &str, webhooks: Vec<Value>| {
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": kind,
                "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "outrider"}},
                "webhooks": webhooks,
            })
        };
        [
            kind("MutatingWebhookConfiguration", INJECT, self.inject()),
            kind("ValidatingWebhookConfiguration", AUDIT, self.audit()),
        ]
    }

    fn inject(&self) -> Vec<Value> {
        let pods = json!([{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
            "scope": "Namespaced",
        }]);
        let one = |name: &str, path: &str, (namespaces, objects): (Vec<Value>, Vec<Value>)| {
            let mut webhook = self.webhook(name, path, (&pods, &namespaces));
            webhook["reinvocationPolicy"] = "IfNeeded".into();
            webhook["objectSelector"] = json!({"matchExpressions": objects});
            webhook
        };
        let on = || is(SWITCH, "In", &["enabled", "true"]);
        let off = || is(SWITCH, "NotIn", &["disabled", "false"]);
        vec![
            one("namespace.inject.outrider.dev", "/inject/enabled", (vec![on()], vec![off()])),
            // A pod may ask for itself, unless it stands where the other one is asked already.
            one(
                "pod.inject.outrider.dev",
                "/inject",
                (vec![is(SWITCH, "NotIn", &["enabled", "true"])], vec![on()]),
            ),
        ]
    }

    fn audit(&self) -> Vec<Value> {
        let rule = |group: &str, version: &str, resources: &[&str]| {
            json!({
                "apiGroups": [group], "apiVersions": [version], "operations": ["CREATE", "UPDATE"],
                "resources": resources, "scope": "Namespaced",
            })
        };
        let rules = json!([
            rule("", "v1", &["pods", "pods/ephemeralcontainers", "replicationcontrollers", "podtemplates"]),
            rule("apps", "v1", &["deployments", "replicasets", "statefulsets", "daemonsets"]),
            rule("batch", "v1", &["jobs", "cronjobs"]),
        ]);
        let mut all = Vec::new();
        for mode in ["enforce", "warn", "audit"] {
            for level in [Level::Baseline, Level::Restricted] {
                let level_is = match level {
                    Level::Baseline => is(LEVEL_LABEL, "NotIn", &["restricted"]),
                    Level::Restricted => is(LEVEL_LABEL, "In", &["restricted"]),
                };
                let namespaces = [is(MODE_LABEL, "In", &[mode]), level_is];
                let name = format!("{}.{mode}.audit.outrider.dev", level.name());
                let path = format!("/audit/{mode}/{}", level.name());
                let mut webhook = self.webhook(&name, &path, (&rules, &namespaces));
                // What only warns must not be in the way.
                if mode != "enforce" {
                    webhook["failurePolicy"] = "Ignore".into();
                }
                all.push(webhook);
            }
        }
        all
    }

    fn webhook(&self, name: &str, path: &str, (rules, namespaces): (&Value, &[Value])) -> Value {
        let mut expressions = namespaces.to_vec();
        // Neither must wait for the other: the control server's pods, and what the cluster itself needs to come up.
        let never = ["kube-system", "kube-public", "kube-node-lease", self.root_namespace];
        expressions.push(is("kubernetes.io/metadata.name", "NotIn", &never));
        let mut client = json!({"service": {
            "name": "outrider-control",
            "namespace": self.root_namespace,
            "port": 15_017,
            "path": path,
        }});
        if let Some(roots) = self.roots {
            client["caBundle"] = STANDARD.encode(roots).into();
        }
        json!({
            "name": name,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_S,
            "failurePolicy": if self.fail_closed { "Fail" } else { "Ignore" },
            "matchPolicy": "Equivalent",
            "clientConfig": client,
            "rules": rules,
            "namespaceSelector": {"matchExpressions": expressions},
        })
    }
}

fn is(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}
