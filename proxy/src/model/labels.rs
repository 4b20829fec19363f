//! Labels of endpoints, and the sets of endpoints that routes choose by them.
//!
//! A set has a key: the wanted names with their values, as one text in the order of the names. Clusters find a set by
//! it with one look-up and no allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::envoy::config::cluster::v3::cluster as pb;
use outrider_proto::envoy::config::core::v3::Metadata;
use prost_types::Struct;
use prost_types::value::Kind;

/// The one part of the metadata that balancing reads.
const FILTER: &str = "envoy.lb";

/// Names and values, sorted by name. Values are as JSON writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<Box<str>, Box<str>>);

/// The key of a set.
pub type SubsetKey = Arc<str>;

/// Which sets a cluster has beside that of all endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// Each makes one set of every combination of values of these names.
    pub selectors: Vec<Vec<Box<str>>>,
    /// What a request gets that asks for no set or for one that there is not.
    pub fallback: Fallback,
}

/// What a request gets for which there is no set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing.
    None,
    /// Any endpoint.
    Any,
    /// The endpoints with these labels.
    Labels(Labels),
}

impl Labels {
    /// From metadata; empty without any.
    pub(super) fn from_proto(value: Option<&Metadata>, path: &mut Path) -> Self {
        let Some(value) = value else { return Self::default() };
        path.field("filter_metadata", |path| {
            for name in value.filter_metadata.keys().filter(|name| *name != FILTER) {
                path.key(name, |path| path.fault(format!("only \"{FILTER}\" is read")));
            }
            match value.filter_metadata.get(FILTER) {
                Some(labels) => path.key(FILTER, |path| Self::from_struct(labels, path)),
                None => Self::default(),
            }
        })
    }

    fn from_struct(value: &Struct, path: &mut Path) -> Self {
        let mut labels = BTreeMap::new();
        for (name, value) in &value.fields {
            let text = match &value.kind {
                Some(Kind::StringValue(text)) => serde_json::Value::from(text.as_str()).to_string(),
                Some(Kind::NumberValue(number)) => serde_json::Value::from(*number).to_string(),
                Some(Kind::BoolValue(value)) => value.to_string(),
                Some(Kind::NullValue(_) | Kind::StructValue(_) | Kind::ListValue(_)) | None => {
                    path.key(name, |path| path.fault("must be a string, a number or a boolean"));
                    continue;
                }
            };
            labels.insert(name.as_str().into(), text.into());
        }
        Self(labels)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of the set of endpoints that have all of these.
    #[must_use]
    pub fn key(&self) -> SubsetKey {
        text(self.0.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// The key of the set that these labels put an endpoint into; `None` when it has not all of the names.
    #[must_use]
    pub fn key_of(&self, names: &[Box<str>]) -> Option<SubsetKey> {
        let pairs: Option<Vec<(&str, &str)>> =
            names.iter().map(|name| Some((&**name, &**self.0.get(name)?))).collect();
        Some(text(pairs?.into_iter()))
    }

    /// Whether all of the other's are among these.
    #[must_use]
    pub fn include(&self, other: &Self) -> bool {
        other.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }

    /// These, and of the other's those with other names.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        for (name, value) in &other.0 {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self
    }
}

fn text<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> SubsetKey {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push_str(&serde_json::Value::from(name).to_string());
        text.push(':');
        text.push_str(value);
        text.push(',');
    }
    text.into()
}

impl Subsets {
    pub(super) fn from_proto(value: &pb::LbSubsetConfig, path: &mut Path) -> Self {
        use pb::lb_subset_config::LbSubsetFallbackPolicy;
        let mut selectors = Vec::new();
        for (index, selector) in value.subset_selectors.iter().enumerate() {
            path.item("subset_selectors", index, |path| {
                let mut names: Vec<Box<str>> =
                    selector.keys.iter().map(|name| name.as_str().into()).collect();
                names.sort();
                names.dedup();
                if names.is_empty() {
                    path.fault_at("keys", "missing");
                }
                if selectors.contains(&names) {
                    path.fault_at("keys", "are those of another selector");
                }
                selectors.push(names);
            });
        }
        let default = value
            .default_subset
            .as_ref()
            .map(|labels| path.field("default_subset", |path| Labels::from_struct(labels, path)));
        let fallback = match (value.fallback_policy(), default) {
            (LbSubsetFallbackPolicy::NoFallback, None) => Fallback::None,
            (LbSubsetFallbackPolicy::AnyEndpoint, None) => Fallback::Any,
            (LbSubsetFallbackPolicy::DefaultSubset, labels) => Fallback::Labels(labels.unwrap_or_default()),
            (LbSubsetFallbackPolicy::NoFallback | LbSubsetFallbackPolicy::AnyEndpoint, Some(_)) => {
                path.fault_at("default_subset", "is for the fallback_policy DEFAULT_SUBSET");
                Fallback::None
            }
        };
        Self { selectors, fallback }
    }
}
