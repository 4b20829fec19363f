//! Which faults run, and how they are begun and stopped by hand.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::Api;
use super::answer::Answer;
use crate::ca::state::StateError;
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
    /// Proxies that are meant and take no faults, as Envoy.
    unable: usize,
}

/// What came of a change.
#[derive(Debug)]
pub(super) enum Done {
    /// Nothing, or not all of it.
    Answered(Answer),
    /// This change of the engine's; when it is compiled the faults are the answer.
    Changed(u64),
}

pub(super) fn all(api: &Api) -> Answer {
    let compiled = api.engine.compiled();
    let told = api.registry.objects();
    let unable = compiled.mesh.without_faults(&compiled.injections, &api.registry.infos());
    let faults = compiled.mesh.objects().faults.values().filter_map(|object| {
        let status = told.get(object.key.to_string().as_str()).cloned().unwrap_or_default();
        let (phase, left_s) = match api.engine.experiments().phase(&object.key) {
            Some(Phase::Running { left }) => ("Running", Some(left.as_secs())),
            Some(Phase::Over) => ("Over", None),
            Some(Phase::Stopped) => ("Stopped", None),
            // It was applied by hand and is stopped; the next compiling leaves it out.
            None => return None,
        };
        Some(Fault {
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
            unable: unable.get(&object.key).copied().unwrap_or_default(),
        })
    });
    Answer::json(&All { stopped: api.engine.experiments().is_stopped(), faults: faults.collect() })
}

/// Stops everything, or lifts that.
pub(super) fn stop_all(api: &Api, stopped: bool) -> Done {
    let kept = api.engine.experiments().stop_all(stopped);
    let change = api.engine.faults_changed();
    tracing::warn!(target: "outrider_control::audit", stopped, "all faults stopped, or let go on");
    match kept {
        Ok(()) => Done::Changed(change),
        Err(error) => not_kept(&error),
    }
}

fn not_kept(error: &StateError) -> Done {
    let reason = format!("done, but it will not hold over a restart of the control server: {error}\n");
    Done::Answered(Answer::text(StatusCode::INTERNAL_SERVER_ERROR, reason))
}

/// Stops one.
pub(super) fn stop(api: &Api, namespace: &str, name: &str) -> Done {
    let key = Key::new(ObjectKind::FaultInjection, namespace, name);
    let stopped = api.engine.experiments().stop(&key);
    let change = api.engine.faults_changed();
    match stopped {
        Ok(true) => {
            tracing::warn!(target: "outrider_control::audit", fault = %key, "fault stopped");
            Done::Changed(change)
        }
        Ok(false) => {
            let reason = format!("there is no {key}; `outrider fault list` lists them\n");
            Done::Answered(Answer::text(StatusCode::NOT_FOUND, reason))
        }
        Err(error) => not_kept(&error),
    }
}

/// Begins those that a file of YAML has; none where one of them is not good.
pub(super) fn apply(api: &Api, text: &str) -> Done {
    let refused = |status, reason: String| Done::Answered(Answer::text(status, reason));
    let objects = match read(text) {
        Ok(objects) => objects,
        Err(reason) => return refused(StatusCode::UNPROCESSABLE_ENTITY, reason + "\n"),
    };
    let source = api.engine.compiled().source;
    let keys: Vec<Key> = objects.iter().map(|object| object.key.clone()).collect();
    if let Err(error) = api.engine.experiments().apply(objects, &source) {
        return refused(StatusCode::CONFLICT, format!("{error}; none of them is applied\n"));
    }
    for key in keys {
        tracing::warn!(target: "outrider_control::audit", fault = %key, "fault applied by hand");
    }
    Done::Changed(api.engine.faults_changed())
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
