//! Open loop: requests are due at a fixed rate, and latency counts from when one was due, not from when it could be sent.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::bench::{each, finish};
use super::throughput::{Samples, pass, peak_memory};
use super::{Bench, Reference, Traffic};
use crate::drive::Pace;
use crate::report::Row;
use crate::subject::{Kind, Setup};

/// Passes from which the best tells the saturation.
const ATTEMPTS: usize = 3;
/// Each of them as a part of a pass.
const ATTEMPT: u32 = 2;
/// The rate, as a share of the reference's saturation.
const SHARE: f64 = 0.5;
/// Who serves less than this many times the rate is left out: it would be measured at its limit, not at half.
const ROOM: f64 = 1.25;

pub(super) fn run(bench: &mut Bench, traffic: Traffic, reference: Reference, row: &mut Row) -> Result<()> {
    let setup = Setup::plain(traffic.mode, bench.upstream());
    let mut entries = bench.start_all(&setup, row);
    let mut saturation: BTreeMap<String, f64> = BTreeMap::new();
    let id = row.id.clone();
    for attempt in 0..ATTEMPTS {
        each(&mut entries, row, attempt, |entry| {
            let name = &entry.part.subject.name;
            if attempt == 0 {
                bench.progress.step(&format!("{id}: {name} at its limit"));
            }
            let length = bench.pacing.pass / ATTEMPT;
            let done = pass(bench, entry, traffic, (Pace::Closed, length))?.done;
            // What else the machine does can only make it less.
            let most = saturation.entry(name.clone()).or_default();
            *most = most.max(done.per_second);
            Ok(())
        });
    }
    let base = match reference {
        Reference::Peer(name) => saturation.get(name).copied(),
        Reference::Slowest => entries
            .iter()
            .filter(|entry| !matches!(entry.part.subject.kind, Kind::Direct | Kind::Floor(_)))
            .filter_map(|entry| saturation.get(&entry.part.subject.name).copied())
            .reduce(f64::min),
    };
    let rate = SHARE * base.context("who the rate is taken from was left out")?;
    row.notes.push(format!("{rate:.0} requests per second were due, for every subject"));
    for entry in &entries {
        let most = saturation.get(&entry.part.subject.name).copied().unwrap_or(0.0);
        if most < rate * ROOM {
            row.notes.push(format!(
                "{} left out: it serves {most:.0} per second at most",
                entry.part.subject.name
            ));
        }
    }
    entries.retain(|entry| saturation.get(&entry.part.subject.name).is_some_and(|most| *most >= rate * ROOM));
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for round in 0..bench.pacing.rounds {
        each(&mut entries, row, round, |entry| {
            bench.progress.step(&format!("{id}: {}, round {}", entry.part.subject.name, round + 1));
            let measured = pass(bench, entry, traffic, (Pace::Open { per_second: rate }, bench.pacing.pass))?;
            samples.entry(entry.part.subject.name.clone()).or_default().add(entry, &measured);
            Ok(())
        });
    }
    for entry in &mut entries {
        peak_memory(entry)?;
        if let Some(samples) = samples.remove(&entry.part.subject.name) {
            samples.put(entry);
        }
    }
    finish(&bench.subjects, entries.into_iter().map(|entry| entry.part), row);
    Ok(())
}
