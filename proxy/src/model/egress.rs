//! The egress guard: `outrider.egress.v1.EgressGuard`.

use outrider_proto::Path;
use outrider_proto::outrider::egress::v1 as pb;

use super::parse;
use crate::policy::egress::{Destinations, EgressGuard, Mode};

/// Entries of one list.
const MAX_DESTINATIONS: usize = 1_000;

pub(super) fn compile(value: &pb::EgressGuard, path: &mut Path) -> Option<EgressGuard> {
    let mut list = |values: &[pb::Destinations], name| {
        if values.len() > MAX_DESTINATIONS {
            path.fault_at(name, format!("more than {MAX_DESTINATIONS} entries"));
        }
        let each = values.iter().enumerate();
        let each = each.map(|(index, value)| path.item(name, index, |path| destinations(value, path)));
        each.collect::<Option<Vec<_>>>()
    };
    let (allow, refuse) = (list(&value.allow, "allow"), list(&value.refuse, "refuse"));
    Some(EgressGuard {
        unknown: mode(value.unknown()),
        protected: mode(value.protected()),
        allow: allow?,
        refuse: refuse?,
    })
}

const fn mode(value: pb::egress_guard::Mode) -> Mode {
    match value {
        pb::egress_guard::Mode::Refuse => Mode::Refuse,
        pb::egress_guard::Mode::Record => Mode::Record,
        pb::egress_guard::Mode::Pass => Mode::Pass,
    }
}

fn destinations(value: &pb::Destinations, path: &mut Path) -> Option<Destinations> {
    let name = parse::required(&value.name, "name", path);
    if value.addresses.is_empty() && value.ports.is_empty() {
        return path.refuse("neither addresses nor ports; for all destinations use 0.0.0.0/0 and ::/0");
    }
    let addresses = value.addresses.iter().enumerate();
    let addresses: Option<Vec<_>> = addresses
        .map(|(index, range)| path.item("addresses", index, |path| parse::ip_range(range, path)))
        .collect();
    let ports = value.ports.iter().enumerate();
    let ports: Option<Vec<_>> =
        ports.map(|(index, range)| path.item("ports", index, |path| parse::ports(*range, path))).collect();
    Some(Destinations { name: name?, addresses: addresses?, ports: ports? })
}
