//! What a run found, and its three forms: JSON for programs, Markdown for the repository, HTML with plots for people.
//!
//! Scenarios fill it, nothing in it measures.

mod about;
mod html;
mod limit;
mod markdown;
mod plot;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use about::{About, gather};
pub use limit::{Limit, Verdict, judge};

use crate::measure::Spread;

/// All that a run found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where and how.
    pub about: About,
    /// One for each scenario that ran, in their order.
    pub rows: Vec<Row>,
    /// One line for each subject or scenario that was left out.
    pub skipped: Vec<String>,
}

/// One scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What `--only` takes.
    pub id: String,
    /// What it is, in words.
    pub title: String,
    /// One for each subject that took part.
    pub cells: Vec<Cell>,
    /// Against the budget.
    pub verdicts: Vec<Verdict>,
    /// What the reader has to know.
    pub notes: Vec<String>,
}

/// One subject in one scenario.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    /// Its name.
    pub subject: String,
    /// What was measured, each over the rounds.
    pub figures: BTreeMap<Figure, Spread>,
    /// Latency at each percentile: `(percentile from 0 to 100, milliseconds)`, of all rounds together.
    pub curve: Vec<(f64, f64)>,
    /// Requests that failed, of all rounds.
    pub errors: u64,
    /// Rounds in which the generator was the limit.
    pub limited_by_generator: usize,
}

/// What is measured, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// User and system time of the subject for each request, in microseconds.
    CpuUs,
    /// Full TLS handshakes, each with one request, for a second of the subject's CPU time.
    HandshakesPerCpuSecond,
    /// Finished in a second.
    RequestsPerSecond,
    /// Latency that half of the requests do not exceed, in milliseconds.
    P50Ms,
    /// The same for 99 of 100.
    P99Ms,
    /// The same for 999 of 1,000.
    P999Ms,
    /// System calls for each request.
    Syscalls,
    /// Resident memory before the load, in MiB.
    IdleRssMb,
    /// The most resident memory that it ever had, in MiB.
    PeakRssMb,
    /// Resident memory that an idle connection adds, in KiB.
    KbPerConnection,
    /// From start to the first answer, in milliseconds.
    ReadyMs,
    /// Resident memory that a service adds, in KiB.
    KbPerCluster,
    /// From the push of a change to its first effect on traffic, in milliseconds.
    EffectMs,
    /// The same for the slowest of 100.
    EffectP99Ms,
    /// CPU time for each update of the configuration, in microseconds.
    CpuUsPerUpdate,
}

impl Figure {
    /// All of them in the order of the report.
    pub const ALL: [Self; 15] = [
        Self::CpuUs,
        Self::HandshakesPerCpuSecond,
        Self::RequestsPerSecond,
        Self::P50Ms,
        Self::P99Ms,
        Self::P999Ms,
        Self::Syscalls,
        Self::IdleRssMb,
        Self::PeakRssMb,
        Self::KbPerConnection,
        Self::ReadyMs,
        Self::KbPerCluster,
        Self::EffectMs,
        Self::EffectP99Ms,
        Self::CpuUsPerUpdate,
    ];

    /// Its heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::CpuUs => "CPU time of the proxy, us per request",
            Self::HandshakesPerCpuSecond => "Full mTLS handshakes with one request, per second of CPU time",
            Self::RequestsPerSecond => "Requests per second",
            Self::P50Ms => "Latency, median, ms",
            Self::P99Ms => "Latency, 99 of 100, ms",
            Self::P999Ms => "Latency, 999 of 1,000, ms",
            Self::Syscalls => "System calls per request",
            Self::IdleRssMb => "Resident memory before the load, MiB",
            Self::PeakRssMb => "Peak resident memory, MiB",
            Self::KbPerConnection => "Memory per idle connection, KiB",
            Self::ReadyMs => "From start to first answer, ms",
            Self::KbPerCluster => "Memory per service, KiB",
            Self::EffectMs => "From push to effect, median, ms",
            Self::EffectP99Ms => "From push to effect, 99 of 100, ms",
            Self::CpuUsPerUpdate => "CPU time per configuration update, us",
        }
    }

    /// The same in few letters, for a limit.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::CpuUs => "CPU",
            Self::HandshakesPerCpuSecond => "handshakes/CPU s",
            Self::RequestsPerSecond => "requests/s",
            Self::P50Ms => "p50",
            Self::P99Ms => "p99",
            Self::P999Ms => "p99.9",
            Self::Syscalls => "system calls/request",
            Self::IdleRssMb => "idle RSS MiB",
            Self::PeakRssMb => "peak RSS MiB",
            Self::KbPerConnection => "KiB/connection",
            Self::ReadyMs => "ready ms",
            Self::KbPerCluster => "KiB/service",
            Self::EffectMs => "effect ms",
            Self::EffectP99Ms => "effect p99 ms",
            Self::CpuUsPerUpdate => "CPU us/update",
        }
    }

    /// A value of it with as many digits as it is worth.
    #[must_use]
    pub fn digits(self, value: f64) -> String {
        if self == Self::RequestsPerSecond || value.abs() >= 100.0 {
            format!("{value:.0}")
        } else if value.abs() >= 10.0 {
            format!("{value:.1}")
        } else {
            format!("{value:.2}")
        }
    }
}

impl Row {
    /// The cell of a subject.
    #[must_use]
    pub fn cell(&self, subject: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.subject == subject)
    }
}

impl Cell {
    /// Adds a figure, if its rounds gave any value.
    pub fn put(&mut self, figure: Figure, samples: Vec<f64>) {
        if let Some(spread) = Spread::of(samples) {
            self.figures.insert(figure, spread);
        }
    }
}

impl Report {
    /// All subjects that have a cell, in the order of their first.
    #[must_use]
    pub fn subjects(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        let known = self.about.subjects.iter().map(|subject| subject.name.as_str());
        for name in
            known.chain(self.rows.iter().flat_map(|row| row.cells.iter().map(|cell| cell.subject.as_str())))
        {
            if !names.contains(&name) && self.rows.iter().any(|row| row.cell(name).is_some()) {
                names.push(name);
            }
        }
        names
    }

    /// Writes `report.json`, `report.md` and `report.html` into a folder, each whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).context("cannot make the folder for the report")?;
        let json = serde_json::to_string_pretty(self).context("cannot write the report as JSON")?;
        let forms = [
            ("report.json", json + "\n"),
            ("report.md", markdown::render(self)),
            ("report.html", html::render(self)),
        ];
        for (name, text) in forms {
            let unfinished = folder.join(format!(".{name}.unfinished"));
            fs::write(&unfinished, text).with_context(|| format!("cannot write {name}"))?;
            fs::rename(&unfinished, folder.join(name)).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(())
    }

    /// The Markdown form.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::render(self)
    }
}

#[cfg(test)]
mod tests;
