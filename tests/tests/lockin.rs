//! The proxy locks itself in: what an intruder would try is refused, on every thread, and what operators do works on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask};
use outrider_tests::config::{self, HCM, ROUTER, TO_BE, address, cluster};
use outrider_tests::mesh::{DAY, Mesh, SERVER};
use outrider_tests::process::{Process, admin_get, free_port, proxy_binary, scratch};

const MINIMAL: &str = "static_resources: {}\n";

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    ids.split_whitespace().nth(1) == Some("0")
}

/// The command that locks itself in and tries to get out, as this user.
fn check(level: &str, user: Option<u32>) -> Output {
    let directory = scratch("check-lock-in");
    let file = directory.join("config.yaml");
    fs::write(&file, MINIMAL).unwrap();
    let mut command = match user {
        None => Command::new(proxy_binary()),
        Some(id) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()]);
            command.arg(proxy_binary());
            command
        }
    };
    command.arg("check-lock-in").arg("--config").arg(&file).env("OUTRIDER_LOCK_IN", level);
    let output = command.output().unwrap();
    fs::remove_dir_all(directory).unwrap();
    output
}

/// The name of each attempt and what came of it.
fn attempts(output: &Output) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<(String, String)> = text
        .lines()
        .skip(1)
        .map(|line| {
            let end = line.find("refused: ").or_else(|| line.find("NOT REFUSED")).unwrap();
            (line[..end].trim().to_owned(), line[end..].to_owned())
        })
        .collect();
    assert!(found.len() > 30, "{text}");
    found
}

#[test]
fn everything_that_an_intruder_would_try_is_refused() {
    let users = if is_root() { vec![None, Some(1502)] } else { vec![None] };
    for user in users {
        let output = check("enforce", user);
        for (name, outcome) in attempts(&output) {
            assert_eq!(outcome.matches("refused: ").count(), 2, "{name} as {user:?}: {outcome}");
        }
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

/// Otherwise the test above would show nothing.
#[test]
fn without_the_lock_in_nothing_of_it_is_refused() {
    if !is_root() {
        println!("SKIPPED: only root can do all of it without the lock-in");
        return;
    }
    for level in ["off", "log"] {
        let output = check(level, None);
        let refused: Vec<(String, String)> =
            attempts(&output).into_iter().filter(|(_, outcome)| !outcome.contains("NOT REFUSED")).collect();
        // Logging gives up capabilities all the same, as no restriction that could break a proxy.
        let needs_capability = [
            "ptrace",
            "process_vm_readv",
            "mount",
            "chroot",
            "unshare",
            "bpf",
            "raw socket",
            "packet socket",
            "read /proc/PID/environ",
            "finit_module",
            "perf_event_open",
            "open_by_handle_at",
            "userfaultfd",
            "setns",
        ];
        for (name, outcome) in refused {
            assert!(
                level == "log" && needs_capability.contains(&name.as_str()),
                "{level}: {name}: {outcome}"
            );
        }
        assert_eq!(output.status.code(), Some(3));
    }
}

#[tokio::test]
async fn every_thread_is_locked_in_and_says_so() {
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    // Looking up a name starts threads while the proxy runs.
    let named = cluster("named", 1, "type: STRICT_DNS").replace("127.0.0.1", "localhost");
    let clusters = [cluster("be", backend.port, ""), named];
    let proxy = Process::outrider(&config::web(admin, port, "", &[TO_BE], &clusters), admin);
    assert_eq!(client::h1(port, &Ask::default()).await.status, 200);
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", proxy.id())).unwrap() {
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim().to_owned()
        };
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()), "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set} {status}");
        }
        threads += 1;
    }
    assert!(threads >= 4, "control, two workers, access log: {threads}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let info = admin_get(admin, "/server_info").unwrap();
    let info: serde_json::Value = serde_json::from_str(info.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(info["lock_in"]["level"], "enforce");
    let metrics = admin_get(admin, "/metrics").unwrap();
    for layer in ["no_new_privs", "capabilities", "core_dumps", "landlock", "seccomp"] {
        assert_eq!(info["lock_in"]["layers"][layer]["state"], "held", "{info}");
        let line = format!("outrider_lock_in{{layer=\"{layer}\",state=\"held\"}} 1");
        assert!(metrics.contains(&line), "{line}");
    }
    let (addresses, log) = (admin_get(admin, "/clusters").unwrap(), proxy.log());
    assert!(addresses.contains("127.0.0.1:1") || addresses.contains("[::1]:1"), "{addresses}\n{log}");
    assert!(metrics.contains("process_open_fds "), "the proxy still sees itself");
}

#[tokio::test]
async fn other_levels_serve_too_and_are_not_silent() {
    for (level, said) in [("log", "not locked in, only logged"), ("off", "OUTRIDER_LOCK_IN is off")] {
        let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
        let config = config::web(admin, port, "", &[TO_BE], &[cluster("be", backend.port, "")]);
        let proxy = Process::outrider_with(&config, admin, &[("OUTRIDER_LOCK_IN", level)]);
        assert_eq!(client::h1(port, &Ask::default()).await.status, 200);
        assert!(proxy.log().contains(said), "{}", proxy.log());
        assert!(admin_get(admin, "/server_info").unwrap().contains(&format!("\"level\":\"{level}\"")));
    }
}

/// A listener with a certificate and an access log.
fn secured(admin: u16, port: u16, certificates: &Path, log: &Path, status: u16) -> String {
    let file = |name: &str| format!("{{filename: {}}}", certificates.join(name).display());
    format!(
        "admin: {{address: {}}}
static_resources:
  listeners:
  - name: l
    address: {}
    filter_chains:
    - transport_socket: {{name: tls, typed_config: {{\"@type\": {}.DownstreamTlsContext, common_tls_context: {{
        tls_certificates: [{{certificate_chain: {}, private_key: {}}}]}}}}}}
      filters: [{{name: h, typed_config: {{\"@type\": {HCM}, stat_prefix: s,
        access_log: [{{name: f, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}}}}}],
        http_filters: [{{name: r, typed_config: {{\"@type\": {ROUTER}}}}}],
        route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: {status}}}}}]}}]}}}}}}]
",
        address(admin),
        address(port),
        outrider_tests::mesh::TLS,
        file("tls.crt"),
        file("tls.key"),
        log.display(),
    )
}

/// Writes a new version of the certificate beside the others and swaps the link, as Kubernetes does.
fn swap(mesh: &Mesh, certificates: &Path, version: u32) {
    let credentials = mesh.authority.svid(SERVER, DAY);
    let folder = certificates.join(format!("..{version}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("tls.crt"), &credentials.chain_pem).unwrap();
    fs::write(folder.join("tls.key"), &credentials.key_pem).unwrap();
    symlink(&folder, certificates.join("..next")).unwrap();
    fs::rename(certificates.join("..next"), certificates.join("..data")).unwrap();
}

/// What a client sees: the status, and the certificate's hash of now.
fn ask(port: u16) -> (String, String) {
    let url = format!("https://127.0.0.1:{port}/");
    let out =
        Command::new("curl").args(["-sk", "--max-time", "10", "-w", "%{http_code} %{certs}", &url]).output();
    let text = String::from_utf8_lossy(&out.unwrap().stdout).into_owned();
    let (status, certificate) = text.split_once(' ').unwrap_or_default();
    (status.to_owned(), certificate.to_owned())
}

#[test]
fn what_operators_replace_is_found_again() {
    let mesh = Mesh::new("lockin");
    let (certificates, logs) = (mesh.folder.join("certs"), mesh.folder.join("logs"));
    let (admin, port, log) = (free_port(), free_port(), logs.join("access.log"));
    fs::create_dir(&certificates).unwrap();
    fs::create_dir(&logs).unwrap();
    swap(&mesh, &certificates, 1);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), certificates.join(name)).unwrap();
    }
    let proxy = Process::outrider(&secured(admin, port, &certificates, &log, 200), admin);
    let (status, first) = ask(port);
    assert_eq!(status, "200");

    swap(&mesh, &certificates, 2);
    while ask(port).1 == first {}

    // Replaced, not written over: editors and configuration tools do so.
    let file = proxy.directory.join("config.yaml");
    let next = file.with_extension("next");
    fs::write(&next, secured(admin, port, &certificates, &log, 201)).unwrap();
    fs::rename(&next, &file).unwrap();
    proxy.signal("HUP");
    while ask(port).0 != "201" {}

    fs::rename(&log, logs.join("access.log.1")).unwrap();
    while !log.exists() {
        ask(port);
    }

    // Elsewhere is closed: the listener stays as it was, and the log names the file.
    let elsewhere = scratch("elsewhere");
    let credentials = mesh.authority.svid(SERVER, DAY);
    fs::write(elsewhere.join("tls.crt"), &credentials.chain_pem).unwrap();
    fs::write(elsewhere.join("tls.key"), &credentials.key_pem).unwrap();
    let named = elsewhere.join("tls.crt").display().to_string();
    fs::write(&file, secured(admin, port, &elsewhere, &log, 202)).unwrap();
    proxy.signal("HUP");
    while !proxy.log().contains(&format!("{named}: Permission denied")) {}
    drop(proxy);

    let (admin, port) = (free_port(), free_port());
    let start = secured(admin, port, &certificates, &log, 200);
    let opened = elsewhere.display().to_string();
    let proxy = Process::outrider_with(&start, admin, &[("OUTRIDER_LOCK_IN_READ", &opened)]);
    fs::write(proxy.directory.join("config.yaml"), secured(admin, port, &elsewhere, &log, 203)).unwrap();
    proxy.signal("HUP");
    while ask(port).0 != "203" {}
    fs::remove_dir_all(elsewhere).unwrap();
}
