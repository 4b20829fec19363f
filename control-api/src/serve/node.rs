//! A proxy by what it says of itself in its first request, as far as it has proved it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::Node;
use prost_types::value::Kind as Value;
use prost_types::{ListValue, Struct};

use crate::auth::{Caller, check_segment};
use crate::proxy_info::{Dialect, ProxyInfo, WorkloadPort};

/// Longest `node.id`, in bytes.
const MAX_ID_BYTES: usize = 512;
/// Most labels, and most ports, of a workload.
const MAX_ENTRIES: usize = 64;
/// What a client says that lets leased resources go.
const TTL_FEATURE: &str = "xds.config.supports-resource-ttl";
/// What a client says that asks for destinations.
const ON_DEMAND_FEATURE: &str = "outrider.on-demand";
/// The namespace of somebody who need not prove anything, and says none.
const DEFAULT_NAMESPACE: &str = "default";

/// Why a node is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Something in it cannot be used.
    #[error("node.{field}: {reason}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It says to be somebody else than it proved to be.
    #[error("node.metadata.{field}: \"{said}\", but the proxy has proved to be in \"{proved}\"")]
    Other {
        /// Which field.
        field: &'static str,
        /// What it says.
        said: String,
        /// What it is.
        proved: Arc<str>,
    },
}

/// Reads a node. In `metadata` these are ours, all optional: `namespace`, `service_account`, `service`, `workload`,
/// `address` (IP), `ports` (numbers, or `{name, port}`) and `labels` (a map). All else, and there is much, is of no
/// interest.
///
/// # Errors
/// What of it cannot be used, or is not what the caller proved.
pub fn proxy_info(node: &Node, caller: &Caller) -> Result<ProxyInfo, NodeError> {
    if node.id.is_empty() || node.id.len() > MAX_ID_BYTES {
        return Err(invalid("id", format!("must have 1 to {MAX_ID_BYTES} bytes")));
    }
    let nothing = Struct::default();
    let metadata = node.metadata.as_ref().unwrap_or(&nothing);
    let proved = caller.identity.as_ref();
    let namespace = text(metadata, "namespace")?;
    let service_account = text(metadata, "service_account")?;
    let namespace = agreed("namespace", namespace, proved.map(|proved| &proved.namespace))?;
    let service_account =
        agreed("service_account", service_account, proved.map(|proved| &proved.service_account))?;
    let id: Arc<str> = node.id.as_str().into();
    let address = text(metadata, "address")?.map(str::parse).transpose();
    let has = |feature: &str| node.client_features.iter().any(|one| one == feature);
    let address: Option<IpAddr> =
        address.map_err(|_| invalid("metadata.address", "is not an IP address".to_owned()))?;
    let workload = text(metadata, "workload")?.map_or_else(|| Arc::clone(&id), Into::into);
    Ok(ProxyInfo {
        id,
        namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.into()),
        service_account: service_account.unwrap_or_default(),
        service: text(metadata, "service")?.map(Into::into),
        workload,
        labels: labels(metadata)?,
        address,
        is_there: address.is_some_and(|address| caller.place.has(address)),
        ports: ports(metadata)?,
        dialect: dialect(&node.user_agent_name),
        identity: caller.identity.clone(),
        on_demand: has(ON_DEMAND_FEATURE),
        supports_ttl: has(TTL_FEATURE),
    })
}

/// What was proved; what was said must not differ from it.
fn agreed(
    field: &'static str,
    said: Option<&str>,
    proved: Option<&Arc<str>>,
) -> Result<Option<Arc<str>>, NodeError> {
    match (said, proved) {
        (Some(said), Some(proved)) if *said != **proved => {
            Err(NodeError::Other { field, said: said.to_owned(), proved: Arc::clone(proved) })
        }
        (_, Some(proved)) => Ok(Some(Arc::clone(proved))),
        (Some(said), None) => Ok(Some(said.into())),
        (None, None) => Ok(None),
    }
}

fn dialect(user_agent: &str) -> Dialect {
    if user_agent == "outrider" {
        Dialect::Outrider
    } else if user_agent.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("grpc")) {
        Dialect::Grpc
    } else {
        Dialect::Envoy
    }
}

/// A name in the metadata; empty is as good as none.
fn text<'a>(metadata: &'a Struct, field: &'static str) -> Result<Option<&'a str>, NodeError> {
    match metadata.fields.get(field).and_then(|value| value.kind.as_ref()) {
        None | Some(Value::NullValue(_)) => Ok(None),
        Some(Value::StringValue(text)) if text.is_empty() => Ok(None),
        Some(Value::StringValue(text)) if field == "address" || check_segment(text) => Ok(Some(text)),
        Some(_) => Err(invalid(field, "is not a name of letters, digits, '.', '-' and '_'".to_owned())),
    }
}

fn labels(metadata: &Struct) -> Result<BTreeMap<Arc<str>, Arc<str>>, NodeError> {
    let wrong = || invalid("metadata.labels", format!("is not a map of at most {MAX_ENTRIES} texts"));
    let map = match metadata.fields.get("labels").and_then(|value| value.kind.as_ref()) {
        None | Some(Value::NullValue(_)) => return Ok(BTreeMap::new()),
        Some(Value::StructValue(map)) if map.fields.len() <= MAX_ENTRIES => map,
        Some(_) => return Err(wrong()),
    };
    let all = map.fields.iter().map(|(name, value)| match &value.kind {
        Some(Value::StringValue(text)) => Ok((name.as_str().into(), text.as_str().into())),
        _ => Err(wrong()),
    });
    all.collect()
}

fn ports(metadata: &Struct) -> Result<Vec<WorkloadPort>, NodeError> {
    let wrong = || {
        let reason = format!("is not a list of at most {MAX_ENTRIES} port numbers, or of {{name, port}}");
        invalid("metadata.ports", reason)
    };
    let list: &ListValue = match metadata.fields.get("ports").and_then(|value| value.kind.as_ref()) {
        None | Some(Value::NullValue(_)) => return Ok(Vec::new()),
        Some(Value::ListValue(list)) if list.values.len() <= MAX_ENTRIES => list,
        Some(_) => return Err(wrong()),
    };
    let port = |kind: Option<&Value>| match kind {
        Some(Value::NumberValue(number)) => number_of(*number),
        Some(Value::StructValue(map)) => {
            let number = map.fields.get("port").and_then(|value| value.kind.as_ref());
            let Some(Value::NumberValue(number)) = number else { return None };
            let name = text(map, "name").ok()?.unwrap_or_default();
            Some(WorkloadPort { name: name.into(), ..number_of(*number)? })
        }
        _ => None,
    };
    list.values.iter().map(|value| port(value.kind.as_ref()).ok_or_else(wrong)).collect()
}

/// A port by its number, which is a float in the metadata.
fn number_of(number: f64) -> Option<WorkloadPort> {
    let found = (1..=u16::MAX).find(|port| (f64::from(*port) - number).abs() < f64::EPSILON);
    found.map(|number| WorkloadPort { name: Arc::default(), number })
}

fn invalid(field: &'static str, reason: String) -> NodeError {
    NodeError::Invalid { field, reason }
}

#[cfg(test)]
mod tests;
