//! `outrider fault`: what runs, and how it is begun and stopped.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::OK;
use super::server::ask::{ask, encoded, tell};
use super::server::table::Table;
use super::server::{Form, Options, list, text};

/// What is to be done.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Action {
    /// All faults, and what is left of each.
    List {
        #[command(flatten)]
        options: Options,
    },
    /// Begins faults that are in no file of the control server. They end with their duration, with a stop, and when the
    /// control server restarts.
    Apply {
        /// YAML with `FaultInjection` objects.
        #[arg(long, short, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        token: Token,
        #[command(flatten)]
        options: Options,
    },
    /// Ends one fault, or all of them; proxies are told at once.
    Stop {
        /// `NAMESPACE/NAME`; without a namespace `default`.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// All of them, and none begins until `outrider fault resume`.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Lifts a stop of all. Faults of files whose time is not over go on.
    Resume {
        #[command(flatten)]
        token: Token,
        #[command(flatten)]
        options: Options,
    },
}

/// Who may begin faults.
#[derive(Args, Clone, Debug)]
pub(super) struct Token {
    /// The operator's token, in the control server's state directory.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/outrider/operator.token")]
    token_file: PathBuf,
}

/// Does it, and shows how faults are then; the exit code.
///
/// # Errors
/// When it cannot be done, or shown.
pub(super) fn run(action: &Action, out: &mut dyn Write) -> io::Result<u8> {
    let (options, answer) = match action {
        Action::List { options } => (options, ask(&options.control, "/api/v1/faults")?),
        Action::Apply { file, token, options } => {
            let body = read(file)?;
            let token = read(&token.token_file)?;
            (options, tell(&options.control, "/api/v1/faults", (Some(token.trim()), &body))?)
        }
        Action::Stop { name, options, .. } => {
            let path = match name {
                None => "/api/v1/faults/stop".to_owned(),
                Some(name) => {
                    let name = full(name);
                    let (namespace, name) = name.split_once('/').unwrap_or_default();
                    format!("/api/v1/faults/{}/{}/stop", encoded(namespace), encoded(name))
                }
            };
            (options, tell(&options.control, &path, (None, ""))?)
        }
        Action::Resume { token, options } => {
            let token = read(&token.token_file)?;
            (options, tell(&options.control, "/api/v1/faults/resume", (Some(token.trim()), ""))?)
        }
    };
    if options.output == Form::Json {
        writeln!(out, "{answer:#}")?;
    } else {
        table(&answer).write(out)?;
        for fault in list(&answer, "faults").iter().filter(|fault| fault["unable"].as_u64() > Some(0)) {
            let (name, unable) = (named(fault), &fault["unable"]);
            writeln!(
                out,
                "{name}: proxies that are meant and take no faults, because they are not ours: {unable}"
            )?;
        }
        if let Action::Stop { name: Some(name), .. } = action
            && !list(&answer, "faults").iter().any(|fault| named(fault) == full(name))
        {
            writeln!(out, "{} is stopped, and gone: it was applied by hand.", full(name))?;
        }
        if answer.get("stopped") == Some(&Value::Bool(true)) {
            writeln!(out, "All faults are stopped, until `outrider fault resume`.")?;
        }
    }
    Ok(OK)
}

fn read(file: &Path) -> io::Result<String> {
    fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

/// With its namespace.
fn full(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("default/{name}") }
}

fn named(fault: &Value) -> String {
    format!("{}/{}", text(&fault["namespace"]), text(&fault["name"]))
}

fn table(answer: &Value) -> Table {
    let mut table = Table::new(&["FAULT", "PHASE", "LEFT", "PROXIES", "FROM"]);
    for fault in list(answer, "faults") {
        table.row([
            named(fault),
            text(&fault["phase"]).to_owned(),
            fault["left_s"].as_u64().map_or_else(|| "-".to_owned(), |left| format!("{left}s")),
            match fault["lapsed"].as_u64() {
                None | Some(0) => format!("{}/{}", fault["acknowledged"], fault["proxies"]),
                Some(lapsed) => format!("{}/{} ({lapsed} lapsed)", fault["acknowledged"], fault["proxies"]),
            },
            match text(&fault["file"]) {
                "" => "applied".to_owned(),
                file => file.to_owned(),
            },
        ]);
    }
    table
}
