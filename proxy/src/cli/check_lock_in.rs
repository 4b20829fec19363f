//! `outrider-proxy check-lock-in`: locks itself in and tries to get out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{WRONG, complain, say};
use crate::bootstrap::{self, Settings, StartError};
use crate::lockin::Level;
use crate::lockin::probe::{ATTEMPTS, Outcome};
use crate::run;

/// Exit code when something was not refused.
const OPEN: u8 = 3;

/// Locks itself in as a proxy with this start-up file would, then tries what must be refused, on two threads.
///
/// Takes the same `OUTRIDER_LOCK_IN*` variables. Exit codes: 0 everything was refused; 2 wrong arguments, or the
/// proxy cannot lock itself in here; 3 something was not refused.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The start-up file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    match check(arguments.config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(OPEN),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(WRONG)
        }
    }
}

fn check(config: PathBuf) -> Result<bool, StartError> {
    let bootstrap = bootstrap::read(&config)?;
    let settings = Settings::from_env(config, |name| std::env::var(name).ok())?;
    let report =
        run::lock_in(&settings, &bootstrap).map_err(|error| StartError(vec![format!("lock-in: {error}")]))?;
    say(&report.to_json().to_string());
    let config = settings.config.clone();
    let attempts = move || ATTEMPTS.iter().map(|attempt| attempt.make(&config)).collect::<Vec<Outcome>>();
    // A thread that was started afterwards is locked in like the first one.
    let other = std::thread::spawn(attempts.clone());
    let first = attempts();
    let other = other.join().map_err(|_| StartError(vec!["the second thread failed".to_owned()]))?;
    for ((attempt, first), other) in ATTEMPTS.iter().zip(&first).zip(&other) {
        say(&format!("{:<24} {:<40} {}", attempt.name, text(first), text(other)));
    }
    let all_refused = first.iter().chain(&other).all(Outcome::is_refused);
    if !all_refused && settings.lock_in == Level::Enforce {
        complain("something was not refused");
    }
    Ok(all_refused)
}

fn text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(error) => format!("refused: {error}"),
        Outcome::Passed(Some(error)) => format!("NOT REFUSED: {error}"),
        Outcome::Passed(None) => "NOT REFUSED: it worked".to_owned(),
    }
}
