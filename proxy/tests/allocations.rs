//! A request in the steady state allocates nothing: the proxy runs in this process under an allocator that counts.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use outrider_proxy::bootstrap::{self, Settings};
use outrider_proxy::fault::leased::Subject;
use outrider_proxy::fault::{Action, FaultSet, Guard, Leased, Place, Stage};
use outrider_proxy::http::message::RequestHead;
use tokio::time::Instant;

/// Requests before counting begins: pools, caches and tables have their size then.
const WARM_UP: usize = 2_000;
/// Requests that are counted.
const COUNTED: usize = 20_000;
/// Allocations that timers and the control thread may make meanwhile, whatever the number of requests.
const BESIDE: u64 = 200;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Set by the threads of the test itself.
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written otherwise")]
// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_request_allocates_nothing() {
    faults_of_others();
    UNCOUNTED.set(true);
    let proxy = start_proxy(start_backend());
    for (what, request) in [
        ("a plain request", request("GET", "/plain", "")),
        ("a route among many", request("GET", "/many/77/x?q=1", "")),
        ("a request with a body", request("POST", "/plain", "0123456789")),
    ] {
        let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(proxy)).collect();
        let mut exchange = |count: usize| {
            for number in 0..count {
                let client = &mut clients[number % 4];
                client.write_all(request.as_bytes()).unwrap();
                read_response(client);
            }
        };
        exchange(WARM_UP);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        exchange(COUNTED);
        let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
        println!("{what}: {made} allocations in {COUNTED} requests");
        assert!(made <= BESIDE, "{what}: {made} allocations in {COUNTED} requests");
    }
}

/// Faults that are about other requests make nothing for this one.
fn faults_of_others() {
    let faults = (0..99).map(|number| {
        let name = format!("shop/{number}");
        let mut fault = Leased::new(name.as_str().into(), Place::Inbound, Action::Blackhole);
        fault.rule.clusters = vec![name];
        fault.lease.extend(Instant::now() + Duration::from_secs(3600));
        Arc::new(fault)
    });
    let set = FaultSet::new(faults.collect(), Guard::default(), &Arc::default()).unwrap();
    let head = RequestHead { path: "/plain".into(), ..RequestHead::default() };
    let subject = Subject {
        listener: "l",
        destination: "127.0.0.1:80".parse().unwrap(),
        peer: None,
        head: Some(&head),
        route: "",
        cluster: "c",
        endpoint: None,
        tls: false,
    };
    UNCOUNTED.set(false);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..COUNTED {
        assert!(!set.concerns((Place::Inbound, Stage::Whole), &subject));
        assert!(set.choose((Place::Upstream, Stage::Attempt), &subject, 1, |_| {}).is_none());
    }
    let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(made <= BESIDE, "{made} allocations");
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: service.test\r\nuser-agent: test/1.0\r\naccept: */*\r\n\
         x-trace: 0123456789abcdef\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads a response with the body that the backend sends.
fn read_response(client: &mut TcpStream) {
    let (mut buffer, mut len) = ([0; 4096], 0);
    loop {
        let count = client.read(&mut buffer[len..]).unwrap();
        assert!(count > 0, "the proxy closed the connection: {}", String::from_utf8_lossy(&buffer[..len]));
        len += count;
        if buffer[..len].ends_with(b"\r\n\r\nhello, world") {
            assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..len]));
            return;
        }
    }
}

fn start_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        UNCOUNTED.set(true);
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap()));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    UNCOUNTED.set(true);
    stream.set_nodelay(true).unwrap();
    let (mut buffer, mut len) = ([0; 4096], 0);
    while let Ok(count) = stream.read(&mut buffer[len..]) {
        if count == 0 {
            return;
        }
        len += count;
        if buffer[..len].ends_with(b"\r\n\r\n") || buffer[..len].ends_with(b"0123456789") {
            len = 0;
            let answer =
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello, world";
            stream.write_all(answer.as_bytes()).unwrap();
        }
    }
}

/// Filters that every request passes, and none is too much for.
const LIMITS: &str = "          - name: rate
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: s
              filter_enabled: {default_value: {numerator: 100}}
              filter_enforced: {default_value: {numerator: 100}}
              token_bucket: {max_tokens: 1000000, fill_interval: 1s}
              descriptors: [{entries: [{key: who}, {key: remote_address}], token_bucket: {max_tokens: 1000000, fill_interval: 1s}}]
              rate_limits: [{actions: [{request_headers: {header_name: user-agent, descriptor_key: who}}, {remote_address: {}}]}]
          - name: adaptive
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency
              gradient_controller_config:
                concurrency_limit_params: {concurrency_update_interval: 0.5s}
                min_rtt_calc_params: {interval: 60s}
";

fn start_proxy(backend: SocketAddr) -> SocketAddr {
    let address = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let routes: String = (0..200)
        .map(|number| {
            format!("              - {{match: {{prefix: /many/{number}/}}, route: {{cluster: c}}}}\n")
        })
        .collect();
    let policies: String = (0..200)
        .map(|number| {
            format!(
                "p{number}: {{permissions: [{{url_path: {{path: {{prefix: /denied/{number}/}}}}}}], \
                 principals: [{{any: true}}]}}, "
            )
        })
        .collect();
    let yaml = format!(
        "static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          route_config:
            virtual_hosts:
            - name: v
              domains: ['*']
              routes:
{routes}              - {{match: {{prefix: /}}, route: {{cluster: c, retry_policy: {{retry_on: 5xx}}}}}}
          http_filters:
          - name: rbac
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {{action: DENY, policies: {{{policies}}}}}
              shadow_rules: {{policies: {{all: {{permissions: [{{any: true}}], principals: [{{any: true}}]}}}}}}
{LIMITS}          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: c
    type: STATIC
    outlier_detection: {{consecutive_5xx: 3, consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 100}}
    load_balancing_policy: {{policies: [{{typed_extension_config: {{name: e, typed_config: {{'@type': type.googleapis.com/outrider.load_balancing.v1.PeakEwma}}}}}}]}}
    load_assignment:
      cluster_name: c
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}
",
        address.port(),
        backend.port()
    );
    let file: PathBuf =
        std::env::temp_dir().join(format!("outrider-allocations-{}.yaml", std::process::id()));
    std::fs::write(&file, yaml).unwrap();
    let bootstrap = bootstrap::read(&file).unwrap();
    // The test's own threads cannot be locked in.
    let environment = |name: &str| match name {
        "OUTRIDER_WORKERS" => Some("1".to_owned()),
        "OUTRIDER_LOCK_IN" => Some("off".to_owned()),
        _ => None,
    };
    let settings = Settings::from_env(file, environment).unwrap();
    thread::spawn(move || outrider_proxy::run::run(&settings, bootstrap).unwrap());
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    for _ in 0..1_000 {
        if let Ok(stream) = TcpStream::connect(address) {
            stream.set_nodelay(true).unwrap();
            return stream;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("the proxy does not listen on {address}");
}
