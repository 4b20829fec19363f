use super::any::AnyObject;
use super::*;

fn read(text: &str) -> Result<AnyObject, Vec<String>> {
    let value: Value = serde_saphyr::from_str(text).unwrap();
    AnyObject::from_value(value, &Place::default())
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop, creationTimestamp: null, managedFields: [{manager: kubectl}]}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /v2}
      headers: [{name: x-user, value: me}]
      method: GET
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    timeouts: {request: 10s, backendRequest: 1500ms}
    backendRefs: [{name: reviews-v2, port: 80, weight: 10}]
status: {parents: []}
";

#[test]
fn a_route_is_read_whole() {
    let AnyObject::HttpRoute(route) = read(ROUTE).unwrap() else { panic!() };
    assert_eq!(route.key.to_string(), "HTTPRoute/shop/reviews");
    assert!(route.status.is_some());
    let rule = &route.spec.rules[0];
    assert_eq!(rule.timeouts.unwrap().backend_request.unwrap().0.as_millis(), 1500);
    assert_eq!(rule.backend_refs[0].weight, 10);
    assert_eq!(rule.matches[0].method, Some(http_route::Method::Get));
}

#[test]
fn a_fault_names_its_field() {
    let cases = [
        ("port: 80}", "port: 80, prot: 1}", "spec.parentRefs[0].prot: unknown field `prot`"),
        ("value: /v2", "value: v2", "spec.rules[0].matches[0].path.value: must begin with \"/\""),
        ("request: 10s", "request: 10 s", "spec.rules[0].timeouts.request: \"10 s\" is not a duration"),
        ("backendRequest: 1500ms", "backendRequest: 11s", "spec.rules[0].timeouts.backendRequest: longer"),
        ("replacePrefixMatch: /}", "replaceFullPath: /}", "spec.rules[0].filters[0].urlRewrite.path"),
        ("type: URLRewrite", "type: URLRewrites", "spec.rules[0].filters[0].type: unknown variant"),
        ("type: URLRewrite", "type: CORS", "spec.rules[0].filters[0].cors: missing"),
        ("method: GET", "method: GOT", "spec.rules[0].matches[0].method: unknown variant `GOT`"),
        ("name: reviews, namespace", "name: Reviews, namespace", "metadata.name: must be lower-case"),
        ("metadata: {", "metadata: {label: {}, ", "metadata.label: unknown field `label`"),
        ("status:", "stauts:", "stauts: unknown field"),
        ("kind: HTTPRoute", "kind: HttpRoute", "kind: not known here"),
        ("k8s.io/v1", "k8s.io/v1beta1", "apiVersion: the version of HTTPRoute must be v1"),
        ("gateway.networking.k8s.io/", "", "apiVersion: HTTPRoute is of the group"),
    ];
    for (from, to, expected) in cases {
        assert!(ROUTE.contains(from), "{from}");
        let faults = read(&ROUTE.replacen(from, to, 1)).unwrap_err();
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{to}: {faults:?}");
    }
}

#[test]
fn kinds_of_kubernetes_may_hold_fields_that_are_not_known_here() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: http, nodePort: 30000}], sessionAffinity: None}
status: {loadBalancer: {}}
";
    let AnyObject::Service(service) = read(service).unwrap() else { panic!() };
    assert_eq!(service.key.to_string(), "Service/default/a");
    assert_eq!(service.spec.ports[0].target_port, Some(scalar::PortRef::Name("http".into())));
}

#[test]
fn a_pod_has_the_addresses_of_its_status() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {containers: [{name: app, image: x}], initContainers: [{name: outrider-proxy, restartPolicy: Always}]}
status: {podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}, {ip: 'fd00::9'}], phase: Running}
";
    let AnyObject::Pod(pod) = read(pod).unwrap() else { panic!() };
    assert!(pod.spec.has_sidecar());
    assert_eq!(pod.spec.addresses.len(), 2);
    assert_eq!(pod.spec.service_account(), "default");
}

#[test]
fn the_digest_sees_what_matters_and_nothing_else() {
    let digest = |text: &str| *read(text).unwrap().digest();
    assert_eq!(digest(ROUTE), digest(&ROUTE.replace("status: {parents: []}", "")));
    assert_eq!(digest(ROUTE), digest(&ROUTE.replace("manager: kubectl", "manager: other")));
    assert_ne!(digest(ROUTE), digest(&ROUTE.replace("weight: 10", "weight: 11")));
}

/// Specifications of a `FaultInjection` that are not good, and what is said of them.
const FAULTS: &[(&str, &str)] = &[
    ("{direction: Inbound, ttl: 11m, refuse: {}}", "spec.ttl: must be from 1s to 10m"),
    ("{direction: Inbound, ttl: 10ms, refuse: {}}", "spec.ttl: must be from 1s to 10m"),
    ("{direction: Inbound, duration: 25h, refuse: {}}", "spec.duration: must be more"),
    ("{direction: Inbound}", "spec: exactly one of delay, abort"),
    ("{direction: Inbound, refuse: {}, blackhole: {}}", "spec: exactly one of delay"),
    ("{direction: Inbound, refuse: {}, percent: 100.1}", "spec.percent: 100.1 is not"),
    ("{direction: Inbound, refuse: {}, percent: 0.00001}", "spec.percent: "),
    ("{direction: Inbound, refuse: {}, match: {methods: [GET]}}", "spec.match: of a"),
    ("{direction: Inbound, delay: {}}", "spec.delay: exactly one of fixed"),
    ("{direction: Inbound, delay: {fixed: 2h}}", "spec.delay.fixed: longer than"),
    ("{direction: Inbound, delay: {uniform: {min: 2s, max: 1s}}}", "spec.delay.uniform: min is more"),
    ("{direction: Inbound, delay: {pareto: {scale: 1s, shape: 0}}}", "spec.delay.pareto: scale and shape"),
    ("{direction: Inbound, abort: {httpStatus: 500, reset: {}}}", "spec.abort: exactly one of httpStatus"),
    ("{direction: Inbound, abort: {httpStatus: 100}}", "spec.abort.httpStatus: must be"),
    ("{direction: Inbound, abort: {grpc: {status: 14, message: '%'}}}", "spec.abort.grpc.message: must be"),
    ("{direction: Inbound, bandwidth: {}}", "spec.bandwidth: one of the directions"),
    ("{direction: Inbound, corrupt: {oneInBytes: 0}}", "spec.corrupt.oneInBytes: must"),
    ("{direction: Inbound, drip: {chunkBytes: 0, interval: 1s}}", "spec.drip: chunkBytes"),
    (
        "{direction: Inbound, blackhole: {}, match: {services: [{name: a}]}}",
        "spec.match.services: services and routes are",
    ),
    (
        "{direction: Outbound, blackhole: {}, match: {endpoints: [10.0.0.1]}}",
        "spec.match.endpoints: with Upstream only",
    ),
    ("{direction: Upstream, blackhole: {}, match: {endpoints: [a]}}", "spec.match.endpoints[0]: must be IP"),
    (
        "{direction: Upstream, blackhole: {}, match: {identities: [a]}}",
        "spec.match.identities[0]: must begin",
    ),
    ("{direction: Upstream, blackhole: {}, match: {path: 'a*b'}}", "spec.match.path: must begin"),
    ("{direction: Upstream, blackhole: {}, ramp: {over: 0s}}", "spec.ramp.over: must"),
];

#[test]
fn our_kinds_are_checked_beyond_their_shape() {
    let cases = [
        ("Workload", "{address: 10.0.0.1, ports: [{port: 0}]}", "spec.ports[0].port: must be"),
        (
            "Workload",
            "{address: 10.0.0.1, upstreams: [{service: a, port: 1, bind: '0.0.0.0:1'}]}",
            "spec.upstreams[0].bind: must be a loopback",
        ),
        ("Workload", "{address: 10.0.0.1, port: [{}]}", "spec.port: unknown field"),
        ("TrafficPolicy", "{targetRefs: []}", "spec.targetRefs: from 1 to 16"),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], loadBalancer: {policy: Random, choices: 3}}",
            "spec.loadBalancer.choices: goes with",
        ),
        ("AuthorizationPolicy", "{}", "spec.rules: the policy says nothing"),
        ("AuthorizationPolicy", "{action: Deny}", "spec.rules: a Deny policy without rules"),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{ipBlocks: [10.0.0.0/33]}]}]}",
            "spec.rules[0].from[0].ipBlocks[0]: \"10.0.0.0/33\" is not",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{to: [{paths: ['/a*b']}]}]}",
            "spec.rules[0].to[0].paths[0]: must begin",
        ),
        (
            "AuthorizationPolicy",
            "{rules: [{from: [{identities: ['cluster.local/sa']}]}]}",
            "spec.rules[0].from[0].identities[0]: must begin with spiffe://",
        ),
        ("EgressPolicy", "{allow: [{ports: [1]}]}", "spec.allow[0]: exactly one of"),
        ("EgressPolicy", "{allow: [{host: 169.254.169.254}]}", "spec.allow[0].host: ends with a number"),
        ("EgressPolicy", "{allow: [{host: a.0xa9}]}", "spec.allow[0].host: ends with a number"),
    ];
    refused(&cases);
    let faults: Vec<_> = FAULTS.iter().map(|(spec, expected)| ("FaultInjection", *spec, *expected)).collect();
    refused(&faults);
}

#[test]
fn what_does_not_go_together_in_a_traffic_policy_is_refused() {
    refused(&[
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], loadBalancer: {policy: Random, hash: [{header: a}]}}",
            "spec.loadBalancer.hash: goes with",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], loadBalancer: {policy: Maglev, hash: [{header: a, cookie: b}]}}",
            "spec.loadBalancer.hash[0]: exactly one of",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], loadBalancer: {policy: Maglev, hash: [{header: 'a b'}]}}",
            "spec.loadBalancer.hash[0].header: must be a token",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], retries: {attempts: 1, hedge: true}}",
            "spec.retries.hedge: needs perTryTimeout",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], retries: {attempts: 1, budget: {percent: 20}}, circuitBreaker: {maxRetries: 3}}",
            "spec.circuitBreaker.maxRetries: does not go with",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], healthCheck: {interval: 1s}}",
            "spec.healthCheck: exactly one of",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], healthCheck: {http: {path: up}}}",
            "spec.healthCheck.http.path: must begin",
        ),
        (
            "TrafficPolicy",
            "{targetRefs: [{name: a}], shedding: {percentile: 60}}",
            "spec.shedding.percentile: must be from",
        ),
    ]);
}

/// Each spec of a kind has a fault that begins so.
fn refused(cases: &[(&str, &str, &str)]) {
    for (kind, spec, expected) in cases {
        let text = format!(
            "apiVersion: mesh.outrider.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}"
        );
        let faults = read(&text).unwrap_err();
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{spec}: {faults:?}");
    }
}

#[test]
fn durations_are_those_of_gateway_api() {
    let parse = |text: &str| text.parse::<scalar::Span>().ok().map(|span| span.0.as_millis());
    assert_eq!(parse("1h30m"), Some(5_400_000));
    assert_eq!(parse("500ms"), Some(500));
    assert_eq!(parse("0s"), Some(0));
    for text in ["", "s", "1", "1.5s", "-1s", "100000s", "1h1m1s1ms1ms", "1 s"] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn a_type_that_does_not_fit_is_said_in_words_of_yaml() {
    for (spec, expected) in [
        (
            "{address: 10.0.0.1, weight: many}",
            "spec.weight: invalid type: string \"many\", expected a whole number from 0 to 4294967295",
        ),
        ("{address: 10.0.0.1, ports: 80}", "spec.ports: invalid type: integer `80`, expected a list"),
        ("3", "spec: invalid type: integer `3`, expected a mapping of fields"),
    ] {
        refused(&[("Workload", spec, expected)]);
    }
}
