//! The sidecar's start-up file: where its control server is, and the listeners that answer the kubelet and Prometheus.

use serde_json::{Value, json};

use super::names::{ADMIN_PORT, METRICS_PORT, MOUNT, READY_PORT};
use super::probes::{GrpcProbe, HttpProbe, Probes, TcpProbe};
use super::settings::{Families, Settings};

/// The operator's endpoints as a cluster.
const ADMIN: &str = "outrider-admin";
/// The route that says no more than that it is there.
const ALIVE: &str = "/app-alive";
/// How long an answer of the operator's endpoints may take.
const ADMIN_TIMEOUT: &str = "5s";
/// How long the application may take to accept the connection of a probe.
const CONNECT_TIMEOUT: &str = "1s";
/// The method of gRPC's health protocol that probes call.
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The file, in Envoy's form. The node's id comes from the environment, because pods have no name yet when they are
/// admitted; namespace and service account are what the token proves.
pub(super) fn bootstrap(settings: &Settings, probes: &Probes) -> Value {
    let mut clusters = vec![control(settings), local(ADMIN, ADMIN_PORT)];
    clusters.extend(probes.http.iter().map(|probe| local(&http_cluster(probe), probe.port)));
    clusters.extend(probes.tcp.iter().map(watched));
    for GrpcProbe { port, .. } in &probes.grpc {
        let mut cluster = local(&grpc_cluster(*port), *port);
        cluster["typed_extension_protocol_options"] = http2();
        clusters.push(cluster);
    }
    clusters.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    clusters.dedup_by(|a, b| a["name"] == b["name"]);
    let (host, port) = &settings.control;
    json!({
        "node": {"cluster": "outrider"},
        "admin": {"address": address("127.0.0.1", ADMIN_PORT)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control"}}],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"listeners": listeners(settings, probes), "clusters": clusters},
        "outrider": {"on_demand": {}, "identity": {"control": {
            "address": format!("https://{host}:{port}"),
            "server_name": host,
            "token_file": format!("{MOUNT}/token"),
            "ca_file": format!("{MOUNT}/roots.pem"),
        }}},
    })
}

fn listeners(settings: &Settings, probes: &Probes) -> Vec<Value> {
    let mut routes = vec![route("/ready", ADMIN, "/ready", ADMIN_TIMEOUT)];
    for probe in &probes.http {
        let timeout = format!("{}s", probe.timeout_s);
        let mut route = route(&probe.outside, &http_cluster(probe), &probe.inside, &timeout);
        // The application may look at the name by which the kubelet calls it.
        if let Some(action) = route["route"].as_object_mut() {
            action.remove("host_rewrite_literal");
        }
        routes.push(route);
    }
    if !probes.tcp.is_empty() {
        let here = json!({"path": ALIVE});
        routes.push(json!({"match": here, "direct_response": {"status": 200}}));
    }
    for probe in &probes.tcp {
        routes.push(route(&probe.outside, &tcp_cluster(probe), ALIVE, ADMIN_TIMEOUT));
    }
    let mut all = vec![
        listener(settings, ("ready", READY_PORT), &routes, "AUTO"),
        listener(
            settings,
            ("metrics", METRICS_PORT),
            &[route("/metrics", ADMIN, "/metrics", ADMIN_TIMEOUT)],
            "AUTO",
        ),
    ];
    for GrpcProbe { outside, port } in &probes.grpc {
        let name = format!("grpc-probe-{port}");
        let routes = [route(GRPC_CHECK, &grpc_cluster(*port), GRPC_CHECK, ADMIN_TIMEOUT)];
        all.push(listener(settings, (&name, *outside), &routes, "HTTP2"));
    }
    all
}

fn listener(settings: &Settings, (name, port): (&str, u16), routes: &[Value], codec: &str) -> Value {
    let mut bind = match settings.families {
        Families::Ipv4 => address("0.0.0.0", port),
        Families::Dual | Families::Ipv6 => address("::", port),
    };
    if settings.families == Families::Dual {
        bind["socket_address"]["ipv4_compat"] = true.into();
    }
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": codec,
        "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    json!({"name": format!("outrider-{name}"), "address": bind, "filter_chains": [{"filters": [filter]}]})
}

fn route(path: &str, cluster: &str, inside: &str, timeout: &str) -> Value {
    let mut action = json!({"cluster": cluster, "timeout": timeout, "host_rewrite_literal": "localhost"});
    if path != inside {
        action["prefix_rewrite"] = inside.into();
    }
    json!({"match": {"path": path}, "route": action})
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn local(name: &str, port: u16) -> Value {
    cluster(name, "STATIC", json!({"address": address("127.0.0.1", port)}))
}

fn cluster(name: &str, kind: &str, endpoint: Value) -> Value {
    json!({
        "name": name,
        "type": kind,
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    })
}

fn http2() -> Value {
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({name: {
        "@type": format!("type.googleapis.com/{name}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }})
}

/// The control server: only one with its identity, under the roots that the sidecar was given.
fn control(settings: &Settings) -> Value {
    let (host, port) = &settings.control;
    let mut cluster = cluster("control", "STRICT_DNS", json!({"address": address(host, *port)}));
    if host.parse::<std::net::IpAddr>().is_ok() {
        cluster["type"] = "STATIC".into();
    }
    cluster["typed_extension_protocol_options"] = http2();
    cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "default"}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": settings.control_identity()}},
                ]},
                "validation_context_sds_secret_config": {"name": "ROOTCA"},
            },
        },
    }});
    cluster
}

fn http_cluster(probe: &HttpProbe) -> String {
    format!("probe-http-{}", probe.port)
}

fn grpc_cluster(port: u16) -> String {
    format!("probe-grpc-{port}")
}

fn tcp_cluster(probe: &TcpProbe) -> String {
    format!("probe-tcp-{}", probe.outside.trim_start_matches(super::probes::PREFIX).replace('/', "-"))
}

/// A cluster that answers from the sidecar itself, as long as the application's port is open.
fn watched(probe: &TcpProbe) -> Value {
    let endpoint = json!({
        "address": address("127.0.0.1", READY_PORT),
        "health_check_config": {"port_value": probe.port},
    });
    let mut cluster = cluster(&tcp_cluster(probe), "STATIC", endpoint);
    // Half as often as the kubelet looks would tell it what was, not what is.
    let interval = format!("{}s", probe.period_s.div_ceil(2));
    cluster["health_checks"] = json!([{
        "timeout": format!("{}s", probe.timeout_s),
        "interval": interval,
        "no_traffic_interval": interval,
        "unhealthy_interval": "1s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "tcp_health_check": {},
    }]);
    cluster["common_lb_config"] = json!({"healthy_panic_threshold": {"value": 0}});
    cluster
}
