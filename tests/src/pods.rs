//! Pods for tests: network namespaces on one bridge, with their own addresses, rules and processes.
//!
//! Everything is in namespaces of its own, the bridge too, so that the machine's network is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::process::{Process, proxy_binary, scratch};

/// The user and the group that proxies run as.
pub const PROXY_ID: u32 = 1502;
/// How long anything may take to be as it should.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the network needs.
const TOOLS: [&str; 5] = ["ip", "nft", "tcpdump", "setpriv", "curl"];

/// Why there can be no network here, if there cannot.
#[must_use]
pub fn missing(more: &[&str]) -> Option<String> {
    let found = |tool: &str| Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
    let lacking: Vec<&str> = TOOLS
        .iter()
        .chain(more)
        .copied()
        .filter(|tool| !found(tool).is_ok_and(|output| output.status.success()))
        .collect();
    (!lacking.is_empty()).then(|| format!("not installed: {}", lacking.join(", ")))
}

/// Whether network namespaces can be made; tried once, because tests run beside each other.
pub static NAMESPACES: LazyLock<bool> = LazyLock::new(|| {
    let name = format!("probe-{}", std::process::id());
    let ip = |action: &str| Command::new("ip").args(["netns", action, &name]).output();
    let made = ip("add").is_ok_and(|output| output.status.success());
    made && ip("del").is_ok_and(|output| output.status.success())
});

/// Waits until something holds.
///
/// # Panics
/// When it does not in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Pods and the bridge between them.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    name: String,
    pods: u8,
    binary: PathBuf,
    folder: PathBuf,
}

impl Network {
    /// Without pods.
    ///
    /// # Panics
    /// When it cannot be made; ask [`missing`] first.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orl{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bridge = format!("{name}-bridge");
        ip(&format!("netns add {bridge}"));
        ip(&format!("-n {bridge} link add br0 type bridge"));
        ip(&format!("-n {bridge} link set br0 up"));
        // Where it was built, other users may not look.
        let folder = scratch("network");
        let binary = folder.join("outrider-proxy");
        fs::copy(proxy_binary(), &binary).expect("the proxy");
        Self { bridge, name, pods: 0, binary, folder }
    }

    /// Another pod.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn pod(&mut self, name: &str) -> Pod {
        self.pods += 1;
        let number = self.pods;
        let (space, wire) = (format!("{}-{name}", self.name), format!("to-{name}"));
        ip(&format!("netns add {space}"));
        ip(&format!("-n {} link add {wire} type veth peer name eth0 netns {space}", self.bridge));
        ip(&format!("-n {} link set {wire} master br0 up", self.bridge));
        let (v4, v6) = (format!("10.77.0.{number}"), format!("fd77::{number:x}"));
        ip(&format!("-n {space} link set lo up"));
        ip(&format!("-n {space} link set eth0 up"));
        ip(&format!("-n {space} addr add {v4}/24 dev eth0"));
        ip(&format!("-n {space} addr add {v6}/64 dev eth0 nodad"));
        // What is nowhere in the network leaves the pod all the same.
        ip(&format!("-n {space} route add default dev eth0"));
        ip(&format!("-n {space} -6 route add default dev eth0"));
        Pod { space, v4, v6, binary: self.binary.clone() }
    }

    /// Records what goes over a pod's wire, from when this returns.
    ///
    /// # Panics
    /// When it cannot be recorded.
    #[must_use]
    pub fn record(&self, pod: &str) -> Recording {
        let file = self.folder.join(format!("{pod}.pcap"));
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.bridge,
            "tcpdump",
            "-i",
            &format!("to-{pod}"),
            "-s0",
            "-U",
            "-n",
            "-Z",
            "root",
        ]);
        command.arg("-w").arg(&file).args(["tcp"]);
        let process = Process::spawn(command, scratch("tcpdump"), "tcpdump");
        until("tcpdump listens", || process.log().contains("listening on"));
        Recording { file, process }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.bridge]).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What went over a wire.
#[derive(Debug)]
pub struct Recording {
    file: PathBuf,
    process: Process,
}

impl Recording {
    /// Every byte that was recorded so far, heads included.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap_or_default()
    }

    /// Whether these bytes went over the wire.
    #[must_use]
    pub fn saw(&self, text: &str) -> bool {
        self.bytes().windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Ends recording; what has come is written.
    pub fn stop(&mut self) {
        self.process.signal("INT");
        let _ = self.process.wait(PATIENCE);
    }

    /// How many recorded packets fit a filter of tcpdump.
    ///
    /// # Panics
    /// When the filter is wrong.
    #[must_use]
    pub fn count(&self, filter: &str) -> usize {
        let output =
            Command::new("tcpdump").arg("-nr").arg(&self.file).arg(filter).output().expect("tcpdump");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().count()
    }
}

/// A pod: a network namespace that processes are started in.
#[derive(Debug)]
pub struct Pod {
    space: String,
    /// Its IPv4 address.
    pub v4: String,
    /// Its IPv6 address.
    pub v6: String,
    binary: PathBuf,
}

impl Pod {
    /// A command that is to run in it, as root.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(program.as_ref());
        command
    }

    /// The same as another user.
    #[must_use]
    pub fn command_as(&self, program: impl AsRef<Path>, (user, group): (u32, u32)) -> Command {
        let mut command = self.command("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
        command.arg(program.as_ref());
        command
    }

    /// What its file of hosts says, for every program that is started in it from now on.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn hosts(&self, text: &str) {
        let folder = self.settings();
        fs::create_dir_all(&folder).expect("a directory");
        fs::write(folder.join("hosts"), text).expect("a file");
        // Nobody is asked who is not there.
        fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
            .expect("a file");
    }

    /// What iproute2 puts in the place of files in `/etc`.
    fn settings(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.space)
    }

    /// Sets the redirection with our own command.
    ///
    /// # Panics
    /// When it is refused.
    pub fn redirect(&self, more: &[&str]) {
        let output = self.command(&self.binary).arg("redirect").args(more).output().expect("the proxy");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether our own command finds the redirection to work, run as a user of this number.
    ///
    /// # Errors
    /// What it says.
    pub fn verify(&self, user: u32) -> Result<(), String> {
        let mut command = self.command_as(&self.binary, (user, user));
        let output = command.args(["redirect", "--verify"]).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Starts its sidecar, as the proxy's user, and waits until it is ready. Its operator's endpoints are on 15000.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn sidecar(&self, config: &str) -> Process {
        let directory = scratch("sidecar");
        let file = directory.join("config.yaml");
        fs::write(&file, config).expect("the configuration");
        let mut command = self.command_as(&self.binary, (PROXY_ID, PROXY_ID));
        command.arg("--config").arg(&file).env("OUTRIDER_WORKERS", "2");
        command.env("OUTRIDER_ADMIN_ADDRESS", "127.0.0.1:15000");
        let mut process = Process::spawn(command, directory, "sidecar");
        until("the sidecar is ready", || {
            assert!(process.is_running(), "{}", process.log());
            self.curl(&["http://127.0.0.1:15000/ready"], None).status.success()
        });
        process
    }

    /// Starts a program in it.
    #[must_use]
    pub fn start(&self, program: &str, arguments: &[&str], directory: PathBuf) -> Process {
        let mut command = self.command(program);
        command.args(arguments);
        Process::spawn(command, directory, program)
    }

    /// Runs curl in it, as root or as another user; fails on answers that are no success.
    ///
    /// # Panics
    /// When there is no curl.
    #[must_use]
    pub fn curl(&self, arguments: &[&str], user: Option<(u32, u32)>) -> Output {
        let mut command = match user {
            Some(user) => self.command_as("curl", user),
            None => self.command("curl"),
        };
        command.args(["-sS", "--fail-with-body", "--max-time", "5"]).args(arguments);
        command.stdin(Stdio::null()).output().expect("curl")
    }

    /// Whether something listens on this port of it.
    #[must_use]
    pub fn listens(&self, port: u16) -> bool {
        let table =
            |name: &str| self.command("cat").arg(format!("/proc/net/{name}")).output().expect("cat").stdout;
        let local = format!(":{port:04X} ");
        ["tcp", "tcp6"].iter().any(|name| {
            String::from_utf8_lossy(&table(name))
                .lines()
                .any(|line| line.contains(&local) && line.contains(" 0A "))
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.space]).output();
        let _ = fs::remove_dir_all(self.settings());
    }
}
