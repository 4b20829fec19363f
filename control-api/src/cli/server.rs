//! What a running control server says: objects, proxies, configuration, endpoints.

pub(super) mod ask;
pub(super) mod table;

use std::io::{self, Write};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use self::table::Table;
use super::{FOUND, OK};
use crate::object::ObjectKind;

/// Which control server, and how its answer is shown.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// The control server's HTTP API, by address or by name.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15080", value_parser = ask::host_and_port)]
    pub(super) control: String,
    /// The form of the answer.
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    pub(super) output: Form,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people.
    Table,
    /// As the control server says it.
    Json,
}

/// A kind of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Clusters.
    #[value(alias = "clusters")]
    Cluster,
    /// Endpoints of clusters.
    #[value(alias = "endpoint")]
    Endpoints,
    /// Listeners.
    #[value(alias = "listeners")]
    Listener,
    /// Route tables.
    #[value(alias = "routes")]
    Route,
    /// Faults.
    #[value(alias = "fault")]
    Faults,
    /// Destinations that are asked for.
    #[value(alias = "destinations")]
    Destination,
    /// Who is cut off.
    #[value(alias = "revocation")]
    Revocations,
    /// Secrets, without their contents.
    #[value(alias = "secrets")]
    Secret,
}

impl Kind {
    /// As the API calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Faults => "faults",
            Self::Destination => "destination",
            Self::Revocations => "revocations",
            Self::Secret => "secret",
        }
    }
}

/// A question.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Question {
    /// What became of all objects; exit code 1 if any is not as it should be.
    Status {
        #[command(flatten)]
        options: Options,
    },
    /// One object, its conditions and what is wrong with it; exit code 1 if anything is.
    Describe {
        /// `KIND/NAMESPACE/NAME`, for example `HTTPRoute/shop/cart`; `KIND/NAME` for what is in no namespace.
        #[arg(value_parser = object_name)]
        object: String,
        #[command(flatten)]
        options: Options,
    },
    /// Who is connected; exit code 1 if anybody refuses something.
    Proxies {
        #[command(flatten)]
        options: Options,
    },
    /// The resources that a proxy is told, as JSON.
    Config {
        /// Its `node.id`.
        proxy: String,
        /// Only this kind.
        #[arg(long, value_enum, value_name = "KIND")]
        kind: Option<Kind>,
        /// Only the resource of this name.
        #[arg(long)]
        name: Option<String>,
        /// Of several proxies with this id, the one of this namespace.
        #[arg(short, long, value_name = "NAME")]
        namespace: Option<String>,
        /// Of several proxies with this id, the one of this service account.
        #[arg(long, value_name = "NAME")]
        service_account: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Who serves a service.
    Endpoints {
        /// `NAMESPACE/NAME`
        #[arg(value_parser = service_name)]
        service: String,
        #[command(flatten)]
        options: Options,
    },
}

/// Asks, and shows the answer; the exit code.
///
/// # Errors
/// When there is no answer, or it cannot be written.
pub(super) fn run(question: &Question, out: &mut dyn Write) -> io::Result<u8> {
    let options = options(question);
    let answer = ask::ask(&options.control, &path(question))?;
    let code = if is_well(question, &answer) { OK } else { FOUND };
    if options.output == Form::Json || matches!(question, Question::Config { .. }) {
        writeln!(out, "{answer:#}")?;
        return Ok(code);
    }
    match question {
        Question::Status { .. } => {
            objects(&answer).write(out)?;
            for problem in list(&answer, "problems") {
                writeln!(out, "{}", table::problem(problem))?;
            }
        }
        Question::Describe { .. } => describe(&answer, out)?,
        Question::Proxies { .. } => proxies(&answer).write(out)?,
        Question::Endpoints { .. } => endpoints(&answer).write(out)?,
        Question::Config { .. } => {}
    }
    Ok(code)
}

/// A kind that is in no namespace has none between its slashes, or one slash only.
fn object_name(text: &str) -> Result<String, String> {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [kind, _, name] if !kind.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        [kind, name] if is_in_no_namespace(kind) && !name.is_empty() => Ok(format!("{kind}//{name}")),
        _ => Err("KIND/NAMESPACE/NAME is needed, for example HTTPRoute/shop/cart".to_owned()),
    }
}

fn is_in_no_namespace(name: &str) -> bool {
    ObjectKind::ALL.into_iter().any(|kind| kind.as_str() == name && !kind.is_namespaced())
}

fn service_name(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        Some(_) | None => Err("NAMESPACE/NAME is needed, for example shop/cart".to_owned()),
    }
}

fn options(question: &Question) -> &Options {
    match question {
        Question::Status { options }
        | Question::Describe { options, .. }
        | Question::Proxies { options }
        | Question::Config { options, .. }
        | Question::Endpoints { options, .. } => options,
    }
}

fn path(question: &Question) -> String {
    let below = |page: &str, path: &str| {
        let parts: Vec<String> = path.split('/').map(ask::encoded).collect();
        format!("/api/v1/{page}/{}", parts.join("/"))
    };
    match question {
        Question::Status { .. } => "/api/v1/status".to_owned(),
        Question::Describe { object, .. } => below("status", object),
        Question::Proxies { .. } => "/api/v1/proxies".to_owned(),
        Question::Endpoints { service, .. } => below("services", service),
        Question::Config { proxy, kind, name, namespace, service_account, .. } => {
            let kind = kind.map(|kind| kind.name().to_owned());
            let pairs = [("kind", &kind), ("name", name), ("namespace", namespace)];
            let pairs = pairs.into_iter().chain([("service_account", service_account)]);
            let pairs = pairs.filter_map(|(field, value)| {
                value.as_ref().map(|value| format!("{field}={}", ask::encoded(value)))
            });
            let pairs: Vec<String> = pairs.collect();
            format!("/api/v1/proxies/{}/config?{}", ask::encoded(proxy), pairs.join("&"))
        }
    }
}

fn is_well(question: &Question, answer: &Value) -> bool {
    let object = |object: &Value| {
        let bad = |one: &Value| (one["type"] == "PartiallyInvalid") != (one["status"] == "False");
        let bad = |one: &Value| one["status"] != "Unknown" && bad(one);
        list(object, "problems").is_empty() && !list(object, "conditions").iter().any(bad)
    };
    match question {
        Question::Status { .. } => {
            list(answer, "problems").is_empty() && list(answer, "objects").iter().all(object)
        }
        Question::Describe { .. } => object(answer),
        Question::Proxies { .. } => !list(answer, "proxies").iter().any(|proxy| proxy["refuses"] == true),
        Question::Config { .. } | Question::Endpoints { .. } => true,
    }
}

fn objects(answer: &Value) -> Table {
    let mut table = Table::new(&["OBJECT", "ACCEPTED", "RESOLVED", "PROGRAMMED", "PROXIES"]);
    for object in list(answer, "objects") {
        let condition = |kind: &str| {
            let of_kind: Vec<&str> = list(object, "conditions")
                .iter()
                .filter(|one| one["type"] == kind)
                .map(|one| if one["status"] == "True" { "yes" } else { text(&one["reason"]) })
                .collect();
            let worst = of_kind.iter().find(|word| **word != "yes").or_else(|| of_kind.first());
            worst.map_or_else(|| "-".to_owned(), |word| (*word).to_owned())
        };
        let told = format!("{}/{}", object["acknowledged"], object["proxies"]);
        table.row([
            text(&object["key"]).to_owned(),
            condition("Accepted"),
            condition("ResolvedRefs"),
            condition("Programmed"),
            told,
        ]);
    }
    table
}

fn describe(object: &Value, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{} ({}:{})", text(&object["key"]), text(&object["file"]), object["line"])?;
    for condition in list(object, "conditions") {
        let parent = text(&condition["parent"]);
        let parent = if parent.is_empty() { String::new() } else { format!(" for {parent}") };
        let (kind, status) = (text(&condition["type"]), text(&condition["status"]));
        write!(out, "  {kind}{parent}: {status} ({})", text(&condition["reason"]))?;
        match text(&condition["message"]) {
            "" => writeln!(out)?,
            message => writeln!(out, ": {message}")?,
        }
    }
    for problem in list(object, "problems") {
        writeln!(out, "  {}", table::problem(problem))?;
    }
    Ok(())
}

fn proxies(answer: &Value) -> Table {
    let mut table = Table::new(&["PROXY", "NAMESPACE", "IDENTITY", "DIALECT", "PROTOCOL", "ACCEPTS"]);
    for proxy in list(answer, "proxies") {
        let reasons = proxy["kinds"].as_object().into_iter().flatten().filter_map(|(kind, one)| {
            let reason = one.get("last_refused")?.get("reason")?.as_str()?;
            Some(format!("refuses {kind}: {reason}"))
        });
        let reasons: Vec<String> = reasons.collect();
        table.row([
            text(&proxy["id"]).to_owned(),
            text(&proxy["namespace"]).to_owned(),
            proxy["identity"].as_str().unwrap_or("-").to_owned(),
            text(&proxy["dialect"]).to_owned(),
            text(&proxy["protocol"]).to_owned(),
            if reasons.is_empty() { "yes".to_owned() } else { reasons.join("; ") },
        ]);
    }
    table
}

fn endpoints(answer: &Value) -> Table {
    let mut table = Table::new(&["PORT", "ENDPOINT", "HEALTH", "WEIGHT", "IDENTITY"]);
    for port in list(answer, "ports") {
        for endpoint in list(port, "endpoints") {
            table.row([
                port["port"].to_string(),
                text(&endpoint["address"]).to_owned(),
                text(&endpoint["health"]).to_owned(),
                endpoint["weight"].to_string(),
                endpoint["identity"].as_str().unwrap_or("-").to_owned(),
            ]);
        }
    }
    table
}

pub(super) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
