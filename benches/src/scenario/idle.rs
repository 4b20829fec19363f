//! Connections that have done one request each and then nothing: what they cost in memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Bench;
use super::bench::{each, finish};
use crate::drive;
use crate::measure::Family;
use crate::report::{Figure, Row};
use crate::subject::{Kind, Mode, Setup, start};

/// How long memory may take to settle: a proxy may give buffers back only after a while.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(250);
/// Looks without a change after which it counts as settled.
const STEADY: usize = 4;

pub(super) fn run(bench: &mut Bench, connections: usize, row: &mut Row) -> Result<()> {
    let setup = Setup::plain(Mode::Http1, bench.upstream());
    let mut parts = bench.parts(&setup, row);
    parts.retain(|part| part.subject.kind != Kind::Direct);
    let mut samples: BTreeMap<String, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    let id = row.id.clone();
    for round in 0..bench.pacing.memory_rounds() {
        each(&mut parts, row, round, |part| {
            bench.progress.step(&format!("{id}: {}, round {}", part.subject.name, round + 1));
            // A fresh process each time: memory that was once touched is rarely given back.
            let running = start(&part.subject, &setup, bench.cores)?;
            let family = running.family().context("it has no process")?;
            let before = settled(&family)?;
            let held = drive::hold(running.target, connections)?;
            let after = settled(&family)?;
            drop(held);
            let each = (after as f64 - before as f64) / connections as f64 / 1024.0;
            let (per_connection, idle) = samples.entry(part.subject.name.clone()).or_default();
            per_connection.push(each.max(0.0));
            idle.push(before as f64 / 1024.0 / 1024.0);
            Ok(())
        });
    }
    for part in &mut parts {
        if let Some((per_connection, idle)) = samples.remove(&part.subject.name) {
            part.cell.put(Figure::KbPerConnection, per_connection);
            part.cell.put(Figure::IdleRssMb, idle);
        }
    }
    finish(&bench.subjects, parts, row);
    Ok(())
}

/// Resident bytes once they no longer change, or after [`SETTLE`].
pub(super) fn settled(family: &Family) -> Result<u64> {
    let end = Instant::now() + SETTLE;
    let (mut last, mut same) = (family.memory()?.resident_bytes, 0);
    while same < STEADY && Instant::now() < end {
        std::thread::sleep(LOOK);
        let now = family.memory()?.resident_bytes;
        // A page more or less is no change.
        same = if now.abs_diff(last) <= last / 200 { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
