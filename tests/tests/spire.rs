//! Against a real SPIRE server and agent, where there are some: `OUTRIDER_TEST_SPIRE` is the folder with the binaries
//! `spire-server` and `spire-agent`. `identity.rs` has the same against a server of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use outrider_tests::process::{Process, free_port, proxy_binary, scratch};

const ID: &str = "spiffe://mesh.test/ns/shop/sa/cart";
const AGENT: &str = "spiffe://mesh.test/agent";
/// How long SPIRE may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Life of SVIDs, seconds; the agent renews them at half of it.
const TTL_S: &str = "20";

struct Spire {
    binaries: PathBuf,
    directory: PathBuf,
    _server: Process,
    agent: Option<Process>,
    port: u16,
}

impl Drop for Spire {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Spire {
    fn start() -> Option<Self> {
        let Some(binaries) = std::env::var_os("OUTRIDER_TEST_SPIRE").map(PathBuf::from) else {
            eprintln!(
                "SKIPPED: OUTRIDER_TEST_SPIRE does not name the folder of spire-server and spire-agent"
            );
            return None;
        };
        let (directory, port) = (scratch("spire"), free_port());
        let at = directory.display();
        let config = format!(
            "server {{ bind_address = \"127.0.0.1\" bind_port = \"{port}\" socket_path = \"{at}/server.sock\"
              trust_domain = \"mesh.test\" data_dir = \"{at}\" }}
            plugins {{
              DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" connection_string = \"{at}/db\" }} }}
              NodeAttestor \"join_token\" {{ plugin_data {{}} }}
              KeyManager \"memory\" {{ plugin_data {{}} }}
            }}"
        );
        fs::write(directory.join("server.conf"), config).unwrap();
        let mut command = Command::new(binaries.join("spire-server"));
        command.arg("run").arg("-config").arg(directory.join("server.conf"));
        let server = Process::spawn(command, scratch("spire-server"), "spire-server");
        let mut spire = Self { binaries, directory, _server: server, agent: None, port };
        spire.wait("spire-server", "server.sock");
        let roots = spire.ask(&["bundle", "show"]);
        fs::write(spire.directory.join("roots.pem"), roots).unwrap();
        let own =
            "unix:uid:".to_owned() + String::from_utf8_lossy(&output(Command::new("id").arg("-u"))).trim();
        spire.ask(&[
            "entry",
            "create",
            "-parentID",
            AGENT,
            "-spiffeID",
            ID,
            "-selector",
            &own,
            "-x509SVIDTTL",
            TTL_S,
        ]);
        spire.start_agent();
        Some(spire)
    }

    fn start_agent(&mut self) {
        let said = self.ask(&["token", "generate", "-spiffeID", AGENT]);
        let token = said.split_whitespace().last().unwrap().to_owned();
        let (at, port) = (self.directory.display(), self.port);
        let data = scratch("spire-agent-data");
        let config = format!(
            "agent {{ server_address = \"127.0.0.1\" server_port = \"{port}\" socket_path = \"{at}/agent.sock\"
              trust_domain = \"mesh.test\" trust_bundle_path = \"{at}/roots.pem\" data_dir = \"{}\" }}
            plugins {{
              NodeAttestor \"join_token\" {{ plugin_data {{}} }}
              KeyManager \"memory\" {{ plugin_data {{}} }}
              WorkloadAttestor \"unix\" {{ plugin_data {{}} }}
            }}",
            data.display()
        );
        fs::write(self.directory.join("agent.conf"), config).unwrap();
        let mut command = Command::new(self.binaries.join("spire-agent"));
        command.arg("run").args(["-joinToken", &token, "-config"]).arg(self.directory.join("agent.conf"));
        self.agent = Some(Process::spawn(command, data, "spire-agent"));
    }

    /// Waits until a process listens on its socket.
    fn wait(&self, name: &str, socket: &str) {
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.directory.join(socket)).is_err() {
            assert!(Instant::now() < end, "{name} does not listen: {}", self._server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.binaries.join("spire-server"));
        command.args(arguments).arg("-socketPath").arg(self.directory.join("server.sock"));
        String::from_utf8(output(&mut command)).unwrap()
    }
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// Waits for a certificate other than this that openssl accepts.
fn next(out: &Path, before: Option<&str>, process: &Process) -> String {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Ok(version) = fs::canonicalize(out.join("..data")) {
            let (chain, roots) = (version.join("tls.crt"), version.join("ca.crt"));
            let verify = Command::new("openssl")
                .arg("verify")
                .arg("-CAfile")
                .arg(&roots)
                .arg(&chain)
                .output()
                .unwrap();
            let text = fs::read_to_string(&chain).unwrap_or_default();
            if verify.status.success() && Some(text.as_str()) != before {
                return text;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no new certificate\n{}", process.log());
}

#[test]
fn an_identity_of_spire_is_kept_fresh_over_renewals_and_a_restart_of_the_agent() {
    let Some(mut spire) = Spire::start() else { return };
    let out = spire.directory.join("out");
    let mut command = Command::new(proxy_binary());
    command.arg("fetch-svid").arg("--out-dir").arg(&out).arg("--workload-api");
    // It is started beside the agent, which does not listen yet.
    command.arg(format!("unix://{}/agent.sock", spire.directory.display()));
    let process = Process::spawn(command, scratch("fetch-svid"), "fetch-svid");
    let first = next(&out, None, &process);
    let names = output(
        Command::new("openssl")
            .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
            .arg(out.join("tls.crt")),
    );
    assert!(String::from_utf8_lossy(&names).contains(ID));
    let second = next(&out, Some(&first), &process);

    drop(spire.agent.take());
    let end = Instant::now() + PATIENCE;
    while !process.log().contains("going on with the one there is") {
        assert!(Instant::now() < end, "{}", process.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    spire.start_agent();
    next(&out, Some(&second), &process);
}
