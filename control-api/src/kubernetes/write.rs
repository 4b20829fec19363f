//! Writes to Kubernetes what is said about the operator's objects, if this is the replica that may.
//!
//! An object is written only when something new is to be said, and only in the version that was looked at: a write that
//! comes too late is refused, and made anew in the next round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;

use super::counts::Others;
use super::discovery::served;
use super::status::{generation, patch};
use super::{KubeError, call};
use crate::conditions::{Condition, Findings};
use crate::engine::Engine;
use crate::object::{Key, ObjectKind};
use crate::registry::Registry;

/// Between two rounds.
pub const PAUSE: Duration = Duration::from_secs(3);
/// Objects that are written in one round; the others have theirs in the next ones.
const MAX_WRITES: usize = 100;
/// As who it is written, in `managedFields`.
const FIELD_MANAGER: &str = "outrider-control";

/// What is to be said of an object, and in which generation that is seen; `None` when that is not known, because the
/// object could not be read.
type Said = (Option<i64>, Vec<Condition>);

/// Writes statuses.
pub struct Writer {
    client: Client,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    others: Others,
    /// What was said last, of objects that have it in their status.
    written: BTreeMap<Key, Said>,
    resources: BTreeMap<ObjectKind, ApiResource>,
}

impl Writer {
    /// Of what is in force, and what the proxies say of it, those of other replicas among them.
    #[must_use]
    pub fn new(client: Client, engine: Arc<Engine>, (registry, others): (Arc<Registry>, Others)) -> Self {
        Self { client, engine, registry, others, written: BTreeMap::new(), resources: BTreeMap::new() }
    }

    /// Writes while `holds` is set, until its sender is gone.
    pub async fn run(mut self, mut holds: watch::Receiver<bool>, pause: Duration) {
        while holds.wait_for(|holds| *holds).await.is_ok() {
            match self.round(&holds).await {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "statuses written"),
                Err(error) => tracing::warn!(%error, "statuses cannot be written"),
            }
            tokio::time::sleep(pause).await;
            if !*holds.borrow() {
                // Somebody else writes now; what we have written may be overwritten.
                self.written.clear();
                self.resources.clear();
            }
        }
    }

    /// Writes what is new; how many objects.
    async fn round(&mut self, holds: &watch::Receiver<bool>) -> Result<usize, KubeError> {
        let said = self.said().await;
        self.written.retain(|key, _| said.contains_key(key));
        let mut count = 0;
        for (key, said) in said {
            if count >= MAX_WRITES || !*holds.borrow() {
                break;
            }
            if self.written.get(&key) == Some(&said) {
                continue;
            }
            count += 1;
            match self.write(&key, &said).await {
                Ok(true) => {
                    self.written.insert(key, said);
                }
                Ok(false) => {}
                Err(error) if error.code().is_some_and(|code| (400..500).contains(&code)) => {
                    tracing::warn!(object = %key, %error, "the status of an object cannot be written");
                    // It may be the kind that is served in another version now.
                    self.resources.remove(&key.kind);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// What is to be said of all objects that have a status of ours.
    async fn said(&self) -> BTreeMap<Key, Said> {
        let (engine, registry) = (Arc::clone(&self.engine), Arc::clone(&self.registry));
        let others = self.others.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut proxies = registry.objects();
            others.add_to(&mut proxies);
            let findings = Findings::of(engine.compiled(), proxies);
            let of_object = |key: &Key| {
                let newer =
                    findings.problems(key).any(|problem| problem.in_force != crate::source::InForce::Nothing);
                let object = findings.compiled.mesh.objects().object(key);
                let generation = object.filter(|_| !newer).map(|object| object.meta().generation);
                (key.clone(), (generation, findings.conditions(key)))
            };
            let objects = findings.compiled.mesh.objects().all();
            let mut said: BTreeMap<Key, Said> = objects
                .filter(|object| object.key().kind.has_status())
                .map(|object| of_object(object.key()))
                .collect();
            said.extend(findings.bad().filter(|key| key.kind.has_status()).map(of_object));
            said
        });
        found.await.unwrap_or_default()
    }

    /// Brings the status of an object up to date; whether that is done.
    async fn write(&mut self, key: &Key, (expected, conditions): &Said) -> Result<bool, KubeError> {
        let Some(resource) = self.resource(key.kind).await? else { return Ok(false) };
        let client = self.client.clone();
        let api = if key.kind.is_namespaced() {
            Api::<DynamicObject>::namespaced_with(client, &key.namespace, &resource)
        } else {
            Api::all_with(client, &resource)
        };
        let Some(object) = call(api.get_opt(&key.name)).await? else { return Ok(false) };
        let Ok(object) = serde_json::to_value(object) else { return Ok(false) };
        if expected.is_some_and(|expected| expected != generation(&object)) {
            // It has changed, and what is said here is of the version before.
            return Ok(false);
        }
        let now = Timestamp::now().round(Unit::Second).map(|now| now.to_string()).unwrap_or_default();
        let Some(patch) = patch(key, &object, conditions, &now) else { return Ok(true) };
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match call(api.patch_status(&key.name, &params, &Patch::Merge(&patch))).await {
            Ok(_) => {
                metrics::counter!("outrider_control_statuses_written_total").increment(1);
                Ok(true)
            }
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn resource(&mut self, kind: ObjectKind) -> Result<Option<ApiResource>, KubeError> {
        if let Some(known) = self.resources.get(&kind) {
            return Ok(Some(known.clone()));
        }
        let found = served(&self.client, kind).await?;
        if let Some(resource) = &found {
            self.resources.insert(kind, resource.clone());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::compile::Settings;
    use crate::kubernetes::stand_in::StandIn;
    use crate::source::View;
    use crate::source::kubernetes::{self, Pace};

    const LONG: Duration = Duration::from_secs(20);
    const PACE: Pace = Pace {
        first: Duration::from_millis(5),
        longest: Duration::from_millis(20),
        discovery: Duration::from_millis(20),
    };
    const WORKLOADS: &str = "/apis/mesh.outrider.dev/v1alpha1/namespaces/shop/workloads";
    const REVOCATION: &str = "/apis/mesh.outrider.dev/v1alpha1/revocations/cut";
    const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r";

    fn meta(name: &str) -> Value {
        json!({"name": name, "namespace": "shop", "generation": 1})
    }

    async fn eventually(what: &str, good: impl Fn() -> bool) {
        let waited = async {
            while !good() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LONG, waited).await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn mesh(server: &StandIn) {
        let serve = |group: &str, plural: &str| {
            server.store(|store| store.served.insert(group.to_owned(), [plural.to_owned()].into()));
        };
        let ours = ["workloads", "revocations"].map(str::to_owned);
        server.store(|store| store.served.insert("mesh.outrider.dev/v1alpha1".to_owned(), ours.into()));
        serve("gateway.networking.k8s.io/v1", "httproutes");
        server.put(
            "/api/v1/namespaces/shop/services/web",
            json!({"metadata": meta("web"), "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}}),
        );
        let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
        let rules = json!([{"backendRefs": [{"name": "nowhere", "port": 80}]}]);
        server.put(ROUTE, json!({"metadata": meta("r"), "spec": {"parentRefs": parents, "rules": rules}}));
        server.put(
            &format!("{WORKLOADS}/bad"),
            json!({"metadata": meta("bad"), "spec": {"address": "nowhere"}}),
        );
        let cut = json!({"metadata": {"name": "cut", "generation": 1}, "spec": {"serialNumbers": ["7"]}});
        server.put(REVOCATION, cut);
    }

    fn condition(object: &Value, path: &str, kind: &str) -> Option<(String, String)> {
        let all = object.pointer(path)?.as_array()?;
        let one = all.iter().find(|one| one["type"] == kind)?;
        Some((one["status"].as_str()?.to_owned(), one["reason"].as_str()?.to_owned()))
    }

    #[tokio::test]
    async fn what_is_said_of_objects_stands_in_their_status_and_is_written_once() {
        let server = StandIn::start().await;
        mesh(&server);
        let (mut views, _task) = kubernetes::watch(&server.client(), PACE);
        let view: View = views.wait_for(|view| view.complete).await.unwrap().clone();
        let registry = Arc::new(Registry::default());
        let engine = Arc::new(Engine::new(
            Settings::default(),
            &view,
            Arc::clone(&registry),
            &crate::compile::model::InMesh::new(),
            Arc::default(),
        ));
        tokio::spawn(Arc::clone(&engine).run(views));
        let writer = Writer::new(server.client(), Arc::clone(&engine), (registry, Others::default()));
        let (held, holds) = watch::channel(false);
        let task = tokio::spawn(writer.run(holds, Duration::from_millis(10)));
        // Whoever does not hold the lease does not even look.
        assert_eq!(server.requests(&["PATCH"]) + server.requests(&["GET", ROUTE]), 0);
        held.send_replace(true);
        let of = |path: &str, pointer: &str, kind: &str| {
            server.object(path).and_then(|object| condition(&object, pointer, kind))
        };
        let said = |status: &str, reason: &str| Some((status.to_owned(), reason.to_owned()));
        let route = |kind: &str| of(ROUTE, "/status/parents/0/conditions", kind);
        eventually("the route", || route("ResolvedRefs") == said("False", "BackendNotFound")).await;
        assert_eq!(route("Accepted"), said("True", "Accepted"));
        let bad = format!("{WORKLOADS}/bad");
        let workload = || of(&bad, "/status/conditions", "Accepted");
        eventually("the bad workload", || workload() == said("False", "Invalid")).await;
        // What is in no namespace is not looked for in one.
        let cut = || of(REVOCATION, "/status/conditions", "Accepted");
        eventually("the revocation", || cut() == said("True", "Accepted")).await;
        let writes = server.requests(&["PATCH"]);
        assert_eq!(writes, 3);
        // What is good again says so; of the route nothing new is said, so it is not even looked at.
        let looks = server.requests(&["GET", ROUTE]);
        let mut healed = server.object(&bad).unwrap();
        healed["spec"] = json!({"address": "10.0.0.2"});
        healed["metadata"]["generation"] = 2.into();
        server.put(&bad, healed);
        eventually("healed", || workload().is_none_or(|(status, _)| status == "True")).await;
        assert_eq!(server.requests(&["GET", ROUTE]), looks);
        // Without the lease it writes nothing more, and it ends when nobody can hold it.
        held.send_replace(false);
        drop(held);
        task.await.unwrap();
    }
}
