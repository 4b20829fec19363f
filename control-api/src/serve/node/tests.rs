use prost_types::Value as Any;

use super::*;
use crate::auth::{Place, parse};

fn value(kind: Value) -> Any {
    Any { kind: Some(kind) }
}

fn string(text: &str) -> Any {
    value(Value::StringValue(text.into()))
}

fn node(fields: Vec<(&str, Any)>) -> Node {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Node { id: "web-1".into(), metadata: Some(Struct { fields }), ..Node::default() }
}

fn proved() -> Caller {
    let place = Place::At([10, 0, 0, 7].into());
    Caller { identity: parse("spiffe://a/ns/shop/sa/cart"), expires: None, serial: None, place }
}

fn unproved() -> Caller {
    Caller { identity: None, expires: None, serial: None, place: Place::Anywhere }
}

#[test]
fn a_workload_says_where_it_serves() {
    let named = Struct {
        fields: [("name".to_owned(), string("http")), ("port".to_owned(), value(Value::NumberValue(8080.0)))]
            .into(),
    };
    let ports = vec![value(Value::NumberValue(80.0)), value(Value::StructValue(named))];
    let labels = Struct { fields: [("app".to_owned(), string("web"))].into() };
    let mut node = node(vec![
        ("service", string("web")),
        ("address", string("10.0.0.7")),
        ("ports", value(Value::ListValue(ListValue { values: ports }))),
        ("labels", value(Value::StructValue(labels))),
        ("SOMETHING_ELSE", value(Value::BoolValue(true))),
    ]);
    node.user_agent_name = "outrider".into();
    node.client_features = vec!["x".into(), TTL_FEATURE.into()];
    let info = proxy_info(&node, &proved()).unwrap();
    assert_eq!((&*info.namespace, &*info.service_account), ("shop", "cart"));
    assert_eq!((info.service.as_deref(), info.address), (Some("web"), "10.0.0.7".parse().ok()));
    assert!(info.is_there);
    let elsewhere = Caller { place: Place::At([10, 0, 0, 8].into()), ..proved() };
    assert!(!proxy_info(&node, &elsewhere).unwrap().is_there);
    let ports: Vec<_> = info.ports.iter().map(|port| (&*port.name, port.number)).collect();
    assert_eq!(ports, [("", 80), ("http", 8080)]);
    assert_eq!(info.labels.get("app").map(AsRef::as_ref), Some("web"));
    assert_eq!((info.dialect, info.supports_ttl, &*info.workload), (Dialect::Outrider, true, "web-1"));
}

#[test]
fn nobody_is_somebody_else() {
    let other = node(vec![("namespace", string("bank"))]);
    let error = proxy_info(&other, &proved()).unwrap_err().to_string();
    assert!(
        error.contains("namespace") && error.contains("\"bank\"") && error.contains("\"shop\""),
        "{error}"
    );
    let other = node(vec![("service_account", string("admin"))]);
    assert!(matches!(proxy_info(&other, &proved()), Err(NodeError::Other { .. })));
    // Where nobody need prove anything, everybody is believed.
    let info = proxy_info(&node(vec![("namespace", string("bank"))]), &unproved()).unwrap();
    assert_eq!((&*info.namespace, info.identity), ("bank", None));
    assert_eq!(&*proxy_info(&node(vec![]), &unproved()).unwrap().namespace, "default");
}

#[test]
fn what_cannot_be_used_is_named() {
    let number = |number| value(Value::NumberValue(number));
    for (field, bad) in [
        ("namespace", number(1.0)),
        ("namespace", string("../other")),
        ("service", string("a b")),
        ("address", string("localhost")),
        ("labels", string("app")),
        ("ports", string("80")),
        ("ports", value(Value::ListValue(ListValue { values: vec![number(70000.0)] }))),
        ("ports", value(Value::ListValue(ListValue { values: vec![number(80.5)] }))),
    ] {
        let error = proxy_info(&node(vec![(field, bad)]), &unproved()).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
    let nameless = Node::default();
    assert!(proxy_info(&nameless, &unproved()).unwrap_err().to_string().starts_with("node.id"));
}

#[test]
fn the_dialect_is_that_of_the_client() {
    for (user_agent, expected) in [
        ("outrider", Dialect::Outrider),
        ("envoy", Dialect::Envoy),
        ("gRPC C-core", Dialect::Grpc),
        ("grpc-go", Dialect::Grpc),
        ("", Dialect::Envoy),
    ] {
        assert_eq!(dialect(user_agent), expected, "{user_agent}");
    }
}
