use outrider_proto::outrider::identity::v1::RevocationList;
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::compile::Mesh;
use crate::object::{AnyObject, Key, ObjectKind, Place};
use crate::proxy_info::{Dialect, ProxyInfo};
use crate::snapshot::{Kind, Snapshot};

fn objects(all: &[(&str, serde_json::Value)]) -> Arc<Objects> {
    let mut objects = Objects::default();
    for (name, spec) in all {
        let object = json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Revocation",
            "metadata": {"name": name}, "spec": spec});
        objects.insert(AnyObject::from_value(object, &Place::default()).unwrap());
    }
    Arc::new(objects)
}

fn told(mesh: &Mesh, dialect: Dialect) -> Snapshot {
    mesh.snapshot(&ProxyInfo { id: "p".into(), namespace: "shop".into(), dialect, ..ProxyInfo::default() })
}

#[test]
fn all_of_our_proxies_are_told_all_of_it_and_others_nothing() {
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let mesh = Mesh::new(&objects(&[
        ("stolen", json!({"identities": [cart], "serialNumbers": ["0A:ff"], "reason": "a laptop was lost"})),
        ("old", json!({"serialNumbers": ["7"]})),
    ]));
    let snapshot = told(&mesh, Dialect::Outrider);
    let lists = snapshot.kind(Kind::Revocations).unwrap();
    assert_eq!(lists.keys().map(|name| &**name).collect::<Vec<_>>(), ["old", "stolen"]);
    let list = RevocationList::decode(lists["stolen"].body.clone()).unwrap();
    assert_eq!((list.spiffe_ids, list.serial_numbers), (vec![cart.to_owned()], vec!["0A:ff".to_owned()]));
    assert_eq!(&**lists["stolen"].origin.first(), "Revocation//stolen");
    for other in [Dialect::Envoy, Dialect::Grpc] {
        assert!(told(&mesh, other).kind(Kind::Revocations).is_none());
    }
    // What has not changed is the same, and a removed one is gone.
    let again = mesh.update(objects(&[("old", json!({"serialNumbers": ["7"]}))]));
    let (one, two) = (told(&again, Dialect::Outrider), again.update(Arc::clone(again.objects())));
    assert_eq!(one.kind(Kind::Revocations).unwrap().len(), 1);
    let two = told(&two, Dialect::Outrider);
    assert!(Arc::ptr_eq(&one.shared(Kind::Revocations), &two.shared(Kind::Revocations)));
}

#[test]
fn an_entry_that_does_not_do_what_it_says_is_named() {
    let own = "spiffe://cluster.local/ns/outrider-system/sa/outrider-control";
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let others: Vec<_> = (0..5).map(|number| format!("spiffe://elsewhere/vm/{number}")).collect();
    let all = objects(&[
        ("own", json!({"identities": [own, cart]})),
        ("others", json!({"identities": others})),
        ("good", json!({"identities": [cart]})),
    ]);
    let mesh = Mesh::new(&all);
    let of = |name: &str| {
        let status = mesh.statuses().of(&Key::new(ObjectKind::Revocation, "", name)).unwrap();
        let said = status.parents[""].iter().filter(|one| one.kind != ConditionKind::ResolvedRefs);
        said.map(|one| format!("{} {} {}", one.kind.as_str(), one.holds, one.message)).collect::<Vec<_>>()
    };
    assert_eq!(of("good"), ["Accepted true "]);
    assert!(of("own")[1].starts_with(&format!("PartiallyInvalid true {own} is the control server's own")));
    assert_eq!(
        of("others")[1],
        "PartiallyInvalid true spiffe://elsewhere/vm/0, spiffe://elsewhere/vm/1, spiffe://elsewhere/vm/2 and 2 more: not of the \
         mesh's trust domain cluster.local; it only means something to proxies that trust the other one"
    );
    let snapshot = told(&mesh, Dialect::Outrider);
    let lists = snapshot.kind(Kind::Revocations).unwrap();
    let list = |name: &str| RevocationList::decode(lists[name].body.clone()).unwrap().spiffe_ids;
    assert_eq!(list("own"), [cart]);
    assert_eq!(list("others"), others);
    let revoked = mesh.settings().revoked(&all);
    assert!(revoked.identity(&crate::auth::parse(cart).unwrap()).is_some());
    assert!(revoked.identity(&crate::auth::parse(own).unwrap()).is_none());
}
