//! The roots in the webhooks' configurations: in a cluster the control server puts them there itself, and again when they
//! change or somebody has taken them out. An authority of ours has its next root in the bundle long before it signs, so
//! at no time is there a certificate that the API server cannot verify.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::configuration::{AUDIT, INJECT};
use crate::ca::Authority;
use crate::kubernetes::{KubeError, call};

/// How often it is looked whether they are there still: the configurations may come after the control server.
const LOOK: Duration = Duration::from_secs(5);
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
/// What is looked after.
const OBJECTS: [(&str, &str); 2] =
    [("mutatingwebhookconfigurations", INJECT), ("validatingwebhookconfigurations", AUDIT)];

/// Keeps the roots of an authority in the configurations that there are, until `ending` is set.
pub async fn run(client: Client, authority: Arc<Authority>, mut ending: watch::Receiver<bool>) {
    let mut changes = authority.changes();
    let mut failing = [false; OBJECTS.len()];
    loop {
        let roots = STANDARD.encode(authority.roots_pem());
        for ((plural, name), failing) in OBJECTS.into_iter().zip(&mut failing) {
            match set(&client, (plural, name), &roots).await {
                Ok(done) => {
                    if done {
                        tracing::info!(name, "the webhooks' roots are in caBundle");
                    }
                    *failing = false;
                }
                Err(error) => {
                    metrics::counter!("outrider_control_webhook_bundle_failures_total").increment(1);
                    if !*failing {
                        tracing::warn!(name, %error, "the webhooks' roots cannot be put into caBundle");
                    }
                    *failing = true;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = changes.changed() => {}
            _ = ending.wait_for(|ending| *ending) => return,
        }
    }
}

/// Whether something had to be done; what is not registered is left alone.
async fn set(client: &Client, (plural, name): (&str, &str), roots: &str) -> Result<bool, KubeError> {
    let path = format!("{GROUP}/{plural}/{name}");
    let request = |builder: http::request::Builder, body: Vec<u8>| {
        builder.body(body).map_err(|error| KubeError::Config(error.to_string()))
    };
    let asked = request(Request::get(&path), Vec::new())?;
    let object = match call(client.request::<Value>(asked)).await {
        Err(error) if error.code() == Some(404) => return Ok(false),
        answer => answer?,
    };
    let operations = patch(&object, roots);
    if operations.is_empty() {
        return Ok(false);
    }
    let builder = Request::patch(&path).header("Content-Type", "application/json-patch+json");
    let asked = request(builder, Value::from(operations).to_string().into_bytes())?;
    match call(client.request::<Value>(asked)).await {
        Ok(_) => Ok(true),
        // Somebody was faster, another replica perhaps: the next look will tell.
        Err(error) if matches!(error.code(), Some(409 | 422)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What brings the roots (base64) into each webhook of a configuration (RFC 6902), if it is still the one that was read.
fn patch(object: &Value, roots: &str) -> Vec<Value> {
    let webhooks = object["webhooks"].as_array().into_iter().flatten().enumerate();
    let mut operations: Vec<Value> = webhooks
        .filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != roots)
        .map(|(index, _)| {
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            json!({"op": "add", "path": path, "value": roots})
        })
        .collect();
    if !operations.is_empty() {
        let version = &object["metadata"]["resourceVersion"];
        operations.insert(0, json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::configuration::Registered;

    #[test]
    fn every_webhook_gets_the_roots_and_the_second_time_nothing_is_done() {
        let registered = Registered { root_namespace: "outrider-system", roots: None, fail_closed: true };
        for mut object in registered.objects() {
            object["metadata"]["resourceVersion"] = "7".into();
            let count = object["webhooks"].as_array().unwrap().len();
            let operations = patch(&object, "cm9vdHM=");
            assert_eq!(operations.len(), count + 1);
            assert_eq!(
                operations[0],
                json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"})
            );
            for operation in &operations[1..] {
                let path = operation["path"].as_str().unwrap();
                let parent = object.pointer_mut(path.strip_suffix("/caBundle").unwrap()).unwrap();
                parent["caBundle"] = operation["value"].clone();
            }
            assert_eq!(patch(&object, "cm9vdHM="), Vec::<Value>::new());
            object["webhooks"][1]["clientConfig"]["caBundle"] = "b2xk".into();
            let again = patch(&object, "cm9vdHM=");
            assert_eq!(again[1]["path"], "/webhooks/1/clientConfig/caBundle");
            assert_eq!(again.len(), 2);
        }
        assert_eq!(patch(&json!({}), "x"), Vec::<Value>::new());
    }
}
