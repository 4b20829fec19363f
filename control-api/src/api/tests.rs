use std::collections::{BTreeMap, BTreeSet};

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;

use super::*;
use crate::ca::state::StateDir;
use crate::compile::Settings;
use crate::proxy_info::ProxyInfo;
use crate::serve::{Answer as Told, Item, Standing};
use crate::snapshot::Kind;
use crate::snapshots::Snapshots as _;
use crate::source::files::Directory;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec: {address: 10.0.1.1, service: web, serviceAccount: web, ports: [{name: http, port: 80}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {name: bad, namespace: shop}
spec: {address: nowhere}
";

fn api() -> (Api, crate::registry::Connection) {
    let scratch = crate::ca::testing::Scratch::new("api");
    std::fs::write(scratch.path().join("web.yaml"), WEB).unwrap();
    let view = Directory::new(scratch.path()).scan().unwrap();
    let registry = Arc::new(Registry::default());
    let engine = Arc::new(Engine::new(
        Settings::default(),
        &view,
        Arc::clone(&registry),
        &crate::compile::model::InMesh::new(),
        Arc::default(),
    ));
    let info = Arc::new(ProxyInfo { id: "p/1".into(), namespace: "shop".into(), ..ProxyInfo::default() });
    let connection = registry.connect(&info, "delta");
    let told = engine.snapshot(&info).shared(Kind::Cluster);
    let items = told
        .iter()
        .map(|(name, one)| Item { name: Arc::clone(name), version: Some(Arc::clone(&one.version)) });
    let name = "outbound|80||web.shop";
    let answer = Told {
        kind: Kind::Cluster,
        nonce: "1".into(),
        error: Some(format!("{name}: lb_policy: not supported")),
        items: items.collect(),
        lapsed: Vec::new(),
    };
    connection.answered(&answer);
    let standing = Standing { told, wildcard: true, named: Arc::default(), settled: true };
    connection.standing(std::iter::once((Kind::Cluster, standing)));
    let recorder = PrometheusBuilder::new().build_recorder().handle();
    let state = StateDir::open(&scratch.path().join("state")).unwrap();
    let operator = OperatorToken::open(&state).unwrap();
    (Api { engine, registry, recorder, operator }, connection)
}

/// The answer to a change, without waiting for anybody to compile it.
fn answered(done: Done, api: &Api) -> Answer {
    match done {
        Done::Answered(answer) => answer,
        Done::Changed(_) => faults::all(api),
    }
}

fn ask(api: &Api, path: &str) -> Value {
    let answer = route(&Query::new(&path.parse().unwrap()), api);
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn objects_say_what_became_of_them() {
    let (api, _connection) = api();
    let all = ask(&api, "/api/v1/status");
    assert_eq!(all["objects"].as_array().unwrap().len(), 3);
    assert_eq!(all["problems"][0]["object"], "Workload/shop/bad");
    let web = ask(&api, "/api/v1/status/Service/shop/web");
    let programmed =
        web["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Programmed").unwrap();
    assert_eq!((&programmed["status"], &programmed["reason"]), (&"False".into(), &"Rejected".into()));
    let message = programmed["message"].as_str().unwrap();
    assert_eq!(
        message,
        "acknowledged by 0 of 1 proxies; rejected by p/1: outbound|80||web.shop: lb_policy: not supported"
    );
    let bad = ask(&api, "/api/v1/status/Workload/shop/bad");
    assert_eq!(bad["conditions"][0]["status"], "False");
    assert!(bad["conditions"][0]["message"].as_str().unwrap().contains("address"), "{bad}");
}

#[test]
fn what_nobody_wrote_is_shown_when_it_is_refused() {
    let (api, _connection) = api();
    let key = "/api/v1/status/Mesh//outbound";
    assert_eq!(route(&Query::new(&key.parse().unwrap()), &api).status, StatusCode::NOT_FOUND);
    let info = Arc::new(ProxyInfo { id: "q".into(), namespace: "shop".into(), ..ProxyInfo::default() });
    let connection = api.registry.connect(&info, "delta");
    let listener = crate::snapshot::Resource {
        version: "1".into(),
        body: bytes::Bytes::new(),
        origin: "Mesh//outbound".into(),
    };
    let told = Arc::new(crate::snapshot::Resources::from([("outbound".into(), listener)]));
    let standing = Standing { told, wildcard: true, named: Arc::default(), settled: false };
    connection.standing(std::iter::once((Kind::Listener, standing)));
    connection.answered(&Told {
        kind: Kind::Listener,
        nonce: "1".into(),
        error: Some("outbound: no room".into()),
        items: vec![Item { name: "outbound".into(), version: Some("1".into()) }],
        lapsed: Vec::new(),
    });
    let one = ask(&api, key);
    assert_eq!((&one["key"], &one["refused"]), (&"Mesh//outbound".into(), &1.into()));
    assert_eq!(one["conditions"][0]["reason"], "Rejected", "{one}");
    assert!(one["conditions"][0]["message"].as_str().unwrap().ends_with("rejected by q: outbound: no room"));
    let all = ask(&api, "/api/v1/status");
    assert_eq!(all["objects"].as_array().unwrap().last().unwrap(), &one);
}

#[test]
fn proxies_and_their_resources_are_shown() {
    let (api, _connection) = api();
    let all = ask(&api, "/api/v1/proxies");
    assert_eq!((&all["proxies"][0]["id"], &all["proxies"][0]["refuses"]), (&"p/1".into(), &true.into()));
    let one = ask(&api, "/api/v1/proxies/p%2F1?kind=cluster");
    assert_eq!((&one["settled"], one["config_hash"].as_str().unwrap().len()), (&false.into(), 32));
    let web = one["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "outbound|80||web.shop")
        .unwrap();
    assert_eq!((&web["state"], &web["origin"]), (&"refused".into(), &"Service/shop/web".into()));
    let config = ask(&api, "/api/v1/proxies/p%2F1/config?name=outbound%7C80%7C%7Cweb.shop");
    assert_eq!(config["resources"][0]["resource"]["name"], "outbound|80||web.shop");
    assert_eq!(ask(&api, "/api/v1/services")["services"][0]["ports"][0]["endpoint_count"], 1);
    let web = ask(&api, "/api/v1/services/shop/web");
    let endpoint = &web["ports"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], "10.0.1.1:80");
    assert_eq!(endpoint["identity"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(ask(&api, "/api/v1/workloads")["workloads"], Value::Array(Vec::new()));
    let of =
        |kind: &str| ask(&api, &format!("/api/v1/proxies/p%2F1/config?kind={kind}"))["resources"].clone();
    assert_eq!(of("clusters"), of("cluster"));
    assert!(!of("clusters").as_array().unwrap().is_empty() && of("routes").as_array().unwrap().is_empty());
    let asked = |path: &str| {
        let answer = route(&Query::new(&path.parse().unwrap()), &api);
        (answer.status.as_u16(), answer.body)
    };
    let (status, said) = asked("/api/v1/proxies/p%2F1/config?kind=foo");
    assert!(status == 400 && said.starts_with("kind: there is no `foo`; there are "), "{said}");
    let other = ProxyInfo { id: "p/1".into(), namespace: "shop".into(), ..ProxyInfo::default() };
    let other = api.registry.connect(&Arc::new(ProxyInfo { service_account: "b".into(), ..other }), "delta");
    let (status, said) = asked("/api/v1/proxies/p%2F1/config");
    assert!(
        status == 409 && said.ends_with("which one, by namespace and service_account? shop/, shop/b\n"),
        "{said}"
    );
    assert_eq!(asked("/api/v1/proxies/p%2F1?service_account=b").0, 200);
    drop(other);
    let (status, said) = asked("/api/v1/proxies/none/config");
    assert_eq!((status, said.as_str()), (404, "no proxy `none` is known; `outrider proxies` lists them\n"));
    for path in ["/api/v1/proxies/none", "/api/v1/services/shop/none", "/api/v1/status/Service/a/b", "/x"] {
        assert_eq!(route(&Query::new(&path.parse().unwrap()), &api).status, StatusCode::NOT_FOUND);
    }
}

#[test]
fn the_description_and_the_help_name_every_page() {
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    let operations: BTreeMap<String, serde_json::Map<String, Value>> =
        serde_json::from_value(described["paths"].clone()).unwrap();
    let described: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
    let helped: BTreeSet<_> = HELP.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(described.len(), helped.len());
    let (api, _connection) = api();
    for path in described {
        let asked = path
            .replace("{kind}", "Service")
            .replace("{namespace}", "shop")
            .replace("{name}", "web")
            .replace("{id}", "p%2F1");
        let query = Query::new(&asked.parse().unwrap());
        let answers = match operations.get(path).unwrap().contains_key("get") {
            true => route(&query, &api).status == StatusCode::OK,
            false => {
                answered(change(&query, &HeaderMap::new(), "", &api), &api).status
                    != StatusCode::METHOD_NOT_ALLOWED
            }
        };
        assert!(answers, "{path}");
        let upper =
            path.replace("{kind}", "KIND").replace("{namespace}", "NAMESPACE").replace("{name}", "NAME");
        assert!(helped.contains(&&*upper.replace("{id}", "ID")), "{path}");
    }
}

#[test]
fn the_mesh_is_shown_on_loopback_and_to_no_web_page() {
    let ask = |method: Method, path: &str, header: Option<(&'static str, &'static str)>, peer: &str| {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let query = Query::new(&path.parse().unwrap());
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        refused(&method, &headers, (&query, peer)).map_or(StatusCode::OK, |answer| answer.status)
    };
    let (status, local, far) = ("/api/v1/status", "127.0.0.1", "10.0.0.1");
    for (method, path, header, peer, expected) in [
        (Method::GET, status, None, local, StatusCode::OK),
        (Method::GET, status, None, "::ffff:127.0.0.1", StatusCode::OK),
        (Method::GET, status, Some(("host", "localhost:1")), local, StatusCode::OK),
        (Method::GET, status, Some(("host", "[::1]:1")), local, StatusCode::OK),
        (Method::GET, status, Some(("host", "rebound.example:1")), local, StatusCode::FORBIDDEN),
        (Method::GET, status, Some(("origin", "null")), local, StatusCode::FORBIDDEN),
        (Method::GET, status, None, far, StatusCode::FORBIDDEN),
        (Method::GET, "/readyz", None, far, StatusCode::OK),
        (Method::GET, "/metrics", None, far, StatusCode::OK),
        (Method::PUT, "/readyz", None, local, StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/api/v1/faults/stop", None, local, StatusCode::OK),
        (Method::POST, "/api/v1/faults/stop", None, far, StatusCode::FORBIDDEN),
        (Method::POST, "/readyz", None, far, StatusCode::FORBIDDEN),
        (Method::POST, "/api/v1/faults/stop", Some(("origin", "null")), local, StatusCode::FORBIDDEN),
    ] {
        assert_eq!(ask(method, path, header, peer), expected, "{path} {header:?} {peer}");
    }
}

#[tokio::test]
async fn anybody_here_may_stop_faults_and_the_operator_alone_begins_them() {
    let (api, _connection) = api();
    let change = |path: &str, token: bool, body: &str| {
        let mut headers = HeaderMap::new();
        let token = if token { api.operator.header() } else { "Bearer guessed".to_owned() };
        headers.insert("authorization", token.parse().unwrap());
        let answer = answered(change(&Query::new(&path.parse().unwrap()), &headers, body, &api), &api);
        (answer.status.as_u16(), answer.body)
    };
    let fault = "apiVersion: mesh.outrider.dev/v1alpha1\nkind: FaultInjection\n\
                 metadata: {name: f}\nspec: {direction: Inbound, refuse: {}}";
    let faults = "/api/v1/faults";
    assert_eq!(change(faults, false, fault).0, 401);
    assert_eq!(change("/api/v1/faults/resume", false, "").0, 401);
    assert_eq!(change("/api/v1/status", true, fault).0, 405);
    for (body, reason) in [
        ("", "there is no FaultInjection"),
        (WEB, "Service/shop/web is no FaultInjection"),
        (&*fault.replace("refuse", "refute"), "spec.refute: unknown field"),
        ("{", "line 1: "),
    ] {
        let (status, answer) = change(faults, true, body);
        assert!(status == 422 && answer.contains(reason), "{status} {answer}");
    }
    assert_eq!(change(faults, true, fault).0, 200);
    assert_eq!(api.engine.experiments().in_force().over.len(), 0);
    assert_eq!(change("/api/v1/faults/default/g/stop", false, "").0, 404);
    assert_eq!(change("/api/v1/faults/default/f/stop", false, "").0, 200);
    let (status, answer) = change("/api/v1/faults/stop", false, "");
    assert!(status == 200 && answer.contains("\"stopped\":true"), "{answer}");
    assert_eq!(change(faults, true, fault).0, 409);
    assert_eq!(ask(&api, faults)["stopped"], true);
    assert_eq!(change("/api/v1/faults/resume", true, "").0, 200);
    assert_eq!(ask(&api, faults)["stopped"], false);
}
