//! The control server's command line, and the server from start to end.

mod arguments;
mod cluster;
mod in_mesh;
mod kept;
mod run;
mod token;
mod webhook;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};

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
        Some(Command::Token(token)) => token::made(&token).map(|made| say(&made)),
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

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why the command failed")]
fn complain(text: &str) {
    eprintln!("{text}");
}
