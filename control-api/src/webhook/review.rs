//! An `AdmissionReview` (admission.k8s.io/v1) answered. Pure: the same question has the same answer, as often as it
//! is asked, dry run or not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::question::{Mode, Question};
use super::{OnError, Policy};
use crate::audit::{Finding, Level, audit, exemption};
use crate::inject::{Outcome, Surroundings, inject, manifest, patch};

/// Longest warning, in bytes; the API server cuts longer ones.
const MAX_WARNING_BYTES: usize = 256;
/// Most warnings of one answer; the API server drops more than 4096 bytes of them in all.
const MAX_WARNINGS: usize = 15;
/// Longest message of a refusal, in bytes.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Why a question cannot be answered at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReviewError {
    /// It is not the message that it should be.
    #[error("not an AdmissionReview of admission.k8s.io/v1")]
    NotAReview,
    /// There is nothing to answer to.
    #[error("request.uid: missing")]
    NoUid,
}

/// Answers.
///
/// # Errors
/// When it is no question; the API server goes by `failurePolicy` then.
pub(super) fn answer(review: &Value, question: Question, policy: &Policy) -> Result<Value, ReviewError> {
    if review["apiVersion"] != "admission.k8s.io/v1" || review["kind"] != "AdmissionReview" {
        return Err(ReviewError::NotAReview);
    }
    let request = &review["request"];
    let uid = request["uid"].as_str().filter(|uid| !uid.is_empty()).ok_or(ReviewError::NoUid)?;
    let mut response = match question {
        Question::Inject { enabled } => injection(request, enabled, policy),
        Question::Audit { mode, level } => {
            let mut findings = found(request, &request["object"], level, policy);
            if request["operation"] == "UPDATE" {
                // What is there already is not made better by keeping its owner from changing anything else.
                let before = found(request, &request["oldObject"], level, policy);
                findings.retain(|finding| !before.contains(finding));
            }
            audited(&findings, mode, is_pod(request))
        }
    };
    response.insert("uid".to_owned(), uid.into());
    Ok(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

fn is_pod(request: &Value) -> bool {
    request["kind"]["group"].as_str().unwrap_or_default().is_empty() && request["kind"]["kind"] == "Pod"
}

fn injection(request: &Value, enabled: bool, policy: &Policy) -> Map<String, Value> {
    let is_new_pod = is_pod(request)
        && request["operation"] == "CREATE"
        && request["subResource"].as_str().unwrap_or_default().is_empty();
    if !is_new_pod {
        return allowed("not a pod that is created", &[]);
    }
    let pod = &request["object"];
    let around = Surroundings {
        namespace: request["namespace"].as_str().unwrap_or_default().to_owned(),
        unless_said: enabled,
        ..Surroundings::default()
    };
    match (inject(pod, &around, &policy.settings), policy.on_error) {
        (Ok(Outcome::Skipped(reason)), _) => allowed(&format!("skipped: {reason}"), &[]),
        (Ok(Outcome::Injected(injected)), _) => {
            let mut response = allowed("injected", &injected.warnings);
            let operations = patch::diff(pod, &injected.pod);
            if !operations.is_empty() {
                response.insert("patchType".to_owned(), "JSONPatch".into());
                let patch = Value::from(operations).to_string();
                response.insert("patch".to_owned(), STANDARD.encode(patch).into());
            }
            response
        }
        (Err(error), OnError::Deny) => denied(&format!("no sidecar of the mesh is possible: {error}")),
        (Err(error), OnError::Allow) => {
            allowed(&format!("failed: {error}"), &[format!("the pod gets no sidecar: {error}")])
        }
    }
}

/// What is wrong with a pod, or with the template of what makes pods.
fn found(request: &Value, object: &Value, level: Level, policy: &Policy) -> Vec<Finding> {
    let Some(pod) = manifest::pointer(object).and_then(|pointer| object.pointer(pointer)) else {
        return Vec::new();
    };
    let mut findings = audit(pod, level, Some(&policy.settings.image));
    let namespace = request["namespace"].as_str().unwrap_or_default();
    exemption::apply(&policy.exemptions, (namespace, crate::audit::account(pod)), &mut findings);
    findings
}

/// Only pods are refused: what makes them may still be changed by somebody, and its owner is warned early.
fn audited(findings: &[Finding], mode: Mode, is_pod: bool) -> Map<String, Value> {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        return allowed("no findings", &[]);
    }
    let joined = lines.join("; ");
    match mode {
        Mode::Enforce if is_pod => denied(&format!("the pod could break out: {joined}")),
        Mode::Enforce | Mode::Warn => allowed(&joined, &lines),
        Mode::Audit => allowed(&joined, &[]),
    }
}

fn allowed(decision: &str, warnings: &[String]) -> Map<String, Value> {
    let mut response = Map::new();
    response.insert("allowed".to_owned(), true.into());
    response.insert("auditAnnotations".to_owned(), json!({"decision": cut(decision, MAX_MESSAGE_BYTES)}));
    let warnings: Vec<Value> =
        warnings.iter().take(MAX_WARNINGS).map(|warning| cut(warning, MAX_WARNING_BYTES).into()).collect();
    if !warnings.is_empty() {
        response.insert("warnings".to_owned(), warnings.into());
    }
    response
}

fn denied(message: &str) -> Map<String, Value> {
    let mut response = Map::new();
    response.insert("allowed".to_owned(), false.into());
    let message = cut(message, MAX_MESSAGE_BYTES);
    response.insert("status".to_owned(), json!({"code": 403, "reason": "Forbidden", "message": message}));
    response.insert("auditAnnotations".to_owned(), json!({"decision": "denied"}));
    response
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().find(|(at, letter)| at + letter.len_utf8() > most.saturating_sub(3)) {
        Some((at, _)) if text.len() > most => {
            format!("{}...", text.split_at_checked(at).unwrap_or_default().0)
        }
        _ => text.to_owned(),
    }
}
