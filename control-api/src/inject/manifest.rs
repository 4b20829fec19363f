//! Manifests: the pods and pods' templates in a file, changed in place; everything else comes out as it went in.

use std::collections::BTreeMap;

use outrider_proto::Fault;
use serde_json::Value;

use super::pod::{InjectError, Outcome};
use super::{Settings, Surroundings, inject, plain, yaml};

/// What was done with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Kind and name.
    pub object: String,
    /// What was done, in words.
    pub done: String,
}

/// Why a file could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no YAML.
    #[error("document {document}: not valid YAML: {reason}")]
    Syntax {
        /// Which document, from 1.
        document: usize,
        /// What the reader says.
        reason: String,
    },
    /// A pod can have no sidecar.
    #[error("{object}: {error}")]
    Inject {
        /// Kind and name.
        object: String,
        /// Why.
        error: InjectError,
    },
}

/// A file with sidecars in all pods that may have one. What a `Namespace` in the file says holds for the pods in it.
///
/// # Errors
/// When a document cannot be read, or a pod can have none; nothing is changed then.
pub fn inject_all(
    text: &str,
    around: &Surroundings,
    settings: &Settings,
) -> Result<(String, Vec<Note>), ManifestError> {
    let namespaces = namespaces(text)?;
    each(text, |object, notes| {
        let name = name(object);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&around.namespace).to_owned();
        let switches = namespaces.get(&namespace).unwrap_or(&around.switches).clone();
        let around = Surroundings { namespace, switches, ..around.clone() };
        let Some(pod) = template(object) else { return Ok(()) };
        let done = inject(pod, &around, settings);
        let done = done
            .map_err(|error| ManifestError::Inject { object: name.clone(), error: place(error, object) })?;
        let said = match done {
            Outcome::Skipped(reason) => format!("left as it is: {reason}"),
            Outcome::Injected(injected) => {
                if let Some(pod) = template(object) {
                    *pod = injected.pod;
                }
                let warnings = injected.warnings.iter().map(|warning| format!("; warning: {warning}"));
                format!("injected{}", warnings.collect::<String>())
            }
        };
        notes.push(Note { object: name, done: said });
        Ok(())
    })
}

/// A file without the sidecars that an injection has put there.
///
/// # Errors
/// When a document cannot be read.
pub fn uninject_all(text: &str) -> Result<(String, Vec<Note>), ManifestError> {
    each(text, |object, notes| {
        let name = name(object);
        let Some(pod) = template(object) else { return Ok(()) };
        let before = plain(pod);
        let done =
            if *pod == before { "left as it is: it has no sidecar of ours" } else { "sidecar removed" };
        *pod = before;
        notes.push(Note { object: name, done: done.to_owned() });
        Ok(())
    })
}

/// The pod in an object: itself, or the template of what makes pods.
pub fn template(object: &mut Value) -> Option<&mut Value> {
    let pointer = pointer(object)?;
    object.pointer_mut(pointer).filter(|pod| pod.is_object())
}

/// Where the pod of an object is.
#[must_use]
pub fn pointer(object: &Value) -> Option<&'static str> {
    match (object["apiVersion"].as_str()?, object["kind"].as_str()?) {
        ("v1", "Pod") => Some(""),
        ("v1", "ReplicationController")
        | ("apps/v1", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch/v1", "Job") => Some("/spec/template"),
        ("v1", "PodTemplate") => Some("/template"),
        ("batch/v1", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Kind and name.
#[must_use]
pub fn name(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or_default();
    format!("{}/{name}", object["kind"].as_str().unwrap_or_default())
}

fn place(error: InjectError, object: &Value) -> InjectError {
    let prefix = pointer(object).unwrap_or_default().trim_start_matches('/').replace('/', ".");
    let dot = if prefix.is_empty() { "" } else { "." };
    let placed = |fault: Fault| Fault::new(format!("{prefix}{dot}{}", fault.path), fault.reason);
    InjectError(error.0.into_iter().map(placed).collect())
}

type Change<'a> = dyn FnMut(&mut Value, &mut Vec<Note>) -> Result<(), ManifestError> + 'a;

/// Documents that nothing changes keep their text, comments included.
fn each(
    text: &str,
    mut change: impl FnMut(&mut Value, &mut Vec<Note>) -> Result<(), ManifestError>,
) -> Result<(String, Vec<Note>), ManifestError> {
    let change: &mut Change<'_> = &mut change;
    let (mut out, mut notes) = (String::new(), Vec::new());
    for (index, document) in documents(text).into_iter().enumerate() {
        let before = read(index, &document)?;
        let mut after = before.clone();
        let is_list = is_list(&after);
        match after.get_mut("items").and_then(Value::as_array_mut) {
            Some(items) if is_list => {
                for item in items {
                    change(item, &mut notes)?;
                }
            }
            _ => change(&mut after, &mut notes)?,
        }
        if index > 0 {
            out.push_str("---\n");
        }
        out.push_str(&if after == before { document.text } else { yaml::write(&after) });
    }
    Ok((out, notes))
}

fn read(index: usize, document: &Document) -> Result<Value, ManifestError> {
    document.value().map_err(|reason| ManifestError::Syntax { document: index + 1, reason })
}

fn is_list(object: &Value) -> bool {
    object["apiVersion"] == "v1" && object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
}

/// The objects of a document: itself, or the items of a list.
#[must_use]
pub fn objects(document: &Value) -> Vec<&Value> {
    match document["items"].as_array() {
        Some(items) if is_list(document) => items.iter().collect(),
        _ => vec![document],
    }
}

/// A document of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Where the first thing in it stands, from 1.
    pub line: usize,
    /// Where its text begins, from 1.
    pub begin: usize,
    /// Its text.
    pub text: String,
}

/// The documents of a file. A line that begins with `---` and a blank, or is nothing else, separates documents wherever
/// it stands (YAML 1.2 section 9.1.2), `...` ends one. Those without anything in them are left out.
#[must_use]
pub fn documents(text: &str) -> Vec<Document> {
    let says = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#' | '%'));
    let (mut all, mut current) = (Vec::new(), Document::default());
    for (index, line) in text.lines().enumerate() {
        let marker = |marker: &str| {
            line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        let rest = marker("---").or_else(|| marker("...").map(|_| ""));
        if rest.is_some() {
            all.push(std::mem::take(&mut current));
        }
        let line = rest.map_or(line, str::trim_start);
        if current.line == 0 && says(line) {
            current.line = index + 1;
        }
        if rest.is_none() || !line.is_empty() {
            if current.begin == 0 {
                current.begin = index + 1;
            }
            current.text.push_str(line);
            current.text.push('\n');
        }
    }
    all.push(current);
    all.retain(|document| document.line > 0);
    all
}

impl Document {
    /// What it says.
    ///
    /// # Errors
    /// What the reader says, with the line in the file.
    pub fn value(&self) -> Result<Value, String> {
        value(&self.text, self.begin)
    }
}

/// Reads a text that is one document.
///
/// # Errors
/// What the reader says.
pub fn parse(text: &str) -> Result<Value, String> {
    value(text, 1)
}

/// No key twice, and bounds that an "alias bomb" runs into.
fn value(text: &str, first: usize) -> Result<Value, String> {
    let mut options = outrider_proto::yaml::options();
    // As every tool of Kubernetes reads `defaultMode: 0644`.
    options.legacy_octal_numbers = true;
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| outrider_proto::yaml::said(&error, first))
}

/// What the namespaces in a file say, by name, wherever in the file they stand.
fn namespaces(text: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>, ManifestError> {
    let mut all = BTreeMap::new();
    for (index, document) in documents(text).into_iter().enumerate() {
        let value = read(index, &document)?;
        let found = objects(&value).into_iter();
        let found = found.filter(|object| object["apiVersion"] == "v1" && object["kind"] == "Namespace");
        let named =
            found.filter_map(|object| Some((object["metadata"]["name"].as_str()?.to_owned(), object)));
        all.extend(named.map(|(name, object)| (name, switches(object))));
    }
    Ok(all)
}

/// Labels and annotations of a namespace; of two with one name the label.
fn switches(namespace: &Value) -> BTreeMap<String, String> {
    ["annotations", "labels"]
        .into_iter()
        .filter_map(|part| namespace["metadata"][part].as_object())
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}
