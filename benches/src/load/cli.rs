//! `outrider-bench load`: one run, shown.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Outcome, Pace, Protocol, Spec, run};

/// Percentiles of the latency that are shown.
const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// Arguments of `load`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Address of the target, for example 127.0.0.1:8080.
    target: SocketAddr,
    /// What is sent.
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Kind,
    /// Connections.
    #[arg(short, long, default_value_t = 64)]
    connections: usize,
    /// Streams at once on each connection (http2 and grpc).
    #[arg(short, long, default_value_t = 16)]
    streams: u32,
    /// Requests per second over all connections, with latency counted from when each was due; without it, each connection sends as fast
    /// as it is answered.
    #[arg(short, long)]
    rate: Option<f64>,
    /// Seconds that are measured.
    #[arg(short, long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Bytes of each request's body or message [default: 12 for what is echoed, 0 otherwise].
    #[arg(long)]
    request_bytes: Option<usize>,
    /// Bytes that each answer must have.
    #[arg(long, default_value_t = 12)]
    response_bytes: usize,
    /// Path [default: the one by which `outrider-bench backend` answers so].
    #[arg(long)]
    path: Option<String>,
    /// Authority [default: the target].
    #[arg(long)]
    authority: Option<String>,
    /// A header field, NAME:VALUE; may be given several times.
    #[arg(short = 'H', long = "header", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Run on this core.
    #[arg(long)]
    core: Option<usize>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// A protocol, as it is named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// HTTP/1.1 over kept connections.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Unary gRPC calls that are echoed.
    GrpcUnary,
    /// Messages echoed on gRPC streams that stay open.
    GrpcStream,
    /// The raw frames of the backend's TCP port.
    Tcp,
    /// WebSocket messages that are echoed.
    Websocket,
    /// A new connection for each HTTP/1.1 request.
    NewConnection,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() && !text.contains(['\r', '\n']) => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        Some(_) | None => Err("a header field is NAME:VALUE in one line".to_owned()),
    }
}

/// Runs, and gives the text to be printed.
///
/// # Errors
/// When an argument is wrong or nothing was answered.
pub fn load(arguments: &Arguments) -> Result<String> {
    let spec = arguments.spec()?;
    let outcome = run(&spec)?;
    if arguments.json { Ok(machine(&spec, &outcome).to_string()) } else { Ok(human(&spec, &outcome)) }
}

impl Arguments {
    fn spec(&self) -> Result<Spec> {
        let streams = self.streams;
        let protocol = match self.protocol {
            Kind::Http1 => Protocol::Http1,
            Kind::Http2 => Protocol::Http2 { streams },
            Kind::GrpcUnary => Protocol::GrpcUnary { streams },
            Kind::GrpcStream => Protocol::GrpcStream { streams },
            Kind::Tcp => Protocol::Tcp,
            Kind::Websocket => Protocol::WebSocket,
            Kind::NewConnection => Protocol::NewConnection,
        };
        let seconds = |name, value| match Duration::try_from_secs_f64(value) {
            Ok(time) => Ok(time),
            Err(error) => bail!("--{name} {value}: {error}"),
        };
        let spec = Spec::new(self.target, protocol);
        Ok(Spec {
            pace: self.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
            connections: self.connections,
            request_bytes: self.request_bytes.unwrap_or(spec.request_bytes),
            response_bytes: self.response_bytes,
            path: self.path.clone(),
            authority: self.authority.clone(),
            headers: self.headers.clone(),
            warmup: seconds("warmup", self.warmup)?,
            duration: seconds("duration", self.duration)?,
            core: self.core,
            ..spec
        })
    }
}

fn human(spec: &Spec, outcome: &Outcome) -> String {
    let seconds = outcome.elapsed.as_secs_f64();
    let mut text = format!(
        "{} requests in {seconds:.2} s over {} connections: {:.0} per second\nin {:.2} MB/s, out {:.2} MB/s\nerrors: {}\nlatency ms:",
        outcome.requests,
        spec.connections,
        outcome.per_second(),
        outcome.bytes_in as f64 / seconds / 1e6,
        outcome.bytes_out as f64 / seconds / 1e6,
        outcome.errors,
    );
    for percent in PERCENTILES {
        // A String takes whatever is written to it.
        let _ = write!(text, "  p{percent} {:.3}", outcome.percentile_ms(percent));
    }
    let cpu = outcome.generator_cpu.as_secs_f64();
    let _ = write!(
        text,
        "\ngenerator: {:.0} % of a core, {:.2} us per request",
        cpu / seconds * 100.0,
        cpu * 1e6 / outcome.requests.max(1) as f64
    );
    if let Some(why) = &outcome.limited_by_generator {
        let _ = write!(text, "\nthe generator was the limit: {why}");
    }
    text
}

fn machine(spec: &Spec, outcome: &Outcome) -> serde_json::Value {
    let errors: serde_json::Map<_, _> =
        outcome.errors.iter().map(|(kind, count)| (kind.name().to_owned(), count.into())).collect();
    let latency: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .map(|percent| (format!("p{percent}"), outcome.percentile_ms(*percent).into()))
        .collect();
    json!({
        "target": spec.target,
        "connections": spec.connections,
        "requests": outcome.requests,
        "requests_per_second": outcome.per_second(),
        "errors": errors,
        "bytes_in": outcome.bytes_in,
        "bytes_out": outcome.bytes_out,
        "seconds": outcome.elapsed.as_secs_f64(),
        "latency_ms": latency,
        "generator_cpu_seconds": outcome.generator_cpu.as_secs_f64(),
        "limited_by_generator": outcome.limited_by_generator,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::backend::{Backend, Options};

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Ok(Command::try_parse_from([&["load"], words].concat())?.arguments)
    }

    #[test]
    fn arguments_become_a_spec() {
        let words = [
            "127.0.0.1:1",
            "--protocol",
            "grpc-stream",
            "-s",
            "3",
            "--rate",
            "5",
            "-H",
            "X-A: b:c",
            "-d",
            "0.5",
        ];
        let spec = parse(&words).unwrap().spec().unwrap();
        assert_eq!((spec.protocol, spec.request_bytes), (Protocol::GrpcStream { streams: 3 }, 12));
        assert_eq!(spec.pace, Pace::Open { per_second: 5.0 });
        assert_eq!(spec.headers, [("x-a".to_owned(), "b:c".to_owned())]);
        assert_eq!(spec.duration, Duration::from_millis(500));
        assert!(parse(&["127.0.0.1:1", "-H", "no colon"]).is_err());
        assert!(parse(&["127.0.0.1:1", "--duration=-1"]).unwrap().spec().is_err());
    }

    #[test]
    fn both_forms_say_the_same() {
        let backend = Backend::start(Options::default()).unwrap();
        let target = backend.ports.http.to_string();
        let words = [&*target, "--rate", "200", "-d", "0.05", "--warmup", "0", "-c", "2"];
        let text = load(&parse(&words).unwrap()).unwrap();
        assert!(text.starts_with("10 requests in 0.05 s over 2 connections: 200 per second\n"), "{text}");
        assert!(text.contains("\nerrors: none\n"), "{text}");
        let json = load(&parse(&[&words[..], &["--json"]].concat()).unwrap()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["requests"], &json["errors"]), (&10.into(), &json!({})));
        assert!(json["latency_ms"]["p99.9"].as_f64().unwrap() > 0.0);
    }
}
