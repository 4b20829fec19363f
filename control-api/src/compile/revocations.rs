//! `Revocation`: what proxies are told of who is cut off. All of ours are told all of it, alike.

use std::sync::Arc;

use outrider_proto::fault as faulty;
use outrider_proto::outrider::identity::v1 as pb;

use super::status::{ConditionKind, Statuses};
use super::{Settings, wire};
use crate::auth::trust_domain_of;
use crate::object::revocation::Revocation;
use crate::object::{Object, Objects};
use crate::revoked::Revoked;
use crate::snapshot::{Origin, Resource, Resources};

/// The reason where entries are of another trust domain: in force, and perhaps a mistake.
pub const OTHER_TRUST_DOMAIN: &str = "OtherTrustDomain";
/// The service account of the control server.
pub const SERVICE_ACCOUNT: &str = "outrider-control";
/// Entries that a message about them names.
const NAMED: usize = 3;

impl Settings {
    /// The control server's own identity. It cannot be cut off: nobody could let it in again.
    #[must_use]
    pub fn own_identity(&self) -> Arc<str> {
        self.identity(&self.root_namespace, SERVICE_ACCOUNT)
    }

    /// Who is cut off.
    #[must_use]
    pub fn revoked(&self, objects: &Objects) -> Revoked {
        Revoked::of(objects, &self.own_identity())
    }
}

/// A list for each object; the ones before, made of which objects, if they are the same.
pub(super) fn lists(
    (objects, settings): (&Objects, &Settings),
    old: Option<(&Objects, &Arc<Resources>)>,
    statuses: &mut Statuses,
) -> Arc<Resources> {
    let again = |object: &Arc<Object<Revocation>>| {
        let (before, lists) = old?;
        let same = before.revocations.get(&object.key).is_some_and(|before| Arc::ptr_eq(before, object));
        lists.get(&object.key.name).filter(|_| same).cloned()
    };
    let own = settings.own_identity();
    let mut all = Resources::new();
    for object in objects.revocations.values() {
        report(object, (&settings.trust_domain, &own), statuses);
        match again(object).map_or_else(|| list(object, &own), Ok) {
            Ok(resource) => {
                statuses.accept(&object.key, "");
                all.insert(Arc::clone(&object.key.name), resource);
            }
            Err(reasons) => {
                statuses.refuse((&object.key, ""), ConditionKind::Accepted, "UnsupportedValue", &reasons);
            }
        }
    }
    let same = old.map(|(_, lists)| lists).filter(|lists| ***lists == all).cloned();
    same.unwrap_or_else(|| Arc::new(all))
}

fn list(object: &Object<Revocation>, own: &str) -> Result<Resource, String> {
    let identities = object.spec.identities.iter().filter(|one| **one != *own);
    let message = pb::RevocationList {
        name: object.key.name.to_string(),
        spiffe_ids: identities.cloned().collect(),
        serial_numbers: object.spec.serial_numbers.clone(),
    };
    wire::resource(&message, &Origin::of(&object.key)).map_err(|faults| faulty::joined(&faults))
}

/// Says which entries do nothing, or not what somebody may believe.
fn report(object: &Object<Revocation>, (mesh, own): (&str, &str), statuses: &mut Statuses) {
    let mut say = |reason, message: String| {
        statuses.refuse((&object.key, ""), ConditionKind::PartiallyInvalid, reason, &message);
    };
    let identities = &object.spec.identities;
    if identities.iter().any(|one| *one == *own) {
        say(
            "ControlServer",
            format!("{own} is the control server's own and stays: nobody could let it in again"),
        );
    }
    let foreign: Vec<&str> = identities
        .iter()
        .filter(|one| trust_domain_of(one).is_some_and(|domain| domain != mesh))
        .map(String::as_str)
        .collect();
    if !foreign.is_empty() {
        let named = foreign.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = foreign.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!(
            "{named}{more}: not of the mesh's trust domain {mesh}; it only means something to proxies that trust the other one"
        );
        say(OTHER_TRUST_DOMAIN, message);
    }
}

#[cfg(test)]
mod tests;
