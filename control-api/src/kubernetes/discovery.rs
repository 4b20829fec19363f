//! Which version of a kind the API server serves, if any: whoever has not installed the routes of Gateway API, or our own
//! kinds, has none of them.

use kube::Client;
use kube::api::ApiResource;

use super::{KubeError, call};
use crate::object::ObjectKind;

/// A kind in the version that is served, the preferred one of those that are understood; `None` when it is not served.
///
/// # Errors
/// When the API server does not say.
pub async fn served(client: &Client, kind: ObjectKind) -> Result<Option<ApiResource>, KubeError> {
    for version in kind.versions() {
        if is_built_in(kind) || serves(client, kind, version).await? {
            return Ok(Some(resource(kind, version)));
        }
    }
    Ok(None)
}

/// Whether every API server has it.
const fn is_built_in(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Namespace | ObjectKind::Service | ObjectKind::Pod | ObjectKind::EndpointSlice)
}

async fn serves(client: &Client, kind: ObjectKind, version: &str) -> Result<bool, KubeError> {
    let group_version = format!("{}/{version}", kind.group());
    match call(client.list_api_group_resources(&group_version)).await {
        Ok(list) => Ok(list.resources.iter().any(|one| one.name == kind.plural())),
        Err(error) if error.code() == Some(404) => Ok(false),
        Err(error) => Err(error),
    }
}

fn resource(kind: ObjectKind, version: &str) -> ApiResource {
    let group = kind.group();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.as_str().to_owned(),
        plural: kind.plural().to_owned(),
    }
}
