//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::compile::spans::Collector;
use crate::object::scalar::Percent;

/// The control server: operators' objects in, configuration and identities for sidecars out.
#[derive(Debug, Parser)]
#[command(name = "outrider-control", version, args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) serve: Serve,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints a join token, with which a workload gets its identity. The control server must have been started once.
    Token(Token),
}

/// Where the control server keeps what must not be lost, and for whom.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Where roots and the join key are kept; made on first start, mode 0700.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/outrider")]
    pub(super) state_dir: PathBuf,
    /// The trust domain of all identities.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(super) trust_domain: String,
}

/// The server.
#[derive(Args, Clone, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) common: Common,
    /// The directory of YAML files with the mesh's objects; it is watched.
    #[arg(long, value_name = "DIR")]
    pub(super) config_dir: Option<PathBuf>,
    /// The mesh's objects are those of the Kubernetes API: of the cluster that this runs in, or of the one that
    /// `KUBECONFIG` names. Service accounts prove who they are by their tokens.
    #[arg(long, conflicts_with = "config_dir")]
    pub(super) kubernetes: bool,
    /// As `--kubernetes`, with this file in place of `KUBECONFIG`.
    #[arg(long, value_name = "FILE", conflicts_with = "config_dir")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Where proxies connect to: ADS and identities.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15012")]
    pub(super) address: SocketAddr,
    /// No TLS, and everybody is believed: for a loopback address only.
    #[arg(long)]
    pub(super) plaintext: bool,
    /// By which names proxies call the control server, besides localhost and `--address`.
    #[arg(long, value_name = "NAME", default_value = "outrider-control")]
    pub(super) server_name: Vec<String>,
    /// The HTTP API, health and metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15080")]
    pub(super) api_address: SocketAddr,
    /// How long identities are valid, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    pub(super) svid_ttl_s: u64,
    /// An authority of your own in place of one in the state directory: the issuing certificate, then those up to the
    /// root (PEM). It is read again when it changes.
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub(super) ca_cert: Option<PathBuf>,
    /// The key of `--ca-cert` (PKCS#8, PEM).
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub(super) ca_key: Option<PathBuf>,
    /// The roots, when they are not in `--ca-cert` (PEM).
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub(super) ca_roots: Option<PathBuf>,
    /// What names of services end with.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(super) cluster_domain: String,
    /// The namespace of policies that hold for the whole mesh.
    #[arg(long, value_name = "NAME", default_value = "outrider-system")]
    pub(super) root_namespace: String,
    /// How long an endpoint stays that has registered itself and has lost its stream, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) grace_s: u64,
    /// Workloads may register themselves at addresses other than the one that they connect from: for where something
    /// between them and this server translates addresses.
    #[arg(long)]
    pub(super) trust_workload_addresses: bool,
    /// Workloads of the mesh that may have faults at a time, in percent, rounded down.
    #[arg(long, value_name = "PERCENT", default_value = "100")]
    pub(super) faults_max_workloads_percent: Percent,
    /// Requests, attempts and connections of each proxy that may have one, in percent.
    #[arg(long, value_name = "PERCENT", default_value = "100")]
    pub(super) faults_max_share_percent: Percent,
    /// Requests and connections of each proxy that may have one at a time.
    #[arg(long, value_name = "NUMBER")]
    pub(super) faults_max_active: Option<u32>,
    /// A collector that all proxies send spans of HTTP requests to: OTLP over gRPC in plaintext, HOST:PORT. Without it
    /// there are none.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) tracing_collector: Option<Collector>,
    /// Requests without a trace that begin a recorded one, in percent. Where a caller has decided, that holds.
    #[arg(long, value_name = "PERCENT", default_value = "1", requires = "tracing_collector")]
    pub(super) tracing_sampling_percent: Percent,
    #[command(flatten)]
    pub(super) webhook: super::webhook::Webhook,
    /// error, warn, info, debug, trace or off.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: String,
    /// The log as one JSON object per line.
    #[arg(long)]
    pub(super) log_json: bool,
}

/// A join token.
#[derive(Args, Clone, Debug)]
pub(super) struct Token {
    /// Where the control server keeps roots and the join key.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/outrider")]
    pub(super) state_dir: PathBuf,
    /// The trust domain, to be sure of it: there is no other than that of the state directory.
    #[arg(long, value_name = "NAME")]
    pub(super) trust_domain: Option<String>,
    /// The workload's namespace.
    #[arg(long, value_name = "NAME")]
    pub(super) namespace: String,
    /// The workload's service account.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(super) service_account: String,
    /// How long it proves the identity, in seconds; a year at most. A proxy needs it at each renewal.
    #[arg(long, value_name = "SECONDS", default_value_t = 30 * 24 * 3600)]
    pub(super) life_s: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Arguments;

    /// What clap can find wrong with a definition it finds when the program starts, if it was built for tests.
    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
