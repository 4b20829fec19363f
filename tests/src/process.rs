//! The proxies under test as real processes.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// A running process, killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where its configuration and its log are.
    pub directory: PathBuf,
    name: String,
}

/// Below the ports that the system gives to outgoing connections, which could take one before its proxy does.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that is free now. Two callers in this process never get the same, two processes hardly ever.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(127);
    for _ in PORTS {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
        let port = PORTS.start + u16::try_from(offset).expect("within the range");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// A fresh directory for the files of one process.
#[must_use]
pub fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory =
        std::env::temp_dir().join(format!("outrider-test-{}-{number}-{name}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// Our binary: `OUTRIDER_PROXY_BIN`, or what the workspace has built.
#[must_use]
pub fn proxy_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("OUTRIDER_PROXY_BIN") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let built = ["fast", "release", "debug"].map(|profile| target.join(profile).join("outrider-proxy"));
    built.into_iter().find(|path| path.exists()).expect("outrider-proxy is not built; run `make test`")
}

/// Envoy's binary, if there is one. In CI its absence is an error.
#[must_use]
pub fn envoy_binary() -> Option<PathBuf> {
    let found = std::env::var_os("OUTRIDER_TEST_ENVOY").map(PathBuf::from).filter(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "Envoy is missing and CI must have it");
    found
}

impl Process {
    /// Starts our proxy with this configuration and waits until `admin_port` says that it is ready.
    #[must_use]
    pub fn outrider(config: &str, admin_port: u16) -> Self {
        Self::outrider_with(config, admin_port, &[])
    }

    /// The same with more environment variables.
    #[must_use]
    pub fn outrider_with(config: &str, admin_port: u16, env: &[(&str, &str)]) -> Self {
        Self::outrider_limited(config, admin_port, env, None)
    }

    /// The same with a limit on the files that it may have open (`prlimit` of util-linux sets it).
    #[must_use]
    pub fn outrider_limited(
        config: &str,
        admin_port: u16,
        env: &[(&str, &str)],
        open_files: Option<u32>,
    ) -> Self {
        let directory = scratch("outrider");
        let file = directory.join("config.yaml");
        fs::write(&file, config).expect("the configuration");
        let mut command = match open_files {
            None => Command::new(proxy_binary()),
            Some(limit) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(proxy_binary());
                command
            }
        };
        command.arg("--config").arg(&file).env("OUTRIDER_WORKERS", "2").envs(env.iter().copied());
        let mut process = Self::spawn(command, directory, "outrider-proxy");
        // What comes from others is often sent by the test only after this.
        let alone = ["ads_config", "identity"].iter().all(|other| !config.contains(other));
        process.wait_for(admin_port, if alone { "/ready" } else { "/live" });
        process
    }

    /// Starts Envoy likewise.
    #[must_use]
    pub fn envoy(binary: &Path, config: &str, admin_port: u16) -> Self {
        let directory = scratch("envoy");
        let file = directory.join("config.yaml");
        fs::write(&file, config).expect("the configuration");
        let mut command = Command::new(binary);
        command
            .args(["--concurrency", "1", "--log-level", "error", "--file-flush-interval-msec", "100"])
            .arg("--base-id-path")
            .arg(directory.join("id"));
        command.args(["--use-dynamic-base-id", "-c"]).arg(&file);
        let mut process = Self::spawn(command, directory, "envoy");
        process.wait_for(admin_port, "/ready");
        process
    }

    /// Starts any command; its output goes to `log` in its directory.
    #[must_use]
    pub fn spawn(mut command: Command, directory: PathBuf, name: &str) -> Self {
        let log = fs::File::create(directory.join("log")).expect("a log file");
        let errors = log.try_clone().expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        Self {
            child: child.unwrap_or_else(|error| panic!("{name}: {error}")),
            directory,
            name: name.to_owned(),
        }
    }

    fn wait_for(&mut self, admin_port: u16, path: &str) {
        let end = Instant::now() + READY;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            if admin_get(admin_port, path).is_some_and(|answer| answer.contains(" 200 ")) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} does not answer {path}:\n{}", self.name, self.log());
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Sends a signal by name, `TERM` for example.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end and says its exit code.
    #[must_use]
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status.code().unwrap_or(-1));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Resident memory, in bytes.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most that was ever resident, in bytes.
    #[must_use]
    pub fn peak_rss_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// One request to an admin port; the whole answer.
#[must_use]
pub fn admin_get(port: u16, path: &str) -> Option<String> {
    admin_request(port, "GET", path)
}

/// One request with any method to an admin port; the whole answer.
#[must_use]
pub fn admin_request(port: u16, method: &str, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
