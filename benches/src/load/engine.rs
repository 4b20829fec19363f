//! One run from its beginning to its end: check, thread, connections, gate, window, what is left over.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::http1::{Fresh, Kept};
use super::meter::{Failure, Meter, Moved, Window};
use super::outcome::{ErrorKind, LoadError, Outcome};
use super::selfcheck::{Usage, Watch, limit};
use super::stream::Dialer;
use super::tcp::Frames;
use super::websocket::Messages;
use super::{MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_STREAMS, Pace, Protocol, Spec, http2, streams};

/// How long connections may take to be there before those that are begin.
const SETUP: Duration = Duration::from_secs(10);
/// How long requests that are under way at the end, or were due before it, may take.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at whether they are all there, and between two attempts to connect.
pub(super) const PAUSE: Duration = Duration::from_millis(2);
/// The longest warm-up or measured time.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);
/// The highest rate of an open loop, per second.
const MAX_RATE: f64 = 5e6;

/// Does what the spec says, in a thread of its own, and waits for it.
///
/// # Errors
/// When the spec is out of bounds, the system does not give what is needed, or not one request was answered.
pub fn run(spec: &Spec) -> Result<Outcome, LoadError> {
    check(spec)?;
    let thread = std::thread::scope(|scope| scope.spawn(|| on_this_thread(spec)).join());
    thread.map_err(|_| LoadError::Panicked)?
}

fn check(spec: &Spec) -> Result<(), LoadError> {
    let wrong = |field, what: String| Err(LoadError::Spec { field, what });
    if !(1..=MAX_CONNECTIONS).contains(&spec.connections) {
        return wrong("connections", format!("{} is not within 1 to {MAX_CONNECTIONS}", spec.connections));
    }
    let streams = match spec.protocol {
        Protocol::Http2 { streams } | Protocol::GrpcUnary { streams } | Protocol::GrpcStream { streams } => {
            streams
        }
        Protocol::Http1 | Protocol::Tcp | Protocol::WebSocket | Protocol::NewConnection => 1,
    };
    if !(1..=MAX_STREAMS).contains(&streams) {
        return wrong("streams", format!("{streams} is not within 1 to {MAX_STREAMS}"));
    }
    for (field, bytes) in [("request_bytes", spec.request_bytes), ("response_bytes", spec.response_bytes)] {
        if bytes > MAX_BODY_BYTES {
            return wrong(field, format!("{bytes} is more than {MAX_BODY_BYTES}"));
        }
    }
    match spec.pace {
        Pace::Open { per_second } if !(per_second > 0.0 && per_second <= MAX_RATE) => {
            return wrong("per_second", format!("{per_second} is not above 0 and at most {MAX_RATE}"));
        }
        Pace::Open { .. } | Pace::Closed => {}
    }
    for (field, time) in [("warmup", spec.warmup), ("duration", spec.duration)] {
        if time > MAX_TIME || (field == "duration" && time.is_zero()) {
            return wrong(field, format!("{time:?} is not above 0 and at most {MAX_TIME:?}"));
        }
    }
    Ok(())
}

fn on_this_thread(spec: &Spec) -> Result<Outcome, LoadError> {
    if let Some(core) = spec.core {
        let mut set = rustix::thread::CpuSet::new();
        // The set panics above its size; the kernel knows no such core either.
        if core >= rustix::thread::CpuSet::MAX_CPU {
            return Err(LoadError::Core { core, source: rustix::io::Errno::INVAL });
        }
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set).map_err(|source| LoadError::Core { core, source })?;
    }
    let dialer = Dialer::new(spec)?;
    let system = |what| move |source| LoadError::System { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(system("a runtime"))?.block_on(drive(spec, dialer))
}

async fn drive(spec: &Spec, dialer: Dialer) -> Result<Outcome, LoadError> {
    let system = |what| move |source| LoadError::System { what, source };
    let meter = Meter::new(spec).map_err(std::io::Error::other).map_err(system("a histogram"))?;
    let meter = Arc::new(meter);
    let plan = Arc::new(Plan { spec: spec.clone(), dialer });
    let mut tasks = JoinSet::new();
    for _ in 0..spec.connections {
        spawn(&mut tasks, &plan, &meter);
    }
    // Those that are not there yet are on their way to their first failure, which counts.
    let _ = timeout(SETUP, meter.all_ready(spec.connections)).await;
    let window = meter.open_gate(spec);
    let usage = match meter.turns() {
        None => watch(spec, window).await,
        Some(turns) => {
            let handing = turns.hand_out(window.begin, spec.warmup + spec.duration);
            let (handed, usage) = tokio::join!(handing, watch(spec, window));
            handed.map_err(system("a timer"))?;
            settle(&meter, due(spec, &meter)).await;
            turns.end();
            usage
        }
    };
    // What is under way comes to its end, so that the target has done nothing that no request stands for.
    let _ = timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
    conclude(spec, &meter, usage)
}

fn spawn(tasks: &mut JoinSet<()>, plan: &Arc<Plan>, meter: &Arc<Meter>) {
    let (plan, meter) = (Arc::clone(plan), Arc::clone(meter));
    match plan.spec.protocol {
        Protocol::Http1 => tasks.spawn(repeat::<Kept>(plan, meter)),
        Protocol::NewConnection => tasks.spawn(repeat::<Fresh>(plan, meter)),
        Protocol::Tcp => tasks.spawn(repeat::<Frames>(plan, meter)),
        Protocol::WebSocket => tasks.spawn(repeat::<Messages>(plan, meter)),
        Protocol::Http2 { .. } => tasks.spawn(http2::connection(plan, meter)),
        Protocol::GrpcUnary { .. } | Protocol::GrpcStream { .. } => {
            tasks.spawn(streams::connection(plan, meter))
        }
    };
}

async fn watch(spec: &Spec, window: Window) -> Usage {
    sleep_until(window.from.into()).await;
    let begin = Watch::begin(spec.core);
    sleep_until(window.to.into()).await;
    begin.end()
}

/// Waits until everything that was due came to its end, but not for ever.
async fn settle(meter: &Meter, due: u64) {
    let settled = async {
        loop {
            let ended = {
                let tally = meter.tally();
                tally.latency_us.len() + tally.errors.total()
            };
            if ended >= due {
                return;
            }
            sleep(PAUSE).await;
        }
    };
    let _ = timeout(GRACE, settled).await;
}

/// Requests that were due in the measured time of an open loop.
fn due(spec: &Spec, meter: &Meter) -> u64 {
    meter.turns().map_or(0, |turns| turns.count(spec.warmup, spec.warmup + spec.duration))
}

fn conclude(spec: &Spec, meter: &Meter, usage: Usage) -> Result<Outcome, LoadError> {
    let due = due(spec, meter);
    let mut tally = meter.tally();
    let requests = tally.latency_us.len();
    let ended = requests + tally.errors.total();
    tally.errors.add(ErrorKind::Unfinished, due.saturating_sub(ended));
    if requests == 0 {
        let why = tally.first_failure.clone();
        let why = why.unwrap_or_else(|| "no answer was whole before the end".to_owned());
        return Err(LoadError::NothingAnswered { target: spec.target, why });
    }
    Ok(Outcome {
        requests,
        requests_in_all: requests + tally.beside,
        errors: tally.errors.clone(),
        bytes_in: tally.moved.bytes_in,
        bytes_out: tally.moved.bytes_out,
        elapsed: spec.duration,
        latency_us: tally.latency_us.clone(),
        generator_cpu: usage.cpu,
        limited_by_generator: limit(&usage, &tally),
    })
}

/// What every connection of a run knows.
pub(super) struct Plan {
    pub(super) spec: Spec,
    pub(super) dialer: Dialer,
}

/// A connection that carries one request at a time.
pub(super) trait Client: Sized + Send {
    /// Connects, and does whatever comes before the first request.
    fn open(plan: &Plan) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// Sends a request and reads its answer to the end. After a failure the connection is not used again.
    fn exchange(&mut self, plan: &Plan) -> impl Future<Output = Result<Moved, Failure>> + Send;

    /// Whether it can carry another one.
    fn is_open(&self) -> bool {
        true
    }
}

/// One request after the other; a new connection where the last one cannot be used any more.
async fn repeat<C: Client>(plan: Arc<Plan>, meter: Arc<Meter>) {
    let mut client = match C::open(&plan).await {
        Ok(client) => Some(client),
        Err(failure) => {
            meter.trouble(failure);
            None
        }
    };
    meter.start_together().await;
    while let Some(turn) = meter.turn().await {
        match once(&plan, client.take()).await {
            Ok((used, moved)) => {
                meter.answered(turn, moved);
                client = Some(used).filter(C::is_open);
            }
            Err(failure) => {
                meter.failed(turn, failure);
                // A target that refuses at once is not to be asked without end.
                sleep(PAUSE).await;
            }
        }
    }
}

async fn once<C: Client>(plan: &Plan, client: Option<C>) -> Result<(C, Moved), Failure> {
    let mut client = match client {
        Some(client) => client,
        None => C::open(plan).await?,
    };
    let moved = client.exchange(plan).await?;
    Ok((client, moved))
}
