//! `outrider-bench run`: every scenario with every subject, and the report.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::drive::backend::Backend;
use crate::measure::{Cores, Tool, pin};
use crate::report::{About, Report, gather};
use crate::scenario::{Bench, Pacing, Progress, Scenario, TABLE};
use crate::subject::{Found, find, floors};

/// Rounds and the length of a pass of a full run.
const FULL: (usize, Duration) = (5, Duration::from_millis(1200));
/// The same of a quick one.
const QUICK: (usize, Duration) = (2, Duration::from_millis(500));
/// When a quick run begins no more scenarios, so that it has ended after two minutes.
const QUICK_LIMIT: Duration = Duration::from_secs(95);
/// Most rounds, and the longest pass in seconds.
const MOST: (usize, f64) = (100, 600.0);

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Ends within two minutes: the main scenarios, few and short rounds, one floor.
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose id begins with one of these (comma separated; `list` shows the ids).
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these subjects (comma separated).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    subjects: Vec<String>,
    /// One more subject, or another place for a known one: NAME=PATH, or NAME:KIND=PATH with KIND one of outrider, envoy, haproxy,
    /// nginx, launcher. May be given several times.
    #[arg(long, value_name = "NAME=PATH")]
    subject: Vec<String>,
    /// Rounds of each scenario.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each pass.
    #[arg(long)]
    seconds: Option<f64>,
    /// Folder for report.json, report.md and report.html.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

/// Runs, writes the report, and shows it.
///
/// # Errors
/// When an argument is wrong, the harness itself fails, or the report cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    let scenarios = chosen(arguments)?;
    let pacing = pacing(arguments, begin)?;
    let mut found = find(&arguments.subject, &arguments.subjects)?;
    if arguments.quick && arguments.subjects.is_empty() {
        let slow = floors();
        // One floor is enough for a quick look.
        found.subjects.retain(|one| one.name == "floor-raw" || !slow.contains(&one.name.as_str()));
    }
    for line in &found.missing {
        say(line);
    }
    let report = measure(&found, &scenarios, pacing, &arguments.out)?;
    say(&report.markdown());
    say(&format!("The report is in {} (report.html has the plots).", arguments.out.display()));
    Ok(())
}

/// Shows the ids and titles of all scenarios.
pub fn list() {
    for scenario in TABLE {
        let quick = if scenario.quick { " (quick)" } else { "" };
        say(&format!("{:24} {}{quick}", scenario.id, scenario.title));
    }
}

fn measure(found: &Found, scenarios: &[&Scenario], pacing: Pacing, out: &Path) -> Result<Report> {
    let cores = Cores::divide()?;
    let subjects = found.subjects.clone();
    let tool = Tool::find();
    let about = About {
        rounds: pacing.rounds,
        pass_ms: u64::try_from(pacing.pass.as_millis()).unwrap_or(u64::MAX),
        syscalls_by: tool.map_or("nothing: neither perf nor strace may be used", Tool::name).to_owned(),
        ..gather(cores, &subjects)
    };
    pin(cores.load)?;
    let steps = |scenario: &Scenario| Bench::steps(scenario, pacing, subjects.len());
    let progress = Progress::new(scenarios.iter().map(|one| steps(one)).sum());
    let backend = Backend::start(cores).context("the backend")?;
    let mut report = Report { about, rows: Vec::new(), skipped: found.missing.clone() };
    let mut bench = Bench { cores, backend, subjects: subjects.clone(), pacing, tool, progress };
    for scenario in scenarios {
        if pacing.deadline.is_some_and(|end| Instant::now() >= end) {
            report.skipped.push(format!("{}: left out, the time of a quick run is over", scenario.title));
            bench.progress.skip(steps(scenario));
            continue;
        }
        match bench.run(scenario) {
            Ok(row) => report.rows.push(row),
            Err(error) => report.skipped.push(format!("{}: left out: {error:#}", scenario.title)),
        }
        // A run that is stopped leaves what it has found.
        report.write(out)?;
    }
    report.write(out)?;
    bench.progress.clear();
    Ok(report)
}

fn chosen(arguments: &Arguments) -> Result<Vec<&'static Scenario>> {
    let only = &arguments.only;
    if let Some(stranger) = only.iter().find(|id| !TABLE.iter().any(|one| one.id.starts_with(id.as_str()))) {
        bail!("--only {stranger}: no scenario begins so; `outrider-bench list` shows them");
    }
    let wanted = |one: &&Scenario| {
        let named = only.iter().any(|id| one.id.starts_with(id.as_str()));
        named || (only.is_empty() && (one.quick || !arguments.quick))
    };
    Ok(TABLE.iter().filter(wanted).collect())
}

fn pacing(arguments: &Arguments, begin: Instant) -> Result<Pacing> {
    let (rounds, pass) = if arguments.quick { QUICK } else { FULL };
    let rounds = arguments.rounds.unwrap_or(rounds);
    if rounds == 0 || rounds > MOST.0 {
        bail!("--rounds {rounds}: must be from 1 to {}", MOST.0);
    }
    let pass = match arguments.seconds {
        None => pass,
        Some(seconds) if (0.1..=MOST.1).contains(&seconds) => Duration::from_secs_f64(seconds),
        Some(seconds) => bail!("--seconds {seconds}: must be from 0.1 to {}", MOST.1),
    };
    Ok(Pacing { rounds, pass, deadline: arguments.quick.then(|| begin + QUICK_LIMIT) })
}

fn say(text: &str) {
    // Nobody to be told when the reader is gone; the report is written all the same.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Arguments {
        use clap::Parser as _;
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().arguments
    }

    #[test]
    fn scenarios_are_chosen_by_the_beginning_of_their_ids() {
        let ids = |line: &str| -> Vec<&str> {
            chosen(&parsed(line)).unwrap().iter().map(|scenario| scenario.id).collect()
        };
        assert_eq!(ids("--only h1-12b-64,h2"), ["h1-12b-64", "h2-get", "h2-post"]);
        assert_eq!(ids("").len(), TABLE.len());
        assert!(ids("--quick").len() < TABLE.len());
        assert!(chosen(&parsed("--only nothing")).is_err());
    }

    #[test]
    fn a_run_has_at_least_one_round_and_a_pass_that_can_be_measured() {
        let of = |line: &str| pacing(&parsed(line), Instant::now());
        assert_eq!(of("--rounds 7").unwrap().rounds, 7);
        assert_eq!(of("--quick").unwrap().rounds, QUICK.0);
        assert!(of("--rounds 0").is_err() && of("--seconds 0").is_err());
    }
}
