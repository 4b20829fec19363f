//! Closed loop: every connection sends its next request when the answer to the last is there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use super::bench::{Entry, each, finish};
use super::{Bench, Traffic};
use crate::drive::{self, Curve, Pace, Pass};
use crate::measure::{Family, count};
use crate::report::{Figure, Row};
use crate::subject::{Mode, Setup, Side};

const MIB: f64 = 1024.0 * 1024.0;
/// The pass that warms up, and the one in which system calls are counted, as a part of a pass.
const SHORT: u32 = 3;
/// A subject that was busy for less than this part of a pass was not its limit.
const SATURATED: f64 = 0.85;
/// Connections from which on a subject can be saturated.
const MANY: usize = 8;

pub(super) fn run(bench: &mut Bench, traffic: Traffic, row: &mut Row) -> Result<()> {
    let setup = Setup::plain(traffic.mode, bench.upstream());
    let mut entries = bench.start_all(&setup, row);
    if traffic.mode == Mode::Resilient {
        entries.extend(bench.start_plain(row));
    }
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    let short = bench.pacing.pass / SHORT;
    let id = row.id.clone();
    each(&mut entries, row, 0, |entry| {
        bench.progress.step(&format!("{id}: {} warms up", entry.part.subject.name));
        if let Mode::Policy(rules) = traffic.mode {
            entry.running.check_policy(rules)?;
        }
        pass(bench, entry, traffic, (Pace::Closed, short)).map(drop)
    });
    for round in 0..bench.pacing.rounds {
        each(&mut entries, row, round, |entry| {
            bench.progress.step(&format!("{id}: {}, round {}", entry.part.subject.name, round + 1));
            let measured = pass(bench, entry, traffic, (Pace::Closed, bench.pacing.pass))?;
            samples.entry(entry.part.subject.name.clone()).or_default().add(entry, &measured);
            Ok(())
        });
    }
    let mut uncounted = Vec::new();
    each(&mut entries, row, 0, |entry| {
        bench.progress.step(&format!("{id}: {}, system calls", entry.part.subject.name));
        peak_memory(entry)?;
        if let (Some(tool), Some(family)) = (bench.tool, &entry.family) {
            let target = entry.running.towards();
            let load = || drive::pass(&target, traffic.load, Pace::Closed, short);
            match count(tool, family, load) {
                Ok((calls, done)) => {
                    let each = calls as f64 / done.requests.max(1) as f64;
                    entry.part.cell.put(Figure::Syscalls, vec![each]);
                }
                // The tool's failure is not the subject's.
                Err(error) => uncounted.push(format!("{}: {error:#}", entry.part.subject.name)),
            }
        }
        Ok(())
    });
    row.notes.extend(uncounted.iter().map(|reason| format!("system calls were not counted for {reason}")));
    let handshakes = setup.mode == Mode::Pair(Side::Server) && traffic.load.kind.is_connections();
    for entry in &mut entries {
        if let Some(samples) = samples.remove(&entry.part.subject.name) {
            if handshakes {
                let rates = samples.cpu_us.iter().map(|cpu_us| 1e6 / cpu_us.max(1e-3)).collect();
                entry.part.cell.put(Figure::HandshakesPerCpuSecond, rates);
            }
            samples.put(entry);
        }
    }
    finish(&bench.subjects, entries.into_iter().map(|entry| entry.part), row);
    Ok(())
}

/// What the rounds of one subject gave.
#[derive(Debug, Default)]
pub(super) struct Samples {
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
    curve: Curve,
}

impl Samples {
    pub(super) fn add(&mut self, entry: &mut Entry, measured: &Measured) {
        let done = &measured.done;
        let requests = done.requests.max(1) as f64;
        if let Some(cpu) = measured.cpu {
            self.cpu_us.push(cpu.as_secs_f64() * 1e6 / requests);
        }
        self.rate.push(done.per_second);
        self.p50.push(done.percentile_ms(50.0));
        self.p99.push(done.percentile_ms(99.0));
        self.p999.push(done.percentile_ms(99.9));
        self.curve.add(done);
        entry.part.cell.errors += done.errors;
        entry.part.cell.limited_by_generator += usize::from(measured.limited_by_generator);
    }

    pub(super) fn put(self, entry: &mut Entry) {
        entry.part.cell.put(Figure::CpuUs, self.cpu_us);
        entry.part.cell.put(Figure::RequestsPerSecond, self.rate);
        entry.part.cell.put(Figure::P50Ms, self.p50);
        entry.part.cell.put(Figure::P99Ms, self.p99);
        entry.part.cell.put(Figure::P999Ms, self.p999);
        entry.part.cell.curve = self.curve.points();
    }
}

/// One pass from outside.
pub(super) struct Measured {
    pub(super) done: Pass,
    /// CPU time of the subject.
    pub(super) cpu: Option<Duration>,
    /// Whether the generator and the backend were the limit, not the subject.
    limited_by_generator: bool,
}

/// One pass, and the CPU time that it took.
pub(super) fn pass(
    bench: &Bench,
    entry: &Entry,
    traffic: Traffic,
    (pace, length): (Pace, Duration),
) -> Result<Measured> {
    let mut load = Family::only(std::process::id());
    load.join(&bench.backend.family());
    let subject = || entry.family.as_ref().map(Family::cpu).transpose();
    let before = (subject()?, load.cpu()?);
    let done = drive::pass(&entry.running.towards(), traffic.load, pace, length)?;
    let after = (subject()?, load.cpu()?);
    if done.requests == 0 {
        bail!("no request was answered ({} failed)", done.errors);
    }
    let cpu = after.0.zip(before.0).map(|(after, before)| after.saturating_sub(before));
    let busy = |cpu: Duration| cpu.as_secs_f64() / done.elapsed.as_secs_f64().max(1e-9);
    let limited_by_generator = match pace {
        Pace::Open { .. } => done.late,
        // With few connections the time of a round trip is the limit, and nobody is busy.
        Pace::Closed => {
            let load = busy(after.1.saturating_sub(before.1));
            traffic.load.connections >= MANY
                && cpu.is_some_and(|cpu| busy(cpu) < SATURATED && busy(cpu) < load)
        }
    };
    Ok(Measured { done, cpu, limited_by_generator })
}

pub(super) fn peak_memory(entry: &mut Entry) -> Result<()> {
    if let Some(family) = &entry.family {
        let memory = family.memory()?;
        entry.part.cell.put(Figure::PeakRssMb, vec![memory.peak_bytes as f64 / MIB]);
    }
    Ok(())
}
