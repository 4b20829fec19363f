//! One run: the machine, the subjects, the pace; and the start of all subjects of a scenario.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Progress, Scenario, Work};
use crate::drive::backend::Backend;
use crate::measure::{Cores, Family, Tool};
use crate::report::{Cell, Row, judge};
use crate::subject::{Kind, Mode, Running, Setup, Subject, start};

/// The name of ours with a plain route.
pub(super) const PLAIN: &str = "outrider-plain";
/// Most rounds for memory at rest.
const MEMORY_ROUNDS: usize = 3;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// Rounds, each with a pass of every subject.
    pub rounds: usize,
    /// Length of a pass.
    pub pass: Duration,
    /// When to begin no more scenarios.
    pub deadline: Option<Instant>,
}

/// One run.
#[derive(Debug)]
pub struct Bench {
    /// Which core does what.
    pub cores: Cores,
    /// What is behind the subjects.
    pub backend: Backend,
    /// Who takes part.
    pub subjects: Vec<Subject>,
    /// How long and how often.
    pub pacing: Pacing,
    /// What counts system calls.
    pub tool: Option<Tool>,
    /// How far it is.
    pub progress: Progress,
}

/// A subject that takes part in a scenario, and its cell of the row.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) subject: Subject,
    pub(super) cell: Cell,
}

/// The same at work.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) part: Part,
    pub(super) running: Running,
    /// Its processes; none without a proxy.
    pub(super) family: Option<Family>,
}

impl Pacing {
    /// Rounds in which memory at rest is looked at: it hardly differs from process to process, and each look waits until it
    /// has settled.
    #[must_use]
    pub(super) fn memory_rounds(&self) -> usize {
        self.rounds.min(if self.deadline.is_some() { 1 } else { MEMORY_ROUNDS })
    }
}

impl AsRef<Part> for Part {
    fn as_ref(&self) -> &Part {
        self
    }
}

impl AsRef<Part> for Entry {
    fn as_ref(&self) -> &Part {
        &self.part
    }
}

impl Bench {
    /// Runs a scenario.
    ///
    /// # Errors
    /// When the harness itself fails. A subject that fails is left out, with a note.
    pub fn run(&mut self, scenario: &Scenario) -> Result<Row> {
        self.progress.scenario(scenario.title);
        let mut row = Row {
            id: scenario.id.to_owned(),
            title: scenario.title.to_owned(),
            cells: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
        };
        match scenario.work {
            Work::Throughput(traffic) => super::throughput::run(self, traffic, &mut row)?,
            Work::Latency(traffic, reference) => super::latency::run(self, traffic, reference, &mut row)?,
            Work::Idle { connections } => super::idle::run(self, connections, &mut row)?,
            Work::Services { count } => super::services::run(self, count, &mut row)?,
            Work::Push { services } => super::churn::push(self, services, &mut row)?,
            Work::Churn { services, per_second } => {
                super::churn::churn(self, (services, per_second), &mut row)?
            }
        }
        row.verdicts = judge(&row, scenario.limits);
        Ok(row)
    }

    /// Where traffic of every kind is to go.
    pub(super) const fn upstream(&self) -> SocketAddr {
        self.backend.ports.http
    }

    /// Steps that a scenario takes, for the progress.
    #[must_use]
    pub fn steps(scenario: &Scenario, pacing: Pacing, subjects: usize) -> usize {
        let rounds = pacing.rounds;
        match scenario.work {
            Work::Throughput(_) | Work::Latency(..) => (rounds + 2) * subjects,
            Work::Idle { .. } | Work::Services { .. } => pacing.memory_rounds() * subjects,
            // Ours and Envoy.
            Work::Push { .. } | Work::Churn { .. } => rounds * 2,
        }
    }

    /// Who takes part in a setup; a note for those who do not, by their reasons.
    pub(super) fn parts(&self, setup: &Setup, row: &mut Row) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut declined: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for subject in &self.subjects {
            match subject.declines(setup) {
                Some(reason) => declined.entry(reason).or_default().push(&subject.name),
                None => parts.push(Part {
                    cell: Cell { subject: subject.name.clone(), ..Cell::default() },
                    subject: subject.clone(),
                }),
            }
        }
        let notes =
            declined.iter().map(|(reason, names)| format!("left out: {} ({reason})", names.join(", ")));
        row.notes.extend(notes);
        parts
    }

    /// Ours with a plain route, under a name of its own: what a scenario about the cost of a feature compares with.
    pub(super) fn start_plain(&self, row: &mut Row) -> Option<Entry> {
        let ours = self.subjects.iter().find(|subject| subject.kind == Kind::Outrider)?;
        let subject = Subject { name: PLAIN.to_owned(), ..ours.clone() };
        let cell = Cell { subject: subject.name.clone(), ..Cell::default() };
        match start(&subject, &Setup::plain(Mode::Http1, self.upstream()), self.cores) {
            Ok(running) => Some(Entry { family: running.family(), part: Part { subject, cell }, running }),
            Err(error) => {
                row.notes.push(format!("{PLAIN} left out: {error:#}"));
                None
            }
        }
    }

    /// The same, started; a note for each that cannot be.
    pub(super) fn start_all(&self, setup: &Setup, row: &mut Row) -> Vec<Entry> {
        let mut entries = Vec::new();
        for part in self.parts(setup, row) {
            match start(&part.subject, setup, self.cores) {
                Ok(running) => entries.push(Entry { family: running.family(), part, running }),
                Err(error) => row.notes.push(format!("{} left out: {error:#}", part.subject.name)),
            }
        }
        entries
    }
}

/// Does something with each subject; who fails is left out of the row from then on, with a note.
pub(super) fn each<T: AsRef<Part>>(
    entries: &mut Vec<T>,
    row: &mut Row,
    round: usize,
    mut act: impl FnMut(&mut T) -> Result<()>,
) {
    // Who goes first changes with the rounds, so that nobody always follows the same neighbour.
    let turn = round.checked_rem(entries.len()).unwrap_or(0);
    entries.rotate_left(turn);
    entries.retain_mut(|entry| match act(entry) {
        Ok(()) => true,
        Err(error) => {
            row.notes.push(format!("{} left out: {error:#}", entry.as_ref().subject.name));
            false
        }
    });
    let back = turn.checked_rem(entries.len()).unwrap_or(0);
    entries.rotate_right(back);
}

/// The cells of the row, in the order of the subjects.
pub(super) fn finish(subjects: &[Subject], parts: impl IntoIterator<Item = Part>, row: &mut Row) {
    let place = |part: &Part| subjects.iter().position(|subject| subject.name == part.subject.name);
    let mut parts: Vec<Part> = parts.into_iter().collect();
    parts.sort_by_key(place);
    row.cells = parts.into_iter().map(|part| part.cell).collect();
}
