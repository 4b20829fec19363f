//! What every object has: name, namespace, labels.

use std::collections::BTreeMap;

use outrider_proto::Path;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::Key;

/// The namespace of objects that name none, as with `kubectl`.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Longest name of an object, bytes (a DNS name's limit).
const MAX_NAME_BYTES: usize = 253;
/// Longest name of a namespace, bytes (a DNS label's limit).
const MAX_LABEL_BYTES: usize = 63;

/// The part of Kubernetes' `ObjectMeta` that is used; the rest of it is accepted and dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// The name.
    #[serde(default)]
    pub name: String,
    /// The namespace; empty for kinds without.
    #[serde(default)]
    pub namespace: String,
    /// What selectors look at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What tools keep with it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Counts changes of the specification; what a status refers to.
    #[serde(default)]
    pub generation: i64,
    /// The API server's version of it.
    #[serde(default)]
    pub resource_version: String,
    /// Unique over time.
    #[serde(default)]
    pub uid: String,
    /// RFC 3339; the older object wins a conflict. Objects without come last.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    #[serde(default, rename = "managedFields")]
    _managed_fields: Dropped,
    #[serde(default, rename = "ownerReferences")]
    _owner_references: Dropped,
    #[serde(default, rename = "finalizers")]
    _finalizers: Dropped,
    #[serde(default, rename = "deletionTimestamp")]
    _deletion_timestamp: Dropped,
    #[serde(default, rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Dropped,
    #[serde(default, rename = "generateName")]
    _generate_name: Dropped,
    #[serde(default, rename = "selfLink")]
    _self_link: Dropped,
}

/// A field of `ObjectMeta` that has no use here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped;

impl<'de> Deserialize<'de> for Dropped {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Metadata {
    /// Of an object that no source wrote.
    pub(crate) fn named(key: &Key, labels: BTreeMap<String, String>) -> Self {
        let (name, namespace) = (key.name.to_string(), key.namespace.to_string());
        Self { name, namespace, labels, ..Self::default() }
    }

    pub(super) fn from_value(value: Option<Value>, namespaced: bool, path: &mut Path) -> Option<Self> {
        let Some(value) = value else { return path.refuse("missing; at least metadata.name is needed") };
        let mut meta: Self = super::typed(value, path)?;
        if namespaced && meta.namespace.is_empty() {
            DEFAULT_NAMESPACE.clone_into(&mut meta.namespace);
        }
        if !namespaced && !meta.namespace.is_empty() {
            path.fault_at("namespace", "objects of this kind live in no namespace; remove it");
        }
        if !is_subdomain(&meta.name) {
            path.fault_at("name", NAME_RULE);
        }
        if namespaced && !is_label(&meta.namespace) {
            path.fault_at("namespace", LABEL_RULE);
        }
        Some(meta)
    }
}

const NAME_RULE: &str =
    "must be lower-case letters, digits, \"-\" and \".\", begin and end with a letter or digit, 253 at most";
const LABEL_RULE: &str =
    "must be lower-case letters, digits and \"-\", begin and end with a letter or digit, 63 at most";

/// Whether a text is a DNS label (RFC 1123) in lower case.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= MAX_LABEL_BYTES
        && !text.is_empty()
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a text is a DNS name (RFC 1123) in lower case.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= MAX_NAME_BYTES && text.split('.').all(part)
}

/// Whether all labels of a selector are there; an empty selector selects everything.
#[must_use]
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
