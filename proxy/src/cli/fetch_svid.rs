//! The arguments of `outrider-proxy fetch-svid`, and its exit codes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{WRONG, complain};
use crate::bootstrap::{self, StartError};
use crate::model::identity::IdentitySource;
use crate::observe::logging;
use crate::svid::error::FetchError;
use crate::svid::fetch::{self, Task, TaskError};
use crate::svid::options::Options;

/// Exit code when the source says no, or gives what cannot be used.
const REFUSED: u8 = 3;
/// Exit code when the source was not reached in time.
const UNREACHABLE: u8 = 4;
/// Exit code when a file could not be read or written.
const FILES: u8 = 5;
/// How long `--once` tries by default, in seconds.
const ONCE_TIMEOUT_S: u64 = 60;

/// The source is that of `--config`, or named by options or by `OUTRIDER_IDENTITY_*` variables of the same names.
///
/// Exit codes: 0 done, or ended by a signal; 2 wrong arguments; 3 the source refused; 4 the source was not reached;
/// 5 a file could not be read or written. Without `--once`, failures are logged and tried again.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where `tls.crt`, `tls.key` and `ca.crt` are kept; made if it is not there.
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    /// Writes the files once instead of keeping them fresh.
    #[arg(long)]
    once: bool,
    /// How many seconds `--once` tries to reach the source.
    #[arg(long, value_name = "SECONDS", default_value_t = ONCE_TIMEOUT_S, requires = "once")]
    timeout: u64,
    /// A start-up file with an `outrider.identity` block.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["control", "workload_api"])]
    config: Option<PathBuf>,
    /// Address of the control server: `https://HOST:PORT`.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "workload_api")]
    control: Option<String>,
    /// File of the bearer token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// PEM file of the roots that the control server is verified with.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// The name in the control server's certificate.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Life to ask for.
    #[arg(long = "ttl", value_name = "SECONDS")]
    ttl_s: Option<String>,
    /// Identity to ask for, or which of several to take.
    #[arg(long, value_name = "SPIFFE-ID")]
    spiffe_id: Option<String>,
    /// Socket of a SPIFFE Workload API: `unix:///PATH`.
    #[arg(long, value_name = "SOCKET")]
    workload_api: Option<String>,
}

/// Runs the command.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let failed = |code: u8, error: &dyn std::fmt::Display| {
        complain(&format!("fetch-svid: {error}"));
        ExitCode::from(code)
    };
    let env = |name: &str| std::env::var(name).ok();
    let json = env("OUTRIDER_LOG_FORMAT").as_deref() == Some("json");
    if let Err(error) = logging::start(&env("OUTRIDER_LOG").unwrap_or_else(|| "info".to_owned()), json) {
        return failed(WRONG, &error);
    }
    let task = match task(arguments, env) {
        Ok(task) => task,
        Err(error) => return failed(WRONG, &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(FILES, &error),
    };
    match runtime.block_on(fetch::run(task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(code(&error), &error),
    }
}

fn task(arguments: Arguments, env: impl Fn(&str) -> Option<String>) -> Result<Task, StartError> {
    let Arguments { out_dir, once, timeout, config, .. } = arguments;
    let Arguments { control, token_file, ca_file, server_name, ttl_s, spiffe_id, workload_api, .. } =
        arguments;
    let given = Options { control, token_file, ca_file, server_name, ttl_s, spiffe_id, workload_api };
    let source: Option<IdentitySource> = match config {
        Some(file) if given == Options::default() => bootstrap::read(&file)?.identity,
        Some(_) => {
            return Err(StartError(vec![
                "--config has the whole source; leave the other options out".to_owned(),
            ]));
        }
        None => given
            .or(Options::from_env(env))
            .source()
            .map_err(|faults| StartError(faults.iter().map(ToString::to_string).collect()))?,
    };
    let none =
        || StartError(vec!["no source of identities; use --config, --control or --workload-api".to_owned()]);
    let once_within = once.then(|| Duration::from_secs(timeout));
    Ok(Task { source: source.ok_or_else(none)?, out_dir, once_within })
}

const fn code(error: &TaskError) -> u8 {
    match error {
        TaskError::Fetch(FetchError::Refused { .. } | FetchError::Invalid(_)) => REFUSED,
        TaskError::Fetch(FetchError::Unreachable { .. }) => UNREACHABLE,
        TaskError::Fetch(FetchError::File { .. } | FetchError::Key(_))
        | TaskError::Write(_)
        | TaskError::Signals(_) => FILES,
    }
}
