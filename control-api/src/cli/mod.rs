//! `outrider`, the operator's command line: what can be said about objects without a server, and what a running one says.

mod cluster;
mod crds;
mod fault;
mod pods;
mod report;
mod server;
mod validate;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::report::Output;

/// Nothing is wrong.
const OK: u8 = 0;
/// Something is wrong with the objects.
const FOUND: u8 = 1;
/// The command itself could not be carried out.
const FAILED: u8 = 2;

/// Looks after a mesh.
#[derive(Debug, Parser)]
#[command(name = "outrider", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what is wrong with the objects below a directory, or in a file; exit code 1 if any has an error, 2 if it cannot
    /// be read.
    Validate {
        /// The directory, of which every .yaml, .yml and .json file below it is read; or one file.
        #[arg(value_name = "PATH")]
        dir: PathBuf,
        /// The form of the report.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// The trust domain of the mesh.
        #[arg(long, default_value = "cluster.local")]
        trust_domain: String,
        /// The namespace whose policies hold for the whole mesh.
        #[arg(long, default_value = "outrider-system")]
        root_namespace: String,
        /// Warnings count as errors.
        #[arg(long)]
        strict: bool,
    },
    /// Writes the definitions of our own kinds, for `kubectl apply -f -`.
    Crds,
    /// Faults on purpose: what runs, and how it is begun and stopped.
    Fault {
        #[command(subcommand)]
        action: fault::Action,
    },
    /// Puts sidecars into the pods of manifests, and writes the manifests; what was done goes to standard error.
    Inject(Box<pods::Inject>),
    /// Takes the sidecars out again that `inject`, or the webhook, has put there.
    Uninject(pods::Uninject),
    /// Says which pods could break out: exit code 1 if any has a finding, 2 if a file or the cluster cannot be read.
    Audit(pods::Audit),
    /// Policies of others that say what the mesh's policies say.
    #[command(subcommand)]
    Policy(pods::Policy),
    /// Writes what registers the admission webhooks, for `kubectl apply -f -`.
    Webhooks(pods::Webhooks),
    #[command(flatten)]
    Server(server::Question),
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    ExitCode::from(run(std::env::args_os(), &mut out, &mut err))
}

/// Carries out a command line; the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nobody is left to be told when this fails.
            let _ = if asked { write!(out, "{error}") } else { write!(err, "{error}") };
            return if asked { OK } else { FAILED };
        }
    };
    let done = match arguments.command {
        Command::Validate { dir, output, trust_domain, root_namespace, strict } => {
            let settings = crate::compile::Settings { trust_domain, root_namespace, ..Default::default() };
            validate::run(&dir, settings).and_then(|report| {
                report::write(&report, output, out)?;
                let fails = report.errors() > 0 || (strict && !report.diagnostics.is_empty());
                Ok(if fails { FOUND } else { OK })
            })
        }
        Command::Crds => crds::write(out).map(|()| OK),
        Command::Fault { action } => fault::run(&action, out),
        Command::Inject(asked) => pods::inject(&asked, out, err),
        Command::Uninject(asked) => pods::uninject(&asked, out, err),
        Command::Audit(asked) => pods::audit(&asked, out),
        Command::Policy(asked) => pods::policy(&asked, out, err),
        Command::Webhooks(asked) => pods::webhooks(&asked, out),
        Command::Server(question) => server::run(&question, out),
    };
    done.unwrap_or_else(|error| {
        // A reader that has enough, like `head`, is no reason to complain.
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = writeln!(err, "outrider: {error}");
        }
        FAILED
    })
}

#[cfg(test)]
mod tests;
