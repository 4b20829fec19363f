//! A configuration of many services of which one is used: memory, and the time from start to the first answer.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::Bench;
use super::bench::{each, finish};
use super::idle::settled;
use crate::report::{Figure, Row};
use crate::subject::{Kind, Mode, Setup, start};

pub(super) fn run(bench: &mut Bench, count: usize, row: &mut Row) -> Result<()> {
    let plain = Setup::plain(Mode::Http1, bench.upstream());
    let setup = Setup { clusters: count, ..plain };
    let mut parts = bench.parts(&setup, row);
    parts.retain(|part| part.subject.kind != Kind::Direct);
    let mut samples: BTreeMap<String, [Vec<f64>; 3]> = BTreeMap::new();
    let id = row.id.clone();
    for round in 0..bench.pacing.memory_rounds() {
        each(&mut parts, row, round, |part| {
            bench.progress.step(&format!("{id}: {}, round {}", part.subject.name, round + 1));
            let one = start(&part.subject, &plain, bench.cores)?;
            let least = settled(&one.family().context("it has no process")?)?;
            drop(one);
            let all = start(&part.subject, &setup, bench.cores)?;
            let family = all.family().context("it has no process")?;
            let most = settled(&family)?;
            let [ready, peak, each] = samples.entry(part.subject.name.clone()).or_default();
            ready.push(all.ready.as_secs_f64() * 1e3);
            peak.push(family.memory()?.peak_bytes as f64 / 1024.0 / 1024.0);
            each.push((most as f64 - least as f64) / (count.max(2) - 1) as f64 / 1024.0);
            Ok(())
        });
    }
    for part in &mut parts {
        if let Some([ready, peak, each]) = samples.remove(&part.subject.name) {
            part.cell.put(Figure::ReadyMs, ready);
            part.cell.put(Figure::PeakRssMb, peak);
            // Below some hundred services the allocator's rounding is all that would be seen.
            if count >= 1000 {
                part.cell.put(Figure::KbPerCluster, each);
            }
        }
    }
    finish(&bench.subjects, parts, row);
    Ok(())
}
