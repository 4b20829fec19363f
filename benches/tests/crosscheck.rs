//! The load generator beside `wrk` and `h2load`: they agree on throughput. Run by `make bench-check` on a quiet machine.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrider_bench::drive::backend::Backend;
use outrider_bench::drive::{Kind, Load, Pace, pass};
use outrider_bench::measure::{Cores, Spread, pin};

/// How far the medians may be apart.
const TOLERANCE: f64 = 0.10;
const ROUNDS: usize = 5;
const SECONDS: u64 = 2;

/// The backend is the limit in both: it is on the core of the subject here, the generators on the other.
fn backend() -> Result<(Cores, Backend)> {
    let cores = Cores::divide()?;
    ensure!(!cores.is_shared(), "two cores are needed");
    let turned = Cores { subject: cores.load, load: cores.subject };
    let backend = Backend::spawn(&mut Command::new(env!("CARGO_BIN_EXE_outrider-bench")), turned)?;
    pin(cores.load)?;
    Ok((cores, backend))
}

fn output(cores: Cores, program: &str, arguments: &[&str]) -> Result<String> {
    let core = cores.load.to_string();
    let found = Command::new("taskset").args(["-c", &core, program]).args(arguments).output()?;
    ensure!(found.status.success(), "{program}: {}", String::from_utf8_lossy(&found.stderr));
    Ok(String::from_utf8_lossy(&found.stdout).into_owned())
}

/// The word beside `unit` that is a number, in the line that holds `unit`.
fn number(text: &str, unit: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.contains(unit)).context("no such line")?;
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let pairs = words.iter().zip(words.iter().skip(1));
    let found = pairs.filter_map(|(one, other)| match (*one == unit, *other == unit) {
        (true, _) => other.parse().ok(),
        (_, true) => one.parse().ok(),
        _ => None,
    });
    found.into_iter().next().with_context(|| format!("no number in: {line}"))
}

fn own(target: SocketAddr, load: Load) -> Result<f64> {
    let done = pass(target, load, Pace::Closed, Duration::from_secs(SECONDS))?;
    ensure!(done.errors == 0, "{} errors", done.errors);
    Ok(done.requests as f64 / done.elapsed.as_secs_f64())
}

/// The ratio of ours to theirs, round by round as in the reports.
#[expect(clippy::print_stdout, reason = "what was measured is worth seeing when it is good, too")]
fn compare(name: &str, rounds: impl Iterator<Item = Result<(f64, f64)>>) -> Result<()> {
    let mut ratios = Vec::new();
    for round in rounds {
        let (ours, theirs) = round?;
        println!("{name}: ours {ours:.0}, theirs {theirs:.0} per second");
        ratios.push(ours / theirs);
    }
    let ratio = Spread::of(ratios).context("no round")?.median;
    ensure!((ratio - 1.0).abs() <= TOLERANCE, "{name}: ours is {ratio:.2} of theirs");
    Ok(())
}

#[test]
#[ignore = "needs a quiet machine, wrk and h2load: `make bench-check`"]
fn crosscheck_with_wrk_and_h2load() -> Result<()> {
    let (cores, backend) = backend()?;
    let ports = backend.ports;
    let (duration, url) = (format!("-d{SECONDS}s"), format!("http://{}/1024", ports.http1));
    let load = Load { kind: Kind::Get, connections: 64, bytes: 1024 };
    let round = |_| {
        let text = output(cores, "wrk", &["-t1", "-c64", &duration, &url])?;
        Ok((own(ports.http1, load)?, number(&text, "Requests/sec:")?))
    };
    compare("HTTP/1.1 beside wrk", (0..ROUNDS).map(round))?;
    let (length, url) = (SECONDS.to_string(), format!("http://{}/12", ports.http2));
    let load = Load { kind: Kind::H2Get(16), connections: 8, bytes: 12 };
    let round = |_| {
        let text = output(cores, "h2load", &["-t1", "-c8", "-m16", "-D", &length, &url])?;
        Ok((own(ports.http2, load)?, number(&text, "req/s")?))
    };
    compare("HTTP/2 beside h2load", (0..ROUNDS).map(round))
}
