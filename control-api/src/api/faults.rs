//! Which faults run, and how they are begun and stopped by hand.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::Api;
use super::answer::Answer;
use crate::experiments::Phase;
use crate::object::fault_injection::FaultInjection;
use crate::object::{AnyObject, Key, Object, ObjectKind};
use crate::source::documents;

/// All faults.
#[derive(Debug, Serialize)]
struct All {
    /// Whether somebody has stopped everything.
    stopped: bool,
    faults: Vec<Fault>,
}

/// A fault.
#[derive(Debug, Serialize)]
struct Fault {
    namespace: Arc<str>,
    name: Arc<str>,
    /// Where it is written; empty for one that was applied by hand.
    file: Arc<str>,
    phase: &'static str,
    /// What is left of its duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_s: Option<u64>,
    /// How long a proxy goes on by itself.
    ttl_ms: u64,
    /// Proxies that are told of it, and those that have accepted it.
    proxies: usize,
    acknowledged: usize,
    refused: usize,
    /// Those that did not hear in time that it goes on, and have ended it.
    lapsed: usize,
}

pub(super) fn all(api: &Api) -> Answer {
    let compiled = api.engine.compiled();
    let told = api.registry.objects();
    let faults = compiled.mesh.objects().faults.values().map(|object| {
        let status = told.get(object.key.to_string().as_str()).cloned().unwrap_or_default();
        let (phase, left_s) = match api.engine.experiments().phase(&object.key) {
            Some(Phase::Running { left }) => ("Running", Some(left.as_secs())),
            Some(Phase::Over) => ("Over", None),
            Some(Phase::Stopped) => ("Stopped", None),
            None => ("Pending", None),
        };
        Fault {
            namespace: Arc::clone(&object.key.namespace),
            name: Arc::clone(&object.key.name),
            file: Arc::clone(&object.place.file),
            phase,
            left_s,
            ttl_ms: u64::try_from(object.spec.ttl().as_millis()).unwrap_or(u64::MAX),
            proxies: status.proxies,
            acknowledged: status.acknowledged,
            refused: status.refused,
            lapsed: status.lapsed,
        }
    });
    Answer::json(&All { stopped: api.engine.experiments().is_stopped(), faults: faults.collect() })
}

/// Stops everything, or lifts that.
pub(super) fn stop_all(api: &Api, stopped: bool) -> Answer {
    let kept = api.engine.experiments().stop_all(stopped);
    api.engine.faults_changed();
    tracing::warn!(target: "outrider_control::audit", stopped, "all faults stopped, or let go on");
    match kept {
        Ok(()) => all(api),
        Err(error) => {
            let reason =
                format!("done, but it will not hold over a restart of the control server: {error}\n");
            Answer::text(StatusCode::INTERNAL_SERVER_ERROR, reason)
        }
    }
}

/// Stops one.
pub(super) fn stop(api: &Api, namespace: &str, name: &str) -> Answer {
    let key = Key::new(ObjectKind::FaultInjection, namespace, name);
    let stopped = api.engine.experiments().stop(&key);
    api.engine.faults_changed();
    match stopped {
        Ok(true) => {
            tracing::warn!(target: "outrider_control::audit", fault = %key, "fault stopped");
            all(api)
        }
        Ok(false) => Answer::text(StatusCode::NOT_FOUND, format!("there is no {key}\n")),
        Err(error) => {
            let reason =
                format!("done, but it will not hold over a restart of the control server: {error}\n");
            Answer::text(StatusCode::INTERNAL_SERVER_ERROR, reason)
        }
    }
}

/// Begins those that a file of YAML has; none where one of them is not good.
pub(super) fn apply(api: &Api, text: &str) -> Answer {
    let objects = match read(text) {
        Ok(objects) => objects,
        Err(reason) => return Answer::text(StatusCode::UNPROCESSABLE_ENTITY, reason + "\n"),
    };
    let source = api.engine.compiled().source;
    let keys: Vec<Key> = objects.iter().map(|object| object.key.clone()).collect();
    if let Err(error) = api.engine.experiments().apply(objects, &source) {
        return Answer::text(StatusCode::CONFLICT, format!("{error}; none of them is applied\n"));
    }
    for key in keys {
        tracing::warn!(target: "outrider_control::audit", fault = %key, "fault applied by hand");
    }
    api.engine.faults_changed();
    all(api)
}

fn read(text: &str) -> Result<Vec<Arc<Object<FaultInjection>>>, String> {
    let mut objects = Vec::new();
    for (place, value) in documents(&"".into(), text) {
        let wrong = |reason: String| format!("line {}: {reason}", place.line);
        let value = value.map_err(|fault| wrong(fault.to_string()))?;
        match AnyObject::from_value(value, &place) {
            Ok(AnyObject::FaultInjection(object)) => objects.push(object),
            Ok(other) => return Err(wrong(format!("{} is no FaultInjection", other.key()))),
            Err(faults) => return Err(wrong(outrider_proto::fault::joined(&faults))),
        }
    }
    if objects.is_empty() { Err("there is no FaultInjection".to_owned()) } else { Ok(objects) }
}
