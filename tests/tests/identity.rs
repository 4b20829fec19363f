//! Identities end to end: `fetch-svid` and the proxy against a control server, files, and a SPIFFE Workload API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_tests::authority::Authority;
use outrider_tests::identity_server::{Behaviour, Fault, IdentityServer};
use outrider_tests::process::{Process, admin_get, free_port, proxy_binary, scratch};
use outrider_tests::workload_api::{WorkloadApi, response};
use tonic::Status;

const ID: &str = "spiffe://mesh.test/ns/shop/sa/cart";
const TOKEN: &str = "header.payload.signature";
const HOUR: Duration = Duration::from_secs(3600);
/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with a token, and what `fetch-svid` makes in it.
struct Lab {
    authority: Arc<Authority>,
    directory: PathBuf,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Lab {
    fn new() -> Self {
        let lab = Self { authority: Arc::new(Authority::new("mesh.test")), directory: scratch("svid") };
        lab.write("token", &format!("{TOKEN}\n"));
        lab
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(proxy_binary());
        command.args(["fetch-svid", "--out-dir"]).arg(self.out()).args(arguments);
        command
    }

    /// Runs it to its end.
    fn once(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.args(["--once", "--timeout", "3"]).output().unwrap()
    }

    /// Keeps it running.
    fn keep(&self, arguments: &[&str]) -> Process {
        Process::spawn(self.command(arguments), scratch("fetch-svid"), "fetch-svid")
    }

    fn plain(&self, server: &IdentityServer) -> Vec<String> {
        vec!["--control".into(), url("http", server.port), "--token-file".into(), self.path("token")]
    }

    /// The text of the certificate file, when openssl accepts it and the key is its own.
    fn accepted(&self) -> Option<String> {
        // A version is looked at as a whole: `..data` may be switched in between.
        let version = fs::canonicalize(self.out().join("..data")).ok()?;
        let [chain, key, roots] = ["tls.crt", "tls.key", "ca.crt"].map(|name| version.join(name));
        let text = fs::read_to_string(&chain).ok()?;
        let verify = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
            .arg(&roots)
            .arg("-untrusted")
            .arg(&chain)
            .arg(&chain)
            .output()
            .unwrap();
        let public = |arguments: &[&str], file: &Path| {
            Command::new("openssl").args(arguments).arg("-in").arg(file).output().unwrap().stdout
        };
        let of_key = public(&["pkey", "-pubout"], &key);
        let of_chain = public(&["x509", "-noout", "-pubkey"], &chain);
        (verify.status.success() && !of_key.is_empty() && of_key == of_chain).then_some(text)
    }

    /// The names in the certificate, as openssl shows them.
    fn names(&self) -> String {
        let arguments = ["x509", "-noout", "-ext", "subjectAltName", "-in"];
        let output = Command::new("openssl").args(arguments).arg(self.out().join("tls.crt")).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }

    /// Waits for an accepted certificate other than this.
    fn next(&self, before: Option<&str>, process: &Process) -> String {
        until("a new certificate", process, || self.accepted().filter(|text| Some(text.as_str()) != before))
    }
}

fn url(scheme: &str, port: u16) -> String {
    format!("{scheme}://127.0.0.1:{port}")
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Waits until there is something.
fn until<T>(what: &str, process: &Process, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: not in time\n{}", process.log());
}

fn refusal(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn files_over_pinned_tls_are_accepted_by_openssl() {
    let lab = Lab::new();
    let tls = Authority::new("control.test");
    let server = IdentityServer::start_tls(&lab.authority, Behaviour::one(TOKEN, ID, HOUR), &tls);
    let (address, token) = (url("https", server.port), lab.path("token"));
    let ca = lab.write("control-ca.pem", &tls.root_pem());
    let base = ["--control", &address, "--token-file", &token, "--ca-file", &ca];
    let output = lab.once(&[&base[..], &["--ttl", "600", "--spiffe-id", ID]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", refusal(&output).1);
    assert!(lab.accepted().is_some());
    assert!(lab.names().contains(&format!("URI:{ID}")), "{}", lab.names());
    let said = refusal(&output).1;
    assert!(!said.contains(TOKEN), "a token in the log: {said}");
    let request = server.requests().remove(0);
    assert_eq!((request.token.as_str(), request.requested_ttl.unwrap().seconds), (TOKEN, 600));

    // A server that these roots do not vouch for gets no token.
    let other = lab.write("other-ca.pem", &Authority::new("other.test").root_pem());
    let output = lab.once(&["--control", &address, "--token-file", &token, "--ca-file", &other]);
    let (code, said) = refusal(&output);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("certificate"), "{said}");
    // Neither does one under another name.
    let output = lab.once(&[&base[..], &["--server-name", "elsewhere.test"]].concat());
    assert_eq!(output.status.code(), Some(4), "{}", refusal(&output).1);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_short_life_is_renewed_again_and_again_with_new_keys() {
    let lab = Lab::new();
    let server = IdentityServer::start(&lab.authority, Behaviour::one(TOKEN, ID, Duration::from_secs(4)));
    let mut process = lab.keep(&strs(&lab.plain(&server)));
    let mut texts = vec![lab.next(None, &process)];
    while texts.len() < 4 {
        let next = lab.next(texts.last().map(String::as_str), &process);
        texts.push(next);
    }
    let mut keys: Vec<Vec<u8>> = server.requests().into_iter().map(|request| request.csr_der).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "a request was made twice");
    process.signal("TERM");
    assert_eq!(process.wait(PATIENCE), Some(0), "{}", process.log());
}

#[test]
fn a_wrong_token_is_refused_and_says_so() {
    let lab = Lab::new();
    let server = IdentityServer::start(&lab.authority, Behaviour::one("other", ID, HOUR));
    let (code, said) = refusal(&lab.once(&strs(&lab.plain(&server))));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Unauthenticated: the token is not known"), "{said}");
    assert!(!said.contains(TOKEN), "a token in the log: {said}");
    assert!(!lab.out().exists());

    // Another identity than the token's is not to be had.
    server.change(|behaviour| *behaviour = Behaviour::one(TOKEN, ID, HOUR));
    let arguments = lab.plain(&server);
    let wished = [&strs(&arguments)[..], &["--spiffe-id", "spiffe://mesh.test/admin"]].concat();
    let (code, said) = refusal(&lab.once(&wished));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("PermissionDenied"), "{said}");
}

#[test]
fn an_answer_that_cannot_be_used_changes_nothing() {
    let lab = Lab::new();
    let server = IdentityServer::start(&lab.authority, Behaviour::one(TOKEN, ID, HOUR));
    let arguments = lab.plain(&server);
    assert_eq!(lab.once(&strs(&arguments)).status.code(), Some(0));
    let before = lab.accepted().unwrap();
    let cases = [
        (Fault::OtherKey, 3, "does not belong"),
        (Fault::ForeignAuthority, 3, "no trusted root has signed"),
        (Fault::OtherIdentity, 3, "/other, not spiffe:"),
        (Fault::OtherEnd, 3, "not_after is not the end"),
        (Fault::Expired, 3, "has expired"),
        (Fault::Empty, 3, "0 certificates"),
        (Fault::Unavailable, 4, "Unavailable: later"),
        (Fault::Hangs, 4, "cannot reach"),
    ];
    for (fault, expected, reason) in cases {
        server.change(|behaviour| behaviour.fault = fault);
        let wished = [&strs(&arguments)[..], &["--spiffe-id", ID]].concat();
        let (code, said) = refusal(&lab.once(&wished));
        assert_eq!(code, Some(expected), "{fault:?}: {said}");
        assert!(said.contains(reason), "{fault:?}: {said}");
        assert_eq!(lab.accepted().as_ref(), Some(&before), "{fault:?}");
    }
}

#[test]
fn while_the_server_is_away_the_files_stay_and_a_rotated_token_is_read() {
    let lab = Lab::new();
    let behaviour = Behaviour::one(TOKEN, ID, Duration::from_secs(8));
    let server = IdentityServer::start(&lab.authority, behaviour.clone());
    let port = server.port;
    let mut process = lab.keep(&strs(&lab.plain(&server)));
    let first = lab.next(None, &process);
    drop(server);
    until("a failed renewal", &process, || {
        process.log().contains("going on with the one there is").then_some(())
    });
    assert_eq!(fs::read_to_string(lab.out().join("tls.crt")).unwrap(), first);
    assert!(process.is_running());

    // It comes back, and knows only the token of today.
    let back = Behaviour::one("today", ID, HOUR);
    let server = IdentityServer::start_at(port, &lab.authority, back, None);
    until("a refusal", &process, || process.log().contains("Unauthenticated").then_some(()));
    lab.write("token", "today");
    lab.next(Some(&first), &process);
    assert_eq!(server.requests().last().unwrap().token, "today");
}

#[test]
fn wrong_arguments_have_their_own_exit_code() {
    let lab = Lab::new();
    let token = lab.path("token");
    let missing = lab.path("missing");
    let config = lab.write("empty.yaml", "node: {id: a}");
    let cases: [(&[&str], i32, &str); 7] = [
        (&[], 2, "no source of identities"),
        (&["--control", "http://10.0.0.1:1", "--token-file", &token], 2, "plaintext"),
        (
            &["--control", "https://localhost:1", "--token-file", &token],
            2,
            "identity.control.ca_file: missing",
        ),
        (&["--control", "http://localhost:1", "--workload-api", "unix:///x"], 2, "cannot be used with"),
        (&["--config", &config], 2, "no source of identities"),
        (&["--control", "http://localhost:1", "--token-file", &missing], 5, "missing: No such file"),
        (&["--workload-api", &format!("unix://{missing}")], 4, "cannot reach unix://"),
    ];
    for (arguments, expected, reason) in cases {
        let (code, said) = refusal(&lab.once(arguments));
        assert_eq!(code, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    // The directory cannot be made.
    let server = IdentityServer::start(&lab.authority, Behaviour::one(TOKEN, ID, HOUR));
    fs::write(lab.out(), "a file").unwrap();
    let (code, said) = refusal(&lab.once(&strs(&lab.plain(&server))));
    assert_eq!(code, Some(5), "{said}");
}

#[test]
fn the_workload_api_is_followed_and_found_again() {
    let lab = Lab::new();
    let socket = PathBuf::from(lab.path("agent.sock"));
    let other = "spiffe://mesh.test/other";
    let say = |ttl: Duration| {
        let (one, two) = (lab.authority.svid(other, ttl), lab.authority.svid(ID, ttl));
        Ok(response(&lab.authority, &[(other, &one), (ID, &two)]))
    };
    let denied = || Err(Status::permission_denied("no identity issued"));
    let address = format!("unix://{}", socket.display());
    let arguments = ["--workload-api", address.as_str(), "--spiffe-id", ID];

    let api = WorkloadApi::start(&socket, denied());
    let (code, said) = refusal(&lab.once(&arguments));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("PermissionDenied: no identity issued"), "{said}");

    let process = lab.keep(&arguments);
    until("a refusal", &process, || process.log().contains("no identity issued").then_some(()));
    api.say(say(HOUR));
    let first = lab.next(None, &process);
    api.say(say(HOUR));
    let second = lab.next(Some(&first), &process);
    // What is not usable is passed over, the stream goes on.
    api.say(Ok(response(&lab.authority, &[])));
    until("a complaint", &process, || process.log().contains("none of the 0 identities").then_some(()));
    assert_eq!(lab.accepted().as_ref(), Some(&second));
    drop(api);
    until("a lost stream", &process, || process.log().contains("cannot reach unix://").then_some(()));
    assert_eq!(lab.accepted().as_ref(), Some(&second));
    let _back = WorkloadApi::start(&socket, say(HOUR));
    lab.next(Some(&second), &process);
    assert!(lab.names().contains(ID), "{}", lab.names());
}

/// The value of a metric without labels.
fn metric(admin: u16, name: &str) -> Option<f64> {
    let text = admin_get(admin, "/stats/prometheus")?;
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_proxy_takes_files_as_they_are_swapped_and_tells_when_they_end() {
    let lab = Lab::new();
    let install = |ttl: Duration| {
        let svid = lab.authority.svid(ID, ttl);
        lab.write("tls.crt", &svid.chain_pem);
        lab.write("tls.key", &svid.key_pem);
        lab.write("ca.crt", &lab.authority.root_pem());
    };
    install(HOUR);
    let admin = free_port();
    let [chain, key, roots] = ["tls.crt", "tls.key", "ca.crt"].map(|name| lab.path(name));
    let config = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
outrider: {{identity: {{files: {{certificate_chain: {chain}, private_key: {key}, trust_bundle: {roots}}}}}}}
"
    );
    let process = Process::outrider(&config, admin);
    let expiry = || metric(admin, "outrider_identity_expiry_timestamp_seconds");
    let first = until("an identity", &process, expiry);
    let left = first - now_s();
    assert!((3500.0..=3600.0).contains(&left), "{left}");
    assert_eq!(metric(admin, "outrider_identity_valid"), Some(1.0));

    // A key of somebody else: the old identity stays, and the failure is told once.
    let good = fs::read(&key).unwrap();
    fs::write(&key, lab.authority.svid(ID, HOUR).key_pem).unwrap();
    until("a complaint", &process, || process.log().contains("key does not belong").then_some(()));
    assert_eq!(metric(admin, "outrider_identity_valid"), Some(1.0));
    fs::write(&key, good).unwrap();

    // A life of seconds: taken, then over.
    install(Duration::from_secs(4));
    until("the new one", &process, || expiry().filter(|expiry| *expiry < first));
    until("its end", &process, || metric(admin, "outrider_identity_valid").filter(|valid| *valid == 0.0));
    assert!(now_s() >= expiry().unwrap(), "taken back before its end");
    let log = process.log();
    assert!(log.contains("a tenth of the identity's life is left") && log.contains("has expired"), "{log}");
    assert_eq!(log.matches("key does not belong").count(), 1, "{log}");
    install(HOUR);
    until("a good one again", &process, || {
        metric(admin, "outrider_identity_valid").filter(|valid| *valid == 1.0)
    });
}

#[test]
fn the_proxy_gets_its_identity_by_itself_and_counts() {
    let lab = Lab::new();
    let server = IdentityServer::start(&lab.authority, Behaviour::one(TOKEN, ID, Duration::from_secs(3)));
    let admin = free_port();
    let config =
        format!("admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n");
    let (address, token) = (url("http", server.port), lab.path("token"));
    let env = [("OUTRIDER_IDENTITY_CONTROL", &*address), ("OUTRIDER_IDENTITY_TOKEN_FILE", &*token)];
    let process = Process::outrider_with(&config, admin, &env);
    let renewals =
        |outcome: &str| metric(admin, &format!("outrider_identity_renewals_total{{outcome=\"{outcome}\"}}"));
    until("renewals", &process, || renewals("ok").filter(|count| *count >= 3.0));
    assert_eq!(metric(admin, "outrider_identity_renewal_failures_in_a_row"), Some(0.0));
    server.change(|behaviour| behaviour.tokens.clear());
    until("refusals", &process, || renewals("refused").filter(|count| *count >= 2.0));
    assert!(metric(admin, "outrider_identity_renewal_failures_in_a_row") >= Some(2.0));
    until("the end", &process, || metric(admin, "outrider_identity_valid").filter(|valid| *valid == 0.0));
}

fn now_s() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
