//! Counters, gauges and histograms as cells that one worker writes and the exporter reads.
//!
//! A cell has one writer, so adding is a load and a store, without a lock on the bus. Handles are made when a
//! series is first needed, behind the worker's own lock, and kept by whoever records.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Series of one family and worker; further ones are counted together under `overflow="true"`.
pub const MAX_SERIES_PER_FAMILY: usize = 10_000;

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

/// A family: its name, what it counts and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// The name in the exposition.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
}

#[derive(Debug)]
enum Cells {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<HistogramCells>),
}

type Series = BTreeMap<Family, BTreeMap<Box<str>, Cells>>;

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
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_family = series.entry(family).or_default();
        let full = of_family.len() >= MAX_SERIES_PER_FAMILY && !of_family.contains_key(labels.0.as_str());
        let key = if full { "overflow=\"true\"" } else { labels.0.as_str() };
        take(of_family.entry(key.into()).or_insert_with(make))
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
    let mut merged: BTreeMap<Family, BTreeMap<Box<str>, Sum>> = BTreeMap::new();
    for shard in shards {
        let series = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (family, of_family) in &*series {
            let sums = merged.entry(*family).or_default();
            for (labels, cells) in of_family {
                sums.entry(labels.clone()).or_insert_with(|| Sum::like(cells)).add(cells);
            }
        }
    }
    let mut out = String::new();
    for (family, sums) in &merged {
        let kind = sums.values().next().map_or("untyped", Sum::kind);
        // Writing into a string cannot fail.
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name);
        for (labels, sum) in sums {
            sum.render(family.name, labels, &mut out);
        }
    }
    out
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

    const fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(..) => "histogram",
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
mod tests {
    use super::*;

    const COUNT: Family = Family { name: "a_total", help: "A." };
    const SECONDS: Family = Family { name: "b_seconds", help: "B." };

    #[test]
    fn workers_are_added_up() {
        let shards = [Shard::default(), Shard::default()];
        let labels = Labels::none().with("x", "q\"\\\n");
        for shard in &shards {
            shard.counter(COUNT, &labels).add(2);
            shard.counter(COUNT, &labels).add(1);
            shard.histogram(SECONDS, &Labels::none()).record(Duration::from_micros(600));
        }
        let text = render(&shards);
        assert!(text.contains("# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\"} 6\n"), "{text}");
        assert!(
            text.contains("b_seconds_bucket{le=\"0.0005\"} 0\nb_seconds_bucket{le=\"0.001\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("b_seconds_sum 0.0012\nb_seconds_count 2\n"), "{text}");
    }

    #[test]
    fn gauges_count_what_is_held() {
        let shard = Shard::default();
        let gauge = shard.gauge(COUNT, &Labels::none());
        let (one, two) = (gauge.hold(), gauge.hold());
        drop(one);
        assert!(render(std::slice::from_ref(&shard)).contains("a_total 1\n"));
        drop(two);
        assert!(render(&[shard]).contains("a_total 0\n"));
    }

    #[test]
    fn cardinality_is_bounded_and_says_so() {
        let shard = Shard::default();
        for n in 0..MAX_SERIES_PER_FAMILY + 5 {
            shard.counter(COUNT, &Labels::none().with("n", &n.to_string())).add(1);
        }
        assert!(render(&[shard]).contains("a_total{overflow=\"true\"} 5\n"));
    }
}
