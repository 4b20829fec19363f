//! What a run gives: counts, latencies, and whether the generator itself was the limit.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// What happened in the measured time of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests that were answered as they should be. In a closed loop those answered in the measured time, in an open one those
    /// that were due in it.
    pub requests: u64,
    /// All that were answered from the first to the last, with those of the warm-up and those that were under way at the end: what the
    /// CPU time that the target spent over the whole run is to be divided by.
    pub requests_in_all: u64,
    /// Requests that were not, by what went wrong.
    pub errors: Errors,
    /// Bytes read from the sockets for `requests` (before decryption is not counted: it is what the protocol sees).
    pub bytes_in: u64,
    /// Bytes written for them.
    pub bytes_out: u64,
    /// How long was measured.
    pub elapsed: Duration,
    /// Microseconds from when each of `requests` was sent (closed) or due (open) to the end of its answer.
    pub latency_us: Histogram<u64>,
    /// CPU time of the generator's thread in the measured time.
    pub generator_cpu: Duration,
    /// Why the generator, not what it measures, was the limit; `None` if it was not.
    pub limited_by_generator: Option<String>,
}

impl Outcome {
    /// Answered requests per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency in milliseconds that this percentage (0 to 100) of requests did not exceed.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.latency_us.value_at_percentile(percent) as f64 / 1e3
    }
}

/// What can go wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// No connection, or none in time.
    Connect,
    /// No TLS session, protocol handshake or upgrade on it.
    Handshake,
    /// The connection broke or was closed before the answer was whole.
    Broken,
    /// Another status than success.
    Status,
    /// Another length than asked for, or another echo.
    Length,
    /// Bytes that the protocol does not allow.
    Malformed,
    /// No whole answer at the end of the run.
    Unfinished,
}

impl ErrorKind {
    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Broken => "broken",
            Self::Status => "status",
            Self::Length => "length",
            Self::Malformed => "malformed",
            Self::Unfinished => "unfinished",
        }
    }
}

/// Failed requests by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(BTreeMap<ErrorKind, u64>);

impl Errors {
    /// Counts some more.
    pub fn add(&mut self, kind: ErrorKind, count: u64) {
        if count > 0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Of one kind.
    #[must_use]
    pub fn of(&self, kind: ErrorKind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    /// Kinds that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return to.write_str("none");
        }
        for (place, (kind, count)) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(to, "{comma}{} {count}", kind.name())?;
        }
        Ok(())
    }
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A value of the [`super::Spec`] is out of bounds.
    #[error("{field}: {what}")]
    Spec {
        /// Its field.
        field: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The thread cannot run on the wanted core.
    #[error("the generator cannot run on core {core}: {source}")]
    Core {
        /// That core.
        core: usize,
        /// What the kernel says.
        source: rustix::io::Errno,
    },
    /// The system does not give the generator what it needs.
    #[error("{what}: {source}")]
    System {
        /// What it needs.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Files for TLS cannot be used.
    #[error("{file}: {what}")]
    Tls {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing was answered, and this is why the first request failed.
    #[error("{target} answered no request: {why}")]
    NothingAnswered {
        /// Where they went.
        target: std::net::SocketAddr,
        /// What the first one came to.
        why: String,
    },
    /// The generator's thread came to a bad end.
    #[error("the generator's thread ended with a panic")]
    Panicked,
}
