//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bootstrap::{self, Settings, StartError};
use crate::control::secrets;
use crate::run::{self, End};

mod check_lock_in;
mod fetch_svid;
mod redirect;

/// Exit code for a wrong configuration or command line.
const WRONG: u8 = 2;

/// A small proxy beside each workload.
#[derive(Debug, Parser)]
#[command(name = "outrider-proxy", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The start-up file, in Envoy's YAML form (or $OUTRIDER_CONFIG).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what is wrong with a start-up file, and does nothing else.
    Validate {
        /// The start-up file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Does not look at the certificate files that it names: for machines that do not have them.
        #[arg(long)]
        without_files: bool,
    },
    /// Keeps certificate files fresh for a workload that does mTLS itself.
    FetchSvid(Box<fetch_svid::Arguments>),
    /// Shows that the proxy can lock itself in here: does it, and tries to get out.
    CheckLockIn(check_lock_in::Arguments),
    /// Brings the connections of this pod to its proxy, with packet filter rules.
    Redirect(Box<redirect::Arguments>),
}

/// Runs the command that the arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::FetchSvid(arguments)) => return fetch_svid::run(*arguments),
        Some(Command::CheckLockIn(arguments)) => return check_lock_in::run(arguments),
        Some(Command::Redirect(arguments)) => return redirect::run(*arguments),
        Some(Command::Validate { config, without_files }) => {
            validate(&config, without_files).map(|()| End::Drained)
        }
        None => match arguments.config.or_else(|| std::env::var_os("OUTRIDER_CONFIG").map(PathBuf::from)) {
            Some(config) => proxy(config),
            None => {
                Err(StartError(vec!["no start-up file; use --config FILE or OUTRIDER_CONFIG".to_owned()]))
            }
        },
    };
    match done {
        Ok(End::Drained) => ExitCode::SUCCESS,
        Ok(End::AtOnce) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(WRONG)
        }
    }
}

fn validate(config: &Path, without_files: bool) -> Result<(), StartError> {
    let bootstrap = bootstrap::read(config)?;
    let faults = if without_files { Vec::new() } else { secrets::check(&bootstrap.resources) };
    if !faults.is_empty() {
        return Err(bootstrap::lines(config, &faults));
    }
    say(&format!("{}: OK", config.display()));
    Ok(())
}

fn proxy(config: PathBuf) -> Result<End, StartError> {
    let mut bootstrap = bootstrap::read(&config)?;
    bootstrap::name_node(&mut bootstrap, |name| std::env::var(name).ok())?;
    let settings = Settings::from_env(config, |name| std::env::var(name).ok())?;
    run::run(&settings, bootstrap)
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why the command failed")]
fn complain(text: &str) {
    eprintln!("{text}");
}
