//! The `outrider-bench` binary.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outrider_bench::{backend, load, run};

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
    /// Sends load to a target, and shows throughput, errors and latency.
    Load(load::cli::Arguments),
    /// Answers requests until it is killed; prints its ports as one line of JSON. `run` starts one by itself.
    Backend(backend::cli::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Load(arguments) => {
            load::cli::load(&arguments).and_then(|text| Ok(writeln!(std::io::stdout(), "{text}")?))
        }
        Command::Backend(arguments) => backend::cli::backend(&arguments),
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
