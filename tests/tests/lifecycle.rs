//! Start, reload, drain and what survives them.

use std::fs;
use std::process::Command;

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask, PATIENCE, connect, echoes, websocket};
use outrider_tests::config;
use outrider_tests::mesh::Mesh;
use outrider_tests::process::{Process, admin_get, admin_request, free_port, proxy_binary, scratch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

fn config(admin: u16, port: u16, backend: u16, answer: &str) -> String {
    let version = format!(
        "{{match: {{path: /version}}, direct_response: {{status: 200, body: {{inline_string: '{answer}'}}}}}}"
    );
    let http = "upgrade_configs: [{upgrade_type: websocket}]";
    config::web(admin, port, http, &[&version, config::TO_BE], &[config::cluster("be", backend, "")])
}

fn version() -> Ask {
    Ask { path: "/version".into(), ..Ask::default() }
}

#[tokio::test]
async fn sighup_reloads_and_streams_live_on() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    assert_eq!(client::h1(port, &version()).await.body, "one");
    let mut stream = websocket(port).await;
    assert!(echoes(&mut stream, b"before").await);

    fs::write(proxy.directory.join("config.yaml"), config(admin, port, backend.port, "two")).unwrap();
    proxy.signal("HUP");
    while client::h1(port, &version()).await.body != "two" {}
    assert!(
        echoes(&mut stream, b"after the change").await,
        "a tunnel lives through a change of its listener"
    );

    fs::write(proxy.directory.join("config.yaml"), "static_resources: {nonsense: 1}").unwrap();
    proxy.signal("HUP");
    while !admin_get(admin, "/metrics").unwrap().contains("outrider_reloads_total{outcome=\"refused\"} 1") {}
    assert_eq!(client::h1(port, &version()).await.body, "two", "the last good configuration stays");
    assert!(proxy.log().contains("static_resources.nonsense"), "{}", proxy.log());
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let mut proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    // One request whose body is still coming, one idle connection, one HTTP/2 connection.
    let mut slow = connect(port).await;
    slow.write_all(b"POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    let mut idle = connect(port).await;
    idle.write_all(b"GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1024];
    assert!(timeout(PATIENCE, idle.read(&mut answer)).await.unwrap().unwrap() > 0);
    while backend.received_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    proxy.signal("TERM");
    assert_eq!(
        timeout(PATIENCE, idle.read(&mut answer)).await.unwrap().unwrap_or(0),
        0,
        "an idle connection is closed"
    );
    slow.write_all(b"cd").await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, slow.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let finished = client::parse_h1(&bytes, false);
    assert_eq!((finished.status, finished.whole), (200, true));
    assert_eq!(finished.header("connection"), None, "its head was on its way before the drain or says close");
    assert_eq!(proxy.wait(PATIENCE), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_drain_nobody_is_let_in_and_the_admin_port_says_so() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let mut proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    let mut tunnel = websocket(port).await;
    assert!(echoes(&mut tunnel, b"before").await);
    proxy.signal("TERM");
    let refused = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {}
        while !admin_get(admin, "/ready").unwrap().contains("503") {}
    };
    assert!(timeout(PATIENCE, refused).await.is_ok(), "connections are still let in");
    assert!(admin_get(admin, "/ready").unwrap().contains("DRAINING"));
    assert!(admin_get(admin, "/metrics").unwrap().contains("outrider_downstream_connections_active"));
    assert!(admin_request(admin, "POST", "/drain").unwrap().contains("200"), "once more changes nothing");
    assert!(proxy.is_running() && echoes(&mut tunnel, b"in the drain").await);
    drop(tunnel);
    assert_eq!(proxy.wait(PATIENCE), Some(0));
}

#[tokio::test]
async fn who_knocked_before_a_drain_is_answered() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let mut proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    // Whatever comes now waits in the kernel.
    proxy.signal("STOP");
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(port).await;
        stream.write_all(b"POST /version HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    proxy.signal("TERM");
    proxy.signal("CONT");
    for (number, mut stream) in waiting.into_iter().enumerate() {
        let mut bytes = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("in time");
        let answer = client::parse_h1(&bytes, false);
        assert_eq!((answer.status, answer.whole), (200, true), "connection {number}: {ended:?}");
    }
    assert_eq!(proxy.wait(PATIENCE), Some(0));
}

#[tokio::test]
async fn a_file_that_is_refused_moves_no_listener() {
    let (backend, admin, port, other) = (Backend::start().await, free_port(), free_port(), free_port());
    let proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    let moved = config(admin, other, backend.port, "two");
    let (start, end) = (moved.find("  - name: web").unwrap(), moved.find("  clusters:").unwrap());
    let second = moved[start..end]
        .replace("name: web", "name: second")
        .replace(&format!("port_value: {other}"), &format!("port_value: {}", backend.port));
    let both = format!("{}{second}{}", &moved[..end], &moved[end..]);
    fs::write(proxy.directory.join("config.yaml"), both).unwrap();
    proxy.signal("HUP");
    while !admin_get(admin, "/metrics").unwrap().contains("outrider_reloads_total{outcome=\"refused\"} 1") {}
    assert!(proxy.log().contains("listeners[1]: address: cannot listen on"), "{}", proxy.log());
    assert_eq!(client::h1(port, &version()).await.body, "one");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", other)).await.is_err(), "nobody listens there");

    // Without the one that is wrong it moves, and another may have its place.
    let renamed = second.replace(&format!("port_value: {}", backend.port), &format!("port_value: {port}"));
    let both = format!("{}{renamed}{}", &moved[..end], &moved[end..]);
    fs::write(proxy.directory.join("config.yaml"), both).unwrap();
    proxy.signal("HUP");
    while !admin_get(admin, "/metrics").unwrap().contains("outrider_reloads_total{outcome=\"ok\"} 1") {}
    for at in [port, other] {
        while client::h1(at, &version()).await.body != "two" {}
    }
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let env = [("OUTRIDER_DRAIN_TIMEOUT_MS", "300")];
    let mut proxy = Process::outrider_with(&config(admin, port, backend.port, "one"), admin, &env);
    let mut stream = websocket(port).await;
    assert!(echoes(&mut stream, b"hello").await);
    assert!(admin_request(admin, "POST", "/drain").unwrap().contains("200"));
    assert_eq!(proxy.wait(PATIENCE), Some(0), "a tunnel does not hold the proxy for ever");
}

#[tokio::test]
async fn an_idle_upstream_connection_that_was_closed_costs_nothing() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let _proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    for round in 0..50 {
        // The backend closes the connection after every second answer without saying so.
        let close = if round % 2 == 0 { "mid" } else { "no" };
        let headers =
            vec![("x-reply-close".to_owned(), close.to_owned()), ("x-reply-size".to_owned(), "0".to_owned())];
        let answer = client::h1(port, &Ask { headers, ..Ask::default() }).await;
        assert_eq!(answer.status, 200, "round {round}");
    }
}

#[tokio::test]
async fn a_change_fails_no_request_that_was_on_its_way() {
    for codec in ["AUTO", "HTTP1"] {
        let (admin, port) = (free_port(), free_port());
        let config = |answer: &str| {
            let version = format!(
                "{{match: {{path: /version}}, direct_response: {{status: 200, body: {{inline_string: '{answer}'}}}}}}"
            );
            config::web(admin, port, &format!("codec_type: {codec}"), &[&version], &[])
        };
        let proxy = Process::outrider(&config("one"), admin);
        // What may not be sent again: whoever sends it needs an answer to it.
        let post = b"POST /version HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
        let mut connections = Vec::new();
        for number in 0..8 {
            let mut stream = connect(port).await;
            if number % 2 == 0 {
                stream.write_all(post).await.unwrap();
                let mut answer = vec![0; 1024];
                assert!(timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap() > 0);
            }
            connections.push(stream);
        }
        let accepted = "outrider_downstream_connections_active{listener=\"web\"} 8";
        while !admin_get(admin, "/metrics").unwrap().contains(accepted) {}

        fs::write(proxy.directory.join("config.yaml"), config("two")).unwrap();
        proxy.signal("HUP");
        while client::h1(port, &version()).await.body != "two" {}
        // All at once: none waits until another has ended.
        for stream in &mut connections {
            stream.write_all(post).await.unwrap();
        }
        for (number, mut stream) in connections.into_iter().enumerate() {
            let mut bytes = Vec::new();
            let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
            assert!(ended.is_ok(), "{codec}, connection {number}: its listener is gone, and it is not");
            let answer = client::parse_h1(&bytes, false);
            assert_eq!(
                (answer.status, answer.whole),
                (200, true),
                "{codec}, connection {number}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn validate_says_every_fault_with_its_path() {
    let directory = scratch("validate");
    let file = directory.join("bad.yaml");
    fs::write(
        &file,
        "static_resources:
  listeners: [{name: a}]
  clusters:
  - {name: c, lb_policy: SHORTEST, upstream_bind_config: {}, connect_timeout: -1s}
  - {name: c, typed_extension_protocol_options: {x: {'@type': nope}}}
stats_sinks: []
",
    )
    .unwrap();
    let output = Command::new(proxy_binary()).arg("validate").arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [
        "bad.yaml: static_resources.clusters[0].lb_policy: \"SHORTEST\" is not supported",
        "bad.yaml: static_resources.clusters[0].upstream_bind_config: not supported",
        "bad.yaml: static_resources.clusters[1].typed_extension_protocol_options[\"x\"]: extension \"nope\" is not supported",
        "bad.yaml: stats_sinks: not supported",
    ] {
        assert!(said.contains(part), "{part} not in:\n{said}");
    }
    fs::write(
        &file,
        "static_resources: {listeners: [{name: a}], clusters: [{name: c, connect_timeout: 0s}, {name: c}]}",
    )
    .unwrap();
    let output = Command::new(proxy_binary()).arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 4, "{said}");
    let missing = Command::new(proxy_binary()).args(["--config", "/nowhere.yaml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    let _ = fs::remove_dir_all(directory);
}

#[tokio::test]
async fn what_takes_longer_than_a_drain_is_cut_and_says_so() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let logged = format!(
        "access_log: [{{name: log, typed_config: {{\"@type\": {}, log_format: {{text_format_source: {{inline_string: \
         \"LINE %RESPONSE_CODE_DETAILS% %BYTES_SENT%\\n\"}}}}}}}}], upgrade_configs",
        config::STDOUT
    );
    let text = |answer: &str| config(admin, port, backend.port, answer).replace("upgrade_configs", &logged);
    let env = [("OUTRIDER_DRAIN_TIMEOUT_MS", "100")];
    let mut proxy = Process::outrider_with(&text("one"), admin, &env);
    for drain in ["a change of the listener", "the end of the proxy"] {
        let mut tunnel = websocket(port).await;
        assert!(echoes(&mut tunnel, b"under way").await);
        if drain.starts_with("a change") {
            fs::write(proxy.directory.join("config.yaml"), text("two")).unwrap();
            proxy.signal("HUP");
        } else {
            proxy.signal("TERM");
        }
        let ended = timeout(PATIENCE, tunnel.read(&mut [0])).await.expect("it is cut");
        assert!(!matches!(ended, Ok(1..)), "{drain}");
    }
    assert_eq!(proxy.wait(PATIENCE), Some(0));
    let log = proxy.log();
    assert_eq!(log.matches("LINE drain_timeout 9\n").count(), 2, "{log}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_at_the_start() {
    let (backend, admin) = (Backend::start().await, free_port());
    let directory = scratch("taken");
    let file = directory.join("config.yaml");
    fs::write(&file, config(admin, backend.port, backend.port, "x")).unwrap();
    let output = Command::new(proxy_binary()).arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("static_resources.listeners[0]: address: cannot listen on"), "{said}");
    let _ = fs::remove_dir_all(directory);
}

#[tokio::test]
async fn a_proxy_that_was_left_behind_is_noticed() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let left = Process::outrider(&config(admin, port, backend.port, "old"), admin);
    let second = free_port();
    let both = Process::outrider(&config(second, port, backend.port, "new"), second);
    assert!(both.log().contains("another process listens there too"), "{}", both.log());
    assert!(!left.log().contains("another process"));
}

#[tokio::test]
async fn a_second_signal_ends_what_a_first_one_lets_finish_and_others_end_nothing() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let mut proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    let mut tunnel = websocket(port).await;
    for harmless in ["USR1", "USR2"] {
        proxy.signal(harmless);
        assert!(echoes(&mut tunnel, b"still there").await);
    }
    assert!(admin_request(admin, "POST", "/drain").unwrap().contains("200"));
    proxy.signal("TERM");
    let draining = || admin_get(admin, "/ready").is_some_and(|answer| answer.contains("DRAINING"));
    while !draining() {}
    assert!(echoes(&mut tunnel, b"a drain over the admin port is not a first signal").await);
    proxy.signal("INT");
    assert_eq!(proxy.wait(PATIENCE), Some(1));
    assert!(proxy.log().contains("told to end once more"));
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_said_and_waited_for() {
    let (mesh, backend) = (Mesh::new("late"), Backend::start().await);
    let (admin, port) = (free_port(), free_port());
    let text = config(admin, port, backend.port, "one")
        .replace("}]}}}]}]\n", &format!("}}]}}}}}}], {}}}]\n", mesh.downstream()));
    let (there, away) = (mesh.folder.join("server.pem"), mesh.folder.join("away.pem"));
    fs::rename(&there, &away).unwrap();
    let directory = scratch("late");
    let file = directory.join("config.yaml");
    fs::write(&file, &text).unwrap();
    let validate = |more: &[&str]| {
        Command::new(proxy_binary()).arg("validate").args(more).arg("--config").arg(&file).output().unwrap()
    };
    let output = validate(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("static_resources.listeners[0].transport_socket") && said.contains("server.pem"),
        "{said}"
    );
    assert!(validate(&["--without-files"]).status.success());

    let mut command = Command::new(proxy_binary());
    command.arg("--config").arg(&file);
    let proxy = Process::spawn(command, directory, "outrider-proxy");
    let ready = || admin_get(admin, "/ready").unwrap_or_default();
    while !ready().contains("503") {}
    assert!(ready().contains("INITIALIZING"));
    assert!(proxy.log().contains("connections are refused until it is"), "{}", proxy.log());
    fs::rename(&away, &there).unwrap();
    let served = async {
        while !ready().contains(" 200 ") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, served).await.expect("ready with the certificate");
    assert!(validate(&[]).status.success());
}

#[tokio::test]
async fn the_admin_port_refuses_web_pages_and_wrong_methods() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let _proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    assert!(admin_request(admin, "POST", "/ready").unwrap().contains("405"));
    assert!(admin_request(admin, "GET", "/drain").unwrap().contains("405"));
    assert!(admin_get(admin, "/nothing").unwrap().contains("404"));
    let foreign =
        client::raw(admin, b"GET /config_dump HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
            .await;
    assert!(String::from_utf8_lossy(&foreign).contains("403"));
    let page = b"POST /drain HTTP/1.1\r\nhost: localhost\r\norigin: http://evil\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(String::from_utf8_lossy(&client::raw(admin, page).await).contains("403"));
    let dump = admin_get(admin, "/config_dump").unwrap();
    let json = dump.split("\r\n\r\n").nth(1).unwrap();
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(value["listeners"][0]["name"], "web");
    assert!(admin_request(admin, "POST", "/logging?level=debug").unwrap().contains("level: debug"));
    assert!(admin_request(admin, "POST", "/logging?level=loud").unwrap().contains("400"));
}

#[tokio::test]
async fn nothing_is_changed_over_the_admin_port_where_that_is_off() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let env = [("OUTRIDER_ADMIN_CHANGES", "off")];
    let _proxy = Process::outrider_with(&config(admin, port, backend.port, "one"), admin, &env);
    for path in ["/drain", "/logging?level=off", "/logging?security=off"] {
        let refusal = admin_request(admin, "POST", path).unwrap();
        assert!(refusal.contains("403") && refusal.contains("OUTRIDER_ADMIN_CHANGES"), "{path}: {refusal}");
    }
    assert!(admin_get(admin, "/logging").unwrap().contains("level: info"));
    assert!(admin_get(admin, "/server_info").unwrap().contains("LIVE"));
    assert_eq!(client::h1(port, &Ask::default()).await.status, 200);
}

#[tokio::test]
async fn whoever_holds_all_admin_connections_does_not_keep_the_probes_out() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let _proxy = Process::outrider(&config(admin, port, backend.port, "one"), admin);
    // As many as there may be, and more than wait in vain.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(connect(admin).await);
    }
    assert!(admin_get(admin, "/ready").unwrap().contains("LIVE"));
    // The first had to go for it, and none for being silent for too long.
    let mut byte = [0];
    let first = timeout(PATIENCE, silent[0].read(&mut byte)).await.unwrap();
    assert!(!matches!(first, Ok(1..)));
    let mut last = silent.pop().unwrap();
    last.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, last.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "it was still there");
}

#[tokio::test]
async fn a_ready_proxy_knows_the_addresses_of_its_clusters() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let names = config::cluster("be", backend.port, "type: STRICT_DNS, dns_lookup_family: V4_ONLY");
    let names = names.replace("127.0.0.1", "localhost");
    // A name that does not exist holds nobody up.
    let nowhere = config::cluster("nowhere", 1, "type: STRICT_DNS").replace("127.0.0.1", "nowhere.invalid");
    let _proxy = Process::outrider(&config::web(admin, port, "", &[config::TO_BE], &[names, nowhere]), admin);
    assert_eq!(client::h1(port, &Ask::default()).await.status, 200, "the very first request");
}
