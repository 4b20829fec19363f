use outrider_proto::json;

use super::*;

fn compiled(yaml: &str) -> Result<Injection, Vec<String>> {
    let message: pb::FaultInjection = json::from_yaml(yaml).unwrap();
    compile(&message).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn fault(yaml: &str) -> Arc<Leased> {
    match compiled(&format!("{{name: f, fault: {{{yaml}}}}}")).unwrap() {
        Injection::Fault(fault) => fault,
        Injection::Guard(_) => panic!("a fault"),
    }
}

/// Every field, and what changes when it is set.
#[test]
fn every_field_has_an_effect() {
    let rules = [
        "listeners: [l]",
        "routes: [r]",
        "clusters: [c]",
        "endpoints: ['10.0.0.1:80', '::1']",
        "methods: [GET]",
        "path: {exact: /a}",
        "headers: [{name: a}]",
        "peers: [{exact: 'spiffe://a/b'}]",
        "port: 80",
    ];
    let plain = |text: &str| {
        let mut text = format!("{:?}", fault(&format!("seed: 0, {text}, blackhole: {{}}")));
        text.truncate(text.find("lease:").unwrap());
        text
    };
    let base = plain("place: UPSTREAM");
    for rule in rules {
        assert_ne!(plain(&format!("place: UPSTREAM, match: {{{rule}}}")), base, "{rule}");
    }
    for more in [
        "percentage: {numerator: 1}",
        "ramp: {over: 1s}",
        "ramp: {from: {numerator: 5}, over: 1s}",
        "max_active: 3",
        "per_connection: true",
    ] {
        assert_ne!(plain(&format!("place: UPSTREAM, {more}")), base, "{more}");
    }
    assert_ne!(plain("place: INBOUND"), plain("place: OUTBOUND"));
    assert_eq!(fault("seed: 7, place: INBOUND, refuse: {}").seed, 7);
}

#[test]
fn every_action_is_understood() {
    let second = Duration::from_secs(1);
    for (text, expected) in [
        ("delay: {fixed: 1s}", Action::Delay(Moment::Request, Distribution::Fixed(second))),
        (
            "delay: {uniform: {min: 1s, max: 2s}, moment: BEFORE_RESPONSE}",
            Action::Delay(Moment::Response, Distribution::Uniform(second, 2 * second)),
        ),
        (
            "delay: {normal: {mean: 2s, deviation: 1s}, moment: PER_CHUNK}",
            Action::Delay(Moment::Chunk, Distribution::Normal { mean: 2 * second, deviation: second }),
        ),
        (
            "delay: {pareto: {scale: 1s, shape: 1.5, max: 2s}}",
            Action::Delay(
                Moment::Request,
                Distribution::Pareto { scale: second, shape: 1.5, max: 2 * second },
            ),
        ),
        ("abort: {http_status: 418}", Action::Abort(Abort::Http(StatusCode::IM_A_TEAPOT))),
        ("abort: {grpc: {status: 14, message: no}}", Action::Abort(Abort::Grpc(14, "no".into()))),
        ("abort: {reset: {}}", Action::Abort(Abort::Reset)),
        ("abort: {stream: {code: 7}}", Action::Abort(Abort::Stream(7))),
        ("abort: {go_away: {code: 11}}", Action::Abort(Abort::GoAway(11))),
        ("abort: {close: {}}", Action::Abort(Abort::Close)),
        ("bandwidth: {request_bytes_per_second: 1, response_bytes_per_second: 2}", Action::Bandwidth(1, 2)),
        ("truncate: {side: REQUEST, after_bytes: 3}", Action::Truncate(Side::Request, 3)),
        ("corrupt: {side: REQUEST, one_in_bytes: 3}", Action::Corrupt(Side::Request, 3)),
        ("blackhole: {}", Action::Blackhole),
        ("refuse: {}", Action::Refuse),
        ("tls_failure: {}", Action::TlsFailure(40)),
        ("tls_failure: {alert: 45}", Action::TlsFailure(45)),
        ("expired_certificate: {}", Action::ExpiredCertificate),
        ("drip: {chunk_bytes: 3, interval: 1s}", Action::Drip(Side::Response, 3, second)),
        ("drip: {side: REQUEST, chunk_bytes: 3, interval: 1s}", Action::Drip(Side::Request, 3, second)),
    ] {
        assert_eq!(fault(&format!("place: INBOUND, {text}")).action, expected);
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    for (text, at) in [
        ("fault: {blackhole: {}}", "fault.place"),
        ("fault: {place: INBOUND}", "fault"),
        ("fault: {place: INBOUND, abort: {}}", "fault.abort"),
        ("fault: {place: INBOUND, abort: {http_status: 100}}", "fault.abort.http_status"),
        ("fault: {place: INBOUND, abort: {grpc: {message: \"a\\nb\"}}}", "fault.abort.grpc.message"),
        ("fault: {place: INBOUND, bandwidth: {}}", "fault.bandwidth"),
        ("fault: {place: INBOUND, corrupt: {}}", "fault.corrupt.one_in_bytes"),
        ("fault: {place: INBOUND, delay: {}}", "fault.delay"),
        ("fault: {place: INBOUND, delay: {fixed: 3601s}}", "fault.delay.fixed"),
        ("fault: {place: INBOUND, delay: {uniform: {min: 2s, max: 1s}}}", "fault.delay.uniform"),
        ("fault: {place: INBOUND, delay: {pareto: {scale: 1s}}}", "fault.delay.pareto"),
        ("fault: {place: INBOUND, drip: {chunk_bytes: 1}}", "fault.drip"),
        ("fault: {place: INBOUND, tls_failure: {alert: 256}}", "fault.tls_failure.alert"),
        ("fault: {place: INBOUND, refuse: {}, match: {methods: [GET]}}", "fault.match"),
        ("fault: {place: INBOUND, refuse: {}, match: {peers: [{exact: a}]}}", "fault.match"),
        ("fault: {place: INBOUND, blackhole: {}, match: {endpoints: ['::1']}}", "fault.match.endpoints"),
        ("fault: {place: UPSTREAM, blackhole: {}, match: {endpoints: [a]}}", "fault.match.endpoints[0]"),
        ("fault: {place: UPSTREAM, blackhole: {}, match: {methods: ['a b']}}", "fault.match.methods[0]"),
        ("fault: {place: UPSTREAM, blackhole: {}, match: {port: 65536}}", "fault.match.port"),
        ("fault: {place: UPSTREAM, blackhole: {}, ramp: {}}", "fault.ramp.over"),
        ("fault: {place: UPSTREAM, blackhole: {}, percentage: {numerator: 101}}", "fault.percentage"),
        ("guard: {exempt_ports: [0]}", "guard.exempt_ports[0]"),
        ("guard: {exempt_paths: [{}]}", "guard.exempt_paths[0]"),
    ] {
        let faults = compiled(&format!("{{name: f, {text}}}")).unwrap_err();
        assert!(faults[0].starts_with(&format!("{at}: ")), "{text}: {faults:?}");
    }
    assert!(compiled("{name: f}").is_err());
}

#[test]
fn a_guard_is_read_whole() {
    let text = "guard: {stop: true, max_active: 3, max_share: {numerator: 5}, exempt_paths: [{exact: /a}], exempt_ports: [1]}";
    let Injection::Guard(guard) = compiled(&format!("{{name: g, {text}}}")).unwrap() else {
        panic!("a guard")
    };
    assert_eq!((guard.silent, guard.max_active, guard.max_share.millionths()), (true, 3, 50_000));
    assert_eq!((guard.exempt_paths.len(), guard.exempt_ports.as_slice()), (1, &[1][..]));
    assert!(
        matches!(compiled("{name: g, guard: {opt_out: true}}"), Ok(Injection::Guard(guard)) if guard.silent)
    );
}
