//! Starts a subject and waits until it serves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Floor, Kind, Mode, Setup, Side, Subject, certificates, envoy_form, haproxy, nginx};
use crate::drive::{self, ClientTls, Load, Pace, Target};
use crate::measure::{Cores, Family, spawn_on};

/// How long a subject may take until it serves.
const READY: Duration = Duration::from_secs(60);
/// How long one may take to end before it is killed.
const ENDING: Duration = Duration::from_secs(2);
/// Between two looks at whether it serves.
const LOOK: Duration = Duration::from_millis(2);
/// For an answer to the first request.
const ANSWER: Duration = Duration::from_secs(2);
/// How long the first requests are sent where one line does not do.
const PROBE: Duration = Duration::from_millis(50);

/// A subject at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where it takes traffic.
    pub target: SocketAddr,
    /// From its start until the first good answer through it.
    pub ready: Duration,
    child: Option<Child>,
    scratch: Scratch,
    /// The other one of a pair, which this one leads to.
    behind: Option<Box<Running>>,
    /// What it and whoever asks it prove themselves with.
    certificates: Option<Scratch>,
    /// TLS that it wants of whoever asks it.
    tls: Option<ClientTls>,
}

/// A folder that is removed with the value.
#[derive(Debug)]
struct Scratch(PathBuf);

/// Configures a subject, starts it on its core, and waits until it serves.
///
/// # Errors
/// When it cannot be started, ends, or does not serve in time; with the last line that it wrote.
pub fn start(subject: &Subject, setup: &Setup, cores: Cores) -> Result<Running> {
    // A launcher starts both of its own.
    let own = subject.kind == Kind::Launcher;
    let Some(side) = setup.mode.side().filter(|_| !own) else {
        return one(subject, setup, cores, Path::new(""));
    };
    let certificates = Scratch::new()?;
    certificates::write(&certificates.0)?;
    let half = |side, upstream| {
        one(subject, &Setup { mode: Mode::Pair(side), upstream, ..*setup }, cores, &certificates.0)
    };
    let mut running = match side {
        Side::Client | Side::Server => half(side, setup.upstream)?,
        Side::Both => {
            let server = half(Side::Server, setup.upstream)?;
            let mut client = half(Side::Client, server.target)?;
            client.behind = Some(Box::new(server));
            client
        }
    };
    running.certificates = Some(certificates);
    Ok(running)
}

fn one(subject: &Subject, setup: &Setup, cores: Cores, certificates: &Path) -> Result<Running> {
    let scratch = Scratch::new()?;
    if subject.kind == Kind::Direct {
        return Ok(Running {
            target: setup.upstream,
            ready: Duration::ZERO,
            child: None,
            scratch,
            behind: None,
            certificates: None,
            tls: None,
        });
    }
    let (listen, admin) = (free_address()?, free_address()?);
    let mut command = command(subject, setup, (listen, admin), (&scratch.0, certificates))?;
    let log = fs::File::create(scratch.0.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let begin = Instant::now();
    let child = Some(spawn_on(&mut command, cores.subject, cores.load)?);
    let mut running = Running {
        target: listen,
        ready: Duration::ZERO,
        child,
        scratch,
        behind: None,
        certificates: None,
        tls: (setup.mode == Mode::Pair(Side::Server)).then(|| certificates::client(certificates)),
    };
    // With a control server somebody else says when the listener comes.
    if setup.control.is_none() {
        running.wait(&subject.name, setup.mode, begin)?;
    }
    Ok(running)
}

impl Running {
    /// Where load for it goes.
    #[must_use]
    pub fn towards(&self) -> Target {
        Target { address: self.target, tls: self.tls.clone() }
    }

    /// Its processes; none without a proxy.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        let mut family = Family::of(self.child.as_ref()?.id());
        if let Some(behind) = self.behind.as_ref().and_then(|behind| behind.family()) {
            family.join(&behind);
        }
        Some(family)
    }

    /// Sees that its rules are in force.
    ///
    /// # Errors
    /// When what they deny is let through: the figures would be those of a proxy without rules.
    pub fn check_policy(&self, rules: usize) -> Result<()> {
        // The last one, so that all before it are there too.
        let answered = status(self.target, &envoy_form::denied(rules.saturating_sub(1)));
        if answered.is_some_and(|status| status == *b"403") {
            return Ok(());
        }
        bail!("it takes the rules and does not deny what they name");
    }

    fn wait(&mut self, name: &str, mode: Mode, begin: Instant) -> Result<()> {
        while begin.elapsed() < READY {
            if serves(&self.towards(), mode) {
                self.ready = begin.elapsed();
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("{name} ended with {status}: {}", self.last_words());
            }
            std::thread::sleep(LOOK);
        }
        bail!("{name} does not serve after {} s: {}", READY.as_secs(), self.last_words())
    }

    /// The last line of its log, without the folder that it stands in.
    fn last_words(&self) -> String {
        let scratch = &self.scratch.0;
        let text = fs::read_to_string(scratch.join("log")).unwrap_or_default();
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        line.replace(&format!("{}/", scratch.display()), "")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let family = Family::of(child.id());
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let end = Instant::now() + ENDING;
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK);
            }
            if matches!(child.try_wait(), Ok(None)) {
                // Children first: once the parent is gone, their ids could belong to others.
                for pid in family.pids().iter().rev().filter_map(|pid| i32::try_from(*pid).ok()) {
                    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
                }
            }
            let _ = child.wait();
        }
    }
}

impl Scratch {
    /// A fresh one that a worker under another user can read too.
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("outrider-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).context("cannot make a folder for temporary files")?;
        let scratch = Self(folder);
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(
    subject: &Subject,
    setup: &Setup,
    (listen, admin): (SocketAddr, SocketAddr),
    (scratch, certificates): (&Path, &Path),
) -> Result<Command> {
    let mut command = Command::new(&subject.path);
    let file = scratch.join("config");
    let write = |text: String| fs::write(&file, text).context("cannot write a configuration");
    match subject.kind {
        Kind::Direct => {}
        Kind::Outrider => {
            write(json(&envoy_form::bootstrap(setup, listen, admin, certificates))?)?;
            command.arg("--config").arg(&file).env("OUTRIDER_WORKERS", "1").env("OUTRIDER_LOG", "error");
            command.env("OUTRIDER_DRAIN_TIMEOUT_MS", "0");
        }
        Kind::Envoy => {
            let file = scratch.join("config.json");
            fs::write(&file, json(&envoy_form::bootstrap(setup, listen, admin, certificates))?)?;
            command.args(["--concurrency", "1", "-l", "error", "--use-dynamic-base-id", "-c"]).arg(&file);
        }
        Kind::Haproxy => {
            write(haproxy::config(setup, listen, certificates))?;
            command.args(["-db", "-f"]).arg(&file);
        }
        Kind::Nginx => {
            write(nginx::config(setup, (listen, scratch), certificates))?;
            command.arg("-p").arg(scratch).args(["-e", "stderr", "-c"]).arg(&file);
        }
        Kind::Floor(_) => {
            command.args([listen.to_string(), setup.upstream.to_string()]);
            if let (Kind::Floor(Floor::Rustls), Mode::Pair(side)) = (subject.kind, setup.mode) {
                command.arg(if side == Side::Server { "server" } else { "client" }).arg(certificates);
            }
        }
        Kind::Launcher => {
            command.env("OUTRIDER_BENCH_MODE", setup.mode.name());
            command.env("OUTRIDER_BENCH_LISTEN", listen.to_string());
            command.env("OUTRIDER_BENCH_UPSTREAM", setup.upstream.to_string());
            command.env("OUTRIDER_BENCH_SCRATCH", scratch);
        }
    }
    Ok(command)
}

/// Mappings, lists and scalars that a configuration of ours may have; 10,000 services have half a million.
const MAX_EVENTS: usize = 4_000_000;

/// As JSON, which Envoy and Outrider read faster than YAML; at 10,000 services reading is most of a start.
fn json(yaml: &str) -> Result<String> {
    // The reader's own bounds are meant for what others write.
    let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_events: MAX_EVENTS, max_nodes: MAX_EVENTS } };
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(yaml, options).context("our own configuration")?;
    Ok(value.to_string())
}

/// An address on the loopback interface that is free now; the subject binds it at once.
fn free_address() -> Result<SocketAddr> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    socket.local_addr().context("no free port")
}

/// Whether it answers. A process that only listens may not have its workers yet, whose time is to be counted.
fn serves(target: &Target, mode: Mode) -> bool {
    let kind = match mode {
        Mode::Http1
        | Mode::WebSocket
        | Mode::Tcp
        | Mode::Policy(_)
        | Mode::Resilient
        | Mode::Pair(Side::Both | Side::Client) => {
            return status(target.address, "/").is_some_and(|status| status == *b"200");
        }
        Mode::Http2 => drive::Kind::H2Get(1),
        Mode::Pair(Side::Server) => drive::Kind::NewConnection,
    };
    // What refuses a connection is not worth a thread.
    if TcpStream::connect_timeout(&target.address, ANSWER).is_err() {
        return false;
    }
    let load = Load { kind, connections: 1, bytes: 12 };
    drive::pass(target, load, Pace::Closed, PROBE).is_ok_and(|pass| pass.requests > 0)
}

/// The status that a path is answered with over HTTP/1.1.
fn status(target: SocketAddr, path: &str) -> Option<[u8; 3]> {
    let mut stream = TcpStream::connect_timeout(&target, ANSWER).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.set_read_timeout(Some(ANSWER)).and_then(|()| stream.write_all(request.as_bytes())).ok()?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).ok()?;
    start.strip_prefix(b"HTTP/1.1 ")?.try_into().ok()
}
