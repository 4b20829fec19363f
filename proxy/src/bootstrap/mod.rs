//! Start-up settings: the file, the environment and the command line, checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrider_proto::{Fault, json};

use crate::lockin::Level;
use crate::model::bootstrap::Bootstrap;
use crate::model::files::NamedFiles;
use crate::model::identity::IdentitySource;
use crate::svid::options::Options;

/// Largest start-up file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Longest id of a node that the environment gives, in bytes: more than any name of a pod has.
const MAX_NODE_ID_BYTES: usize = 253;
/// Most workers.
const MAX_WORKERS: usize = 256;
/// How long connections may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// File descriptors that are not for downstream connections and their upstream ones.
const RESERVED_FILES: u64 = 128;

/// What the proxy is started with, beside its resources.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The start-up file.
    pub config: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Downstream connections of each worker.
    pub max_connections: usize,
    /// Whether answers of our own say their reason in the `outrider-error` header.
    pub names_reason: bool,
    /// Whether faults may be injected at all.
    pub faults: bool,
    /// Whether whoever reaches the operator's endpoints may change something through them.
    pub admin_changes: bool,
    /// Where the operator's endpoints listen, if not where the file says.
    pub admin: Option<SocketAddr>,
    /// How long connections may take to end.
    pub drain_timeout: Duration,
    /// Level of the proxy's own log.
    pub log_level: String,
    /// Whether it is JSON.
    pub log_json: bool,
    /// Where Kubernetes says that its API server is.
    pub api_server: Option<SocketAddr>,
    /// Where the workload's identity comes from, if not from where the file says.
    pub identity: Option<IdentitySource>,
    /// How far the proxy locks itself in.
    pub lock_in: Level,
    /// Files and directories that are opened for it beside those that the start-up file names: to read, and to write.
    pub lock_in_paths: (Vec<PathBuf>, Vec<PathBuf>),
}

/// Why the proxy cannot start; one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct StartError(pub Vec<String>);

impl Settings {
    /// From the environment, the file's path given.
    ///
    /// # Errors
    /// Every variable whose value is wrong.
    pub fn from_env(config: PathBuf, env: impl Fn(&str) -> Option<String>) -> Result<Self, StartError> {
        let mut wrong = Vec::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = number(&env, "OUTRIDER_WORKERS", cores, 1..=MAX_WORKERS, &mut wrong);
        let files = crate::sys::raise_open_files();
        // Every downstream connection may have one upstream.
        let room = usize::try_from(files.saturating_sub(RESERVED_FILES) / 2).unwrap_or(usize::MAX);
        let most = number(&env, "OUTRIDER_MAX_CONNECTIONS", room, 1..=usize::MAX, &mut wrong);
        let drain = number(
            &env,
            "OUTRIDER_DRAIN_TIMEOUT_MS",
            DRAIN_TIMEOUT.as_millis() as usize,
            0..=usize::MAX,
            &mut wrong,
        );
        let admin = env("OUTRIDER_ADMIN_ADDRESS").and_then(|text| match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                wrong.push(format!("OUTRIDER_ADMIN_ADDRESS: \"{text}\" is not an address with a port"));
                None
            }
        });
        let log_level = env("OUTRIDER_LOG").unwrap_or_else(|| "info".to_owned());
        if !["error", "warn", "info", "debug", "trace", "off"].contains(&log_level.as_str()) {
            wrong.push(format!(
                "OUTRIDER_LOG: \"{log_level}\" is none of error, warn, info, debug, trace, off"
            ));
        }
        let names_reason = switch(&env, "OUTRIDER_ERROR_HEADER", &mut wrong);
        let faults = switch(&env, "OUTRIDER_FAULTS", &mut wrong);
        let admin_changes = switch(&env, "OUTRIDER_ADMIN_CHANGES", &mut wrong);
        let log_json = match env("OUTRIDER_LOG_FORMAT").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => {
                wrong.push(format!("OUTRIDER_LOG_FORMAT: \"{other}\" is none of text, json"));
                false
            }
        };
        let identity = Options::from_env(&env).source().unwrap_or_else(|faults| {
            wrong.extend(faults.iter().map(|fault| format!("OUTRIDER_IDENTITY_*: {fault}")));
            None
        });
        let lock_in = lock_in(&env, &mut wrong);
        let paths =
            |name: &str| env(name).map(|text| std::env::split_paths(&text).collect()).unwrap_or_default();
        let lock_in_paths = (paths("OUTRIDER_LOCK_IN_READ"), paths("OUTRIDER_LOCK_IN_WRITE"));
        if !wrong.is_empty() {
            return Err(StartError(wrong));
        }
        Ok(Self {
            config,
            workers,
            max_connections: (most / workers).max(1),
            names_reason,
            faults,
            admin_changes,
            admin,
            drain_timeout: Duration::from_millis(drain as u64),
            log_level,
            log_json,
            api_server: api_server(&env),
            identity,
            lock_in,
            lock_in_paths,
        })
    }
}

/// A variable that is `on` or `off`; `on` when it is not set.
fn switch(env: impl Fn(&str) -> Option<String>, name: &str, wrong: &mut Vec<String>) -> bool {
    match env(name).as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(other) => {
            wrong.push(format!("{name}: \"{other}\" is none of on, off"));
            true
        }
    }
}

/// From the variables that Kubernetes gives to every container. Some clouds give a name, which says nothing about
/// addresses; a rule of the egress guard has to then.
fn api_server(env: impl Fn(&str) -> Option<String>) -> Option<SocketAddr> {
    let address = env("KUBERNETES_SERVICE_HOST")?.parse().ok()?;
    let port = env("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
    Some(SocketAddr::new(address, port.unwrap_or(443)))
}

fn lock_in(env: impl Fn(&str) -> Option<String>, wrong: &mut Vec<String>) -> Level {
    let Some(text) = env("OUTRIDER_LOCK_IN") else { return Level::default() };
    Level::from_name(&text).unwrap_or_else(|| {
        wrong.push(format!("OUTRIDER_LOCK_IN: \"{text}\" is none of enforce, log, off"));
        Level::default()
    })
}

fn number(
    env: impl Fn(&str) -> Option<String>,
    name: &str,
    default: usize,
    range: std::ops::RangeInclusive<usize>,
    wrong: &mut Vec<String>,
) -> usize {
    let Some(text) = env(name) else { return default };
    match text.trim().parse() {
        Ok(number) if range.contains(&number) => number,
        _ => {
            wrong.push(format!(
                "{name}: \"{text}\" is not a number from {} to {}",
                range.start(),
                range.end()
            ));
            default
        }
    }
}

/// Reads and checks a start-up file.
///
/// # Errors
/// One line per fault: `FILE: path.of.the.field: reason`.
pub fn read(file: &Path) -> Result<Bootstrap, StartError> {
    let named = |reason: String| StartError(vec![format!("{}: {reason}", file.display())]);
    let size = std::fs::metadata(file).map_err(|error| named(error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(named(format!("{size} bytes, more than {MAX_FILE_BYTES}")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    parse(&text).map_err(|faults| lines(file, &faults))
}

/// Gives the node the id of `OUTRIDER_NODE_ID`, if that is set. A pod has no name yet when its start-up file is made.
///
/// # Errors
/// When it cannot be one.
pub fn name_node(bootstrap: &mut Bootstrap, env: impl Fn(&str) -> Option<String>) -> Result<(), StartError> {
    let Some(id) = env("OUTRIDER_NODE_ID") else { return Ok(()) };
    let plain = |byte: u8| byte.is_ascii_graphic();
    if id.is_empty() || id.len() > MAX_NODE_ID_BYTES || !id.bytes().all(plain) {
        let reason =
            format!("OUTRIDER_NODE_ID: must be 1 to {MAX_NODE_ID_BYTES} printable characters without blanks");
        return Err(StartError(vec![reason]));
    }
    bootstrap.node.id = id;
    Ok(())
}

/// The lines that tell what is wrong with a file.
#[must_use]
pub fn lines(file: &Path, faults: &[Fault]) -> StartError {
    StartError(faults.iter().map(|fault| format!("{}: {fault}", file.display())).collect())
}

/// Checks the text of a start-up file.
///
/// # Errors
/// All faults.
pub fn parse(text: &str) -> Result<Bootstrap, Vec<Fault>> {
    let mut files = NamedFiles::default();
    let see = |json: &serde_json::Value| files = NamedFiles::from_json(json);
    let bootstrap: outrider_proto::envoy::config::bootstrap::v3::Bootstrap = json::from_yaml_seen(text, see)?;
    // What reads text is not needed by what comes now; with its pages the start would be what takes most memory.
    crate::sys::release_code();
    Ok(Bootstrap { files, ..Bootstrap::from_proto(bootstrap)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_variable_is_named() {
        let env = |name: &str| match name {
            "OUTRIDER_WORKERS" => Some("0".to_owned()),
            "OUTRIDER_LOG" => Some("loud".to_owned()),
            "OUTRIDER_ADMIN_ADDRESS" => Some("here".to_owned()),
            "OUTRIDER_ERROR_HEADER" => Some("maybe".to_owned()),
            "OUTRIDER_LOCK_IN" => Some("perhaps".to_owned()),
            _ => None,
        };
        let wrong = Settings::from_env(PathBuf::from("x"), env).unwrap_err().0;
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        assert!(wrong[0].starts_with("OUTRIDER_WORKERS: \"0\" is not a number from 1 to 256"));
    }

    #[test]
    fn the_environment_names_the_node() {
        let named = |id: Option<&str>| {
            let mut bootstrap = parse("node: {id: of-the-file}").unwrap();
            name_node(&mut bootstrap, |_| id.map(str::to_owned)).map(|()| bootstrap.node.id)
        };
        assert_eq!(named(None).unwrap(), "of-the-file");
        assert_eq!(named(Some("cart-7f9-x2")).unwrap(), "cart-7f9-x2");
        for wrong in ["", "a b", "ü", &"a".repeat(254)] {
            assert!(named(Some(wrong)).unwrap_err().0[0].starts_with("OUTRIDER_NODE_ID: "), "{wrong}");
        }
    }

    #[test]
    fn faults_of_resources_are_under_their_paths() {
        let yaml = "static_resources: {clusters: [{name: a}, {name: a, connect_timeout: 0s}, {connect_timeout: 1s}]}";
        let found: Vec<String> = parse(yaml).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "static_resources.clusters[1].connect_timeout: must be longer than 0",
                "static_resources.clusters[2].name: missing",
                "static_resources.clusters[1]: \"a\" is there twice",
            ]
        );
    }
}
