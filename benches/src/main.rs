//! The `outrider-bench` binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrider_bench::drive::backend;
use outrider_bench::run;

/// What a sidecar costs, beside others, on this machine.
#[derive(Debug, Parser)]
#[command(name = "outrider-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the scenarios and writes a report.
    Run(run::Arguments),
    /// Shows the scenarios.
    List,
    /// Answers requests until it is killed; prints its ports as one line of JSON. `run` starts one by itself.
    Backend,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Backend => backend::serve(),
        Command::List => {
            run::list();
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "why the command failed")]
fn complain(text: &str) {
    eprintln!("outrider-bench: {text}");
}
