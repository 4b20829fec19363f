//! Counters, gauges and histograms as cells that one worker writes and the exporter reads.
//!
//! A cell has one writer, so adding is a load and a store, without a lock on the bus. Handles are made when a
//! series is first needed, behind the worker's own lock, and kept by whoever records.
//!
//! A series ends when its names have left the configuration: once no worker holds a handle and nothing was added for
//! `EXPIRY`, it is shown one last time and forgotten by all workers at once, so that its sum never goes backwards.
//! Series without names from the configuration are kept for good.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Series of one family and worker; further ones are counted together under `overflow="true"`.
pub const MAX_SERIES_PER_FAMILY: usize = 10_000;

/// How long a series that nobody holds must be the same before it is forgotten.
const EXPIRY: Duration = Duration::from_secs(600);

/// Labels whose values come from the configuration, and so may leave with it.
const CONFIGURED: &[&str] = &["listener", "destination_service", "policy", "fault", "rule"];

/// `outrider_metrics_series_dropped_total`
pub const SERIES_DROPPED: Family = Family {
    name: "outrider_metrics_series_dropped_total",
    help: "Times that a series was not made because its family is full; it is counted under overflow=\"true\".",
    kind: Kind::Counter,
    labels: &["family"],
};

/// Upper bounds of the duration buckets, in microseconds: OpenTelemetry's for HTTP, with finer ones below.
const BOUNDS_US: [u64; 17] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000,
    2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds to it; only the worker that made it may.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Makes it this number; not for one that counts guards.
    pub fn set(&self, number: u32) {
        self.0.store(u64::from(number), Ordering::Relaxed);
    }

    /// Counts one until the guard is dropped.
    #[must_use]
    pub fn hold(&self) -> GaugeGuard {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        GaugeGuard(self.clone())
    }
}

/// One in a gauge.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        let cell = &self.0.0;
        cell.store(cell.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }
}

/// Durations by bucket.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramCells>);

#[derive(Debug, Default)]
struct HistogramCells {
    /// One more than the bounds: the last is without bound.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Adds a duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        for (cell, count) in [(self.0.buckets.get(bucket), 1), (Some(&self.0.sum_us), micros)] {
            if let Some(cell) = cell {
                cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
            }
        }
    }
}

/// How a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by bucket.
    Histogram,
}

impl Kind {
    /// The name in the exposition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A family: its name, what it counts and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// The name in the exposition.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

impl Family {
    fn expires(&self) -> bool {
        self.labels.iter().any(|label| CONFIGURED.contains(label))
    }
}

#[derive(Debug)]
enum Cells {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<HistogramCells>),
}

impl Cells {
    /// Whether somebody may still write. It is told without a race: who let go of a handle has written before.
    fn is_held(&mut self) -> bool {
        match self {
            Self::Counter(cell) | Self::Gauge(cell) => Arc::get_mut(cell).is_none(),
            Self::Histogram(cells) => Arc::get_mut(cells).is_none(),
        }
    }

    /// Changes with every write.
    fn mark(&self) -> u64 {
        match self {
            Self::Counter(cell) | Self::Gauge(cell) => cell.load(Ordering::Relaxed),
            Self::Histogram(cells) => {
                let counts = cells.buckets.iter().map(|cell| cell.load(Ordering::Relaxed));
                counts.fold(0, u64::wrapping_add)
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    cells: Cells,
    /// The mark at the last scrape that found it changed or held, and when that was.
    seen: Option<(u64, Instant)>,
}

impl Entry {
    const fn new(cells: Cells) -> Self {
        Self { cells, seen: None }
    }

    fn is_stale(&mut self, now: Instant) -> bool {
        let mark = self.cells.mark();
        let same_since = self.seen.filter(|(seen, _)| *seen == mark).map(|(_, since)| since);
        match same_since {
            Some(since) if !self.cells.is_held() => now.duration_since(since) >= EXPIRY,
            _ => {
                self.seen = Some((mark, now));
                false
            }
        }
    }
}

type Series = BTreeMap<Family, BTreeMap<Box<str>, Entry>>;

/// The series of one worker.
#[derive(Clone, Debug, Default)]
pub struct Shard(Arc<Mutex<Series>>);

impl Shard {
    /// The counter with these labels.
    #[must_use]
    pub fn counter(&self, family: Family, labels: &Labels) -> Counter {
        let cell = self.cell(
            family,
            labels,
            |found| match found {
                Cells::Counter(cell) => Some(Arc::clone(cell)),
                Cells::Gauge(_) | Cells::Histogram(_) => None,
            },
            || Cells::Counter(Arc::default()),
        );
        Counter(cell.unwrap_or_default())
    }

    /// The counter with these labels, or with the others once its family has so many series: where strangers choose
    /// the labels.
    #[must_use]
    pub fn counter_of_few(
        &self,
        family: Family,
        most: usize,
        (labels, others): (&Labels, &Labels),
    ) -> Counter {
        let has_room =
            |known: &BTreeMap<Box<str>, Entry>| known.len() < most || known.contains_key(labels.0.as_str());
        let has_room = self.lock().get(&family).is_none_or(has_room);
        self.counter(family, if has_room { labels } else { others })
    }

    /// The gauge with these labels.
    #[must_use]
    pub fn gauge(&self, family: Family, labels: &Labels) -> Gauge {
        let cell = self.cell(
            family,
            labels,
            |found| match found {
                Cells::Gauge(cell) => Some(Arc::clone(cell)),
                Cells::Counter(_) | Cells::Histogram(_) => None,
            },
            || Cells::Gauge(Arc::default()),
        );
        Gauge(cell.unwrap_or_default())
    }

    /// The histogram with these labels.
    #[must_use]
    pub fn histogram(&self, family: Family, labels: &Labels) -> Histogram {
        let cell = self.cell(
            family,
            labels,
            |found| match found {
                Cells::Histogram(cell) => Some(Arc::clone(cell)),
                Cells::Counter(_) | Cells::Gauge(_) => None,
            },
            || Cells::Histogram(Arc::default()),
        );
        Histogram(cell.unwrap_or_default())
    }

    fn cell<T>(
        &self,
        family: Family,
        labels: &Labels,
        take: impl Fn(&Cells) -> Option<Arc<T>>,
        make: impl FnOnce() -> Cells,
    ) -> Option<Arc<T>> {
        let mut series = self.lock();
        let of_family = series.entry(family).or_default();
        let full = of_family.len() >= MAX_SERIES_PER_FAMILY && !of_family.contains_key(labels.0.as_str());
        let key = if full { "overflow=\"true\"" } else { labels.0.as_str() };
        let found = take(&of_family.entry(key.into()).or_insert_with(|| Entry::new(make())).cells);
        drop(series);
        // The family that counts them has a label of our own names only, and is never full.
        if full && family != SERIES_DROPPED {
            self.counter(SERIES_DROPPED, &Labels::none().with("family", family.name)).add(1);
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Series> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Labels in the form in which they are shown.
#[derive(Clone, Debug, Default)]
pub struct Labels(String);

impl Labels {
    /// No label.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// With one more label.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                letter => self.0.push(letter),
            }
        }
        self.0.push('"');
        self
    }
}

/// The sums over all workers, in the text format of Prometheus.
#[must_use]
pub fn render(shards: &[Shard]) -> String {
    render_at(shards, Instant::now())
}

type Sums = BTreeMap<Family, BTreeMap<Box<str>, (Sum, bool)>>;

fn render_at(shards: &[Shard], now: Instant) -> String {
    let mut merged = Sums::new();
    for shard in shards {
        for (family, of_family) in &mut *shard.lock() {
            let sums = merged.entry(*family).or_default();
            for (labels, entry) in of_family {
                let stale = family.expires() && entry.is_stale(now);
                match sums.get_mut(labels) {
                    Some((sum, all_stale)) => {
                        sum.add(&entry.cells);
                        *all_stale &= stale;
                    }
                    None => {
                        let mut sum = Sum::like(&entry.cells);
                        sum.add(&entry.cells);
                        sums.insert(labels.clone(), (sum, stale));
                    }
                }
            }
        }
    }
    forget_stale(shards, &merged, now);
    let mut out = String::new();
    for (family, sums) in &merged {
        // Writing into a string cannot fail.
        let (name, help, kind) = (family.name, family.help, family.kind.name());
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, (sum, _)) in sums {
            sum.render(name, labels, &mut out);
        }
    }
    out
}

/// Takes away the series that are stale in all shards, in all of them or in none.
fn forget_stale(shards: &[Shard], merged: &Sums, now: Instant) {
    let stale: Vec<(&Family, &str)> = merged
        .iter()
        .flat_map(|(family, sums)| sums.iter().map(move |(labels, (_, stale))| (family, &**labels, *stale)))
        .filter_map(|(family, labels, stale)| stale.then_some((family, labels)))
        .collect();
    if stale.is_empty() {
        return;
    }
    // All at once, so that none can come back to life between two of them. Workers lock no more than their own.
    let mut locked: Vec<_> = shards.iter().map(Shard::lock).collect();
    for (family, labels) in stale {
        let mut entries = locked.iter_mut().filter_map(|series| series.get_mut(family)?.get_mut(labels));
        if entries.all(|entry| entry.is_stale(now)) {
            for series in &mut locked {
                series.get_mut(family).map(|of_family| of_family.remove(labels));
            }
        }
    }
}

enum Sum {
    Counter(u64),
    Gauge(u64),
    Histogram(Box<[u64; BOUNDS_US.len() + 1]>, u64),
}

impl Sum {
    fn like(cells: &Cells) -> Self {
        match cells {
            Cells::Counter(_) => Self::Counter(0),
            Cells::Gauge(_) => Self::Gauge(0),
            Cells::Histogram(_) => Self::Histogram(Box::default(), 0),
        }
    }

    fn add(&mut self, cells: &Cells) {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        match (self, cells) {
            (Self::Counter(sum), Cells::Counter(cell)) | (Self::Gauge(sum), Cells::Gauge(cell)) => {
                *sum = sum.wrapping_add(load(cell));
            }
            (Self::Histogram(buckets, sum), Cells::Histogram(cells)) => {
                for (bucket, cell) in buckets.iter_mut().zip(&cells.buckets) {
                    *bucket = bucket.wrapping_add(load(cell));
                }
                *sum = sum.wrapping_add(load(&cells.sum_us));
            }
            _ => {}
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a sum of seconds is shown with the precision of a float")]
    fn render(&self, name: &str, labels: &str, out: &mut String) {
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = match self {
            Self::Counter(sum) => writeln!(out, "{name}{braced} {sum}"),
            #[expect(clippy::cast_possible_wrap, reason = "a gauge is kept in two's complement")]
            Self::Gauge(sum) => writeln!(out, "{name}{braced} {}", *sum as i64),
            Self::Histogram(buckets, sum_us) => {
                let mut total = 0_u64;
                for (index, count) in buckets.iter().enumerate() {
                    total = total.wrapping_add(*count);
                    let bound =
                        BOUNDS_US.get(index).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
                    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
                }
                writeln!(out, "{name}_sum{braced} {}\n{name}_count{braced} {total}", *sum_us as f64 / 1e6)
            }
        };
    }
}

#[cfg(test)]
mod tests;
