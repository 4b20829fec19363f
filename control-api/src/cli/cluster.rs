//! The pods of a cluster, for `outrider audit --kube`.

use std::path::Path;

use http::Request;
use kube::Client;
use serde_json::Value;

use crate::kubernetes::{KubeError, call, connect};

/// Objects of one answer.
const PAGE: usize = 500;
/// Answers of one kind: a cluster is not larger.
const MAX_PAGES: usize = 2000;
/// What is read. Pods are what runs; the others say where to change it, and what is scaled to nothing for now.
const KINDS: [(&str, &str, &str); 6] = [
    ("/api/v1", "pods", "Pod"),
    ("/apis/apps/v1", "deployments", "Deployment"),
    ("/apis/apps/v1", "statefulsets", "StatefulSet"),
    ("/apis/apps/v1", "daemonsets", "DaemonSet"),
    ("/apis/batch/v1", "cronjobs", "CronJob"),
    ("/api/v1", "replicationcontrollers", "ReplicationController"),
];

/// The pods of a namespace, or of all, and what makes pods; whole, or not at all.
///
/// # Errors
/// When the cluster does not tell.
pub(super) fn pods(kubeconfig: Option<&Path>, namespace: Option<&str>) -> Result<Vec<Value>, KubeError> {
    if let Some(name) = namespace.filter(|name| !crate::auth::check_segment(name)) {
        return Err(KubeError::Config(format!("--namespace: \"{name}\" is not a name")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| KubeError::Config(error.to_string()))?;
    runtime.block_on(async {
        let client = connect(kubeconfig).await?;
        let mut all = Vec::new();
        for (group, plural, kind) in KINDS {
            let collection = match namespace {
                Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}"),
                None => format!("{group}/{plural}"),
            };
            list(&client, &collection, (group, kind), &mut all).await?;
        }
        Ok(all)
    })
}

async fn list(
    client: &Client,
    collection: &str,
    (version, kind): (&str, &str),
    all: &mut Vec<Value>,
) -> Result<(), KubeError> {
    // `/api/v1/...` is `v1`, `/apis/apps/v1/...` is `apps/v1`.
    let version = version.trim_start_matches("/apis/").trim_start_matches("/api/");
    let mut next = String::new();
    for _ in 0..MAX_PAGES {
        let token = escaped(&next);
        let asked = Request::get(format!("{collection}?limit={PAGE}&continue={token}")).body(Vec::new());
        let asked = asked.map_err(|error| KubeError::Config(error.to_string()))?;
        let mut answer = call(client.request::<Value>(asked)).await?;
        let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) else {
            return Err(KubeError::Broken(format!("{collection}: not a list")));
        };
        for mut item in items {
            // In a list of one kind the items do not say which.
            if let Some(fields) = item.as_object_mut() {
                fields.insert("kind".to_owned(), kind.into());
                fields.insert("apiVersion".to_owned(), version.into());
            }
            all.push(item);
        }
        let token = answer.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default();
        if token.is_empty() {
            return Ok(());
        }
        token.clone_into(&mut next);
    }
    Err(KubeError::Broken(format!("{collection}: more than {} objects", PAGE * MAX_PAGES)))
}

/// A token of the API server in a query: it is base64, whose signs mean something else there.
fn escaped(token: &str) -> String {
    token.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace('&', "%26")
}
