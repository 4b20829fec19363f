//! The load: one thread that sends requests in a closed or an open loop, and the backend that answers them.
//!
//! It does just what the scenarios need, over raw HTTP/1.1, `h2` and WebSocket frames, so that its own cost stays below
//! that of what it measures.

pub mod backend;
mod backend_h2;
mod h2_client;
mod http1;
mod pace;
mod websocket;

use std::cell::RefCell;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::task::{JoinSet, LocalSet};

use pace::Turns;

/// Percentiles of a latency curve.
const PERCENTILES: &[f64] = &[
    10.0, 25.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 97.0, 98.0, 99.0, 99.5, 99.8, 99.9,
    99.95, 99.99,
];
/// The longest latency that is told apart, in microseconds; what is longer counts as this.
const MAX_LATENCY_US: u64 = 60_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// How long requests under way at the end of a pass may take.
const GRACE: Duration = Duration::from_secs(5);
/// The part of open-loop requests that may be handed out late before the generator counts as the limit.
const LATE_SHARE: f64 = 0.01;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What is sent.
    pub kind: Kind,
    /// Connections.
    pub connections: usize,
    /// Bytes of each answer (of each request for [`Kind::H2Post`], of each message for the last three).
    pub bytes: usize,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 `GET` over kept connections.
    Get,
    /// A new connection for each HTTP/1.1 `GET`.
    NewConnection,
    /// HTTP/2 `GET`, so many streams on each connection.
    H2Get(usize),
    /// HTTP/2 `POST` likewise.
    H2Post(usize),
    /// Unary gRPC calls likewise.
    GrpcUnary(usize),
    /// WebSocket messages that come back.
    WebSocket,
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the answer to the last one is there.
    Closed,
    /// At a fixed rate, whatever the answers do; latency counts from when a request was due.
    Open {
        /// Requests due each second, over all connections.
        per_second: f64,
    },
}

/// What a pass gave.
#[derive(Debug)]
pub struct Pass {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether the generator could not send in time (open loop only).
    pub late: bool,
    latency_us: Histogram<u64>,
}

impl Pass {
    /// The latency that this share (0 to 100) of the requests did not exceed.
    #[must_use]
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.latency_us.value_at_percentile(percentile) as f64 / 1e3
    }
}

/// The latencies of several passes together.
#[derive(Debug, Default)]
pub struct Curve {
    all: Option<Histogram<u64>>,
}

impl Curve {
    /// Adds a pass.
    pub fn add(&mut self, pass: &Pass) {
        match &mut self.all {
            // They have the same bounds: all are made alike.
            Some(all) => drop(all.add(&pass.latency_us)),
            None => self.all = Some(pass.latency_us.clone()),
        }
    }

    /// `(percentile, milliseconds)`.
    #[must_use]
    pub fn points(&self) -> Vec<(f64, f64)> {
        let Some(all) = &self.all else { return Vec::new() };
        PERCENTILES.iter().map(|one| (*one, all.value_at_percentile(*one) as f64 / 1e3)).collect()
    }
}

/// Sends load to a target for a while, on the calling thread.
///
/// # Errors
/// When not one connection can be made, or the thread cannot have a runtime.
pub fn pass(target: SocketAddr, load: Load, pace: Pace, length: Duration) -> Result<Pass> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(target, load, pace, length))
}

/// Connections that have been answered once and are idle. They close when they are dropped.
///
/// # Errors
/// When one cannot be made or is not answered.
pub fn hold(target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    (0..count).map(|_| http1::ask_once(target)).collect()
}

async fn run(target: SocketAddr, load: Load, pace: Pace, length: Duration) -> Result<Pass> {
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let turns = Rc::new(Turns::new(pace));
    let mut tasks = JoinSet::new();
    for _ in 0..load.connections {
        let shared = Shared { tally: Rc::clone(&tally), turns: Rc::clone(&turns) };
        match load.kind {
            Kind::Get => tasks.spawn_local(http1::keep(target, load.bytes, shared)),
            Kind::NewConnection => tasks.spawn_local(http1::anew(target, load.bytes, shared)),
            Kind::WebSocket => tasks.spawn_local(websocket::client(target, load.bytes, shared)),
            Kind::H2Get(_) | Kind::H2Post(_) | Kind::GrpcUnary(_) => {
                tasks.spawn_local(h2_client::connection(target, load, shared))
            }
        };
    }
    let begin = Instant::now();
    let late = turns.run(length).await?;
    let elapsed = begin.elapsed();
    // What is under way may finish and is counted; what does not is an error.
    let mut failure = None;
    let finished = tokio::time::timeout(GRACE, async {
        while let Some(joined) = tasks.join_next().await {
            if let Ok(Err(error)) = joined {
                failure = Some(error);
            }
        }
    });
    let stuck = if finished.await.is_err() { tasks.len() as u64 } else { 0 };
    tasks.shutdown().await;
    let Some(tally) = Rc::into_inner(tally) else { bail!("the load did not end") };
    let tally = tally.into_inner();
    if let (0, Some(error)) = (tally.requests, failure) {
        return Err(error).context("nothing was answered");
    }
    Ok(Pass {
        requests: tally.requests,
        errors: tally.errors + stuck + turns.left(),
        elapsed,
        late: late > LATE_SHARE,
        latency_us: tally.latency_us,
    })
}

/// What all connections of a pass share.
#[derive(Clone)]
struct Shared {
    tally: Rc<RefCell<Tally>>,
    turns: Rc<Turns>,
}

impl Shared {
    /// Counts an answered request that was due at `due`.
    fn answered(&self, due: Instant) {
        let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(MAX_LATENCY_US);
        let mut tally = self.tally.borrow_mut();
        tally.requests += 1;
        tally.latency_us.saturating_record(us.clamp(1, MAX_LATENCY_US));
    }

    /// Counts a failed one.
    fn failed(&self) {
        self.tally.borrow_mut().errors += 1;
    }
}

#[derive(Debug)]
struct Tally {
    requests: u64,
    errors: u64,
    latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self> {
        let latency_us = Histogram::new_with_bounds(1, MAX_LATENCY_US, DIGITS).context("a histogram")?;
        Ok(Self { requests: 0, errors: 0, latency_us })
    }
}

#[cfg(test)]
mod tests;
