//! The control server's command line, and the server from start to end.

mod arguments;
mod cluster;
mod in_mesh;
mod kept;
mod run;
mod webhook;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser as _;

use crate::auth::join::JoinKey;
use crate::auth::{check_segment, check_trust_domain};
use crate::ca::state::StateDir;
use crate::proxy_info::Identity;
use arguments::{Arguments, Command, Token};

/// Exit code for a wrong configuration or command line.
const WRONG: u8 = 2;

/// Why the control server does not start, or a command fails.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl StartError {
    fn of(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Self + '_ {
        move |error| Self(format!("{what}: {error}"))
    }
}

/// Runs the command that the arguments ask for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Token(token)) => print_token(&token),
        None => run::run(arguments.serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(WRONG)
        }
    }
}

fn print_token(token: &Token) -> Result<(), StartError> {
    for (flag, name) in [("--namespace", &token.namespace), ("--service-account", &token.service_account)] {
        if !check_segment(name) {
            return Err(StartError(format!("{flag}: \"{name}\" is not letters, digits, '.', '-' and '_'")));
        }
    }
    if !check_trust_domain(&token.common.trust_domain) {
        return Err(StartError(format!("--trust-domain: \"{}\" is not one", token.common.trust_domain)));
    }
    let failed = StartError::of("--state-dir");
    // The control server may be at work in it: what it has is read, and nothing is made or cleared away.
    let state = StateDir::existing(&token.common.state_dir).map_err(|error| failed(&error))?;
    let key = JoinKey::existing(&state, &token.common.trust_domain).map_err(|error| failed(&error))?;
    let identity = Identity {
        trust_domain: token.common.trust_domain.as_str().into(),
        namespace: token.namespace.as_str().into(),
        service_account: token.service_account.as_str().into(),
    };
    let life = Duration::from_secs(token.life_s);
    let made = key.token(&identity, life, SystemTime::now());
    say(&made.map_err(|error| StartError::of("token")(&error))?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why the command failed")]
fn complain(text: &str) {
    eprintln!("{text}");
}
