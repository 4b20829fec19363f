//! One stream, from its first request to its end: what comes in, what changes, and what goes out, as fast as this
//! client takes it and no faster.
//!
//! Nothing is computed before there is room to send it, so a slow client costs [`QUEUED_RESPONSES`] responses and
//! holds nobody else up. When it is ready for more it gets the newest state, not what it has missed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::node::{self, NodeError};
use super::protocol::Protocol;
use super::{Answer, Differ};
use crate::auth::Caller;
use crate::proxy_info::ProxyInfo;
use crate::registry::{Connection, Registry};
use crate::revoked::Revocations;
use crate::snapshots::Snapshots;

/// Responses that wait in a stream for its client.
pub const QUEUED_RESPONSES: usize = 2;
/// How long a client may take for its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a client may take nothing although there is something to say.
const STALLED: Duration = Duration::from_secs(60);
/// Most proxies of one control server.
pub const MAX_PROXIES: usize = 20_000;

/// What streams share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// How the control server names itself to proxies.
    pub identifier: Arc<str>,
    /// What is served.
    pub snapshots: Arc<dyn Snapshots>,
    /// Changes of it, debounced.
    pub changes: watch::Receiver<u64>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// What changes are made of.
    pub differ: Arc<Differ>,
    /// Who is to be told nothing any more.
    pub revocations: Revocations,
    /// Set when the control server ends.
    pub ending: watch::Receiver<bool>,
}

struct Stream<P: Protocol> {
    shared: Shared,
    info: Arc<ProxyInfo>,
    session: P,
    connection: Connection,
    /// When what is being told was new.
    pushed: Option<Instant>,
    /// Since when there is something to say.
    waiting: Option<Instant>,
}

type Responses<P> = mpsc::Sender<Result<<P as Protocol>::Response, Status>>;

/// Serves a stream until it ends. What is wrong with it is the last thing that its client hears.
pub(super) async fn serve<P: Protocol>(
    shared: Shared,
    caller: Caller,
    mut requests: Streaming<P::Request>,
    responses: Responses<P>,
) {
    let ended = match open::<P>(shared, &caller, &mut requests).await {
        Ok(Some(stream)) => stream.run(&caller, requests, &responses).await,
        Ok(None) => Ok(()),
        Err(status) => Err(status),
    };
    if let Err(status) = ended {
        tracing::info!(reason = status.message(), "stream ended");
        // A client that takes nothing does not hear the last of it.
        let _ = responses.try_send(Err(status));
    }
}

async fn open<P: Protocol>(
    shared: Shared,
    caller: &Caller,
    requests: &mut Streaming<P::Request>,
) -> Result<Option<Stream<P>>, Status> {
    let first = timeout(FIRST_REQUEST, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request on a new stream"))??;
    let Some(first) = first else { return Ok(None) };
    let node =
        P::node(&first).ok_or_else(|| Status::invalid_argument("node: missing in the first request"))?;
    let info = Arc::new(node::proxy_info(node, caller)?);
    if shared.registry.streams() >= MAX_PROXIES {
        return Err(Status::resource_exhausted(format!("{MAX_PROXIES} proxies are connected already")));
    }
    let snapshot = shared.snapshots.snapshot(&info);
    let (identifier, differ) = (Arc::clone(&shared.identifier), Arc::clone(&shared.differ));
    let connection = shared.registry.connect(&info, P::NAME);
    tracing::info!(
        proxy = %info.id,
        namespace = %info.namespace,
        dialect = info.dialect.name(),
        protocol = P::NAME,
        "proxy connected"
    );
    if let (Some(address), true) = (info.address, info.registers() && !info.is_there) {
        tracing::warn!(
            proxy = %info.id,
            %address,
            "is no endpoint: it connects from another address (see --trust-workload-addresses)"
        );
    }
    let session = P::open(identifier, info.supports_ttl, snapshot, differ);
    let mut stream = Stream { shared, info, session, connection, pushed: None, waiting: None };
    stream.request(&first)?;
    Ok(Some(stream))
}

impl<P: Protocol> Stream<P> {
    async fn run(
        mut self,
        caller: &Caller,
        mut requests: Streaming<P::Request>,
        responses: &Responses<P>,
    ) -> Result<(), Status> {
        let proof_ends = caller.expires.map(instant);
        let mut changes = self.shared.changes.clone();
        let mut ending = self.shared.ending.clone();
        let mut revocations = self.shared.revocations.clone();
        // The snapshot was taken before this: a change since then counts as one.
        changes.mark_changed();
        loop {
            let stalled = self.waiting.map(|since| since + STALLED);
            let wake = if self.waiting.is_some() { None } else { self.session.wake(Instant::now()) };
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.request(&request)?,
                    None => return Ok(()),
                },
                permit = responses.reserve(), if self.waiting.is_some() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(response) = self.next() {
                        permit.send(Ok(response));
                    }
                }
                changed = changes.changed() => {
                    changed.map_err(|_| Status::unavailable("the control server is ending"))?;
                    self.change();
                }
                () = until(wake) => self.waiting = Some(Instant::now()),
                () = until(stalled) => {
                    return Err(Status::deadline_exceeded("the proxy takes no responses"));
                }
                () = until(proof_ends) => {
                    return Err(Status::unauthenticated("the certificate or the token has expired"));
                }
                reason = revocations.until(|revoked| caller.cut_by(revoked)) => {
                    tracing::warn!(target: "outrider_control::audit", proxy = %self.info.id, reason, "stream ended");
                    return Err(Status::permission_denied(reason));
                }
                _ = ending.wait_for(|ending| *ending) => {
                    return Err(Status::unavailable("the control server is ending"));
                }
            }
        }
    }

    fn request(&mut self, request: &P::Request) -> Result<(), Status> {
        let answer = self.session.request(request, Instant::now());
        let answer = answer.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(answer) = answer {
            self.answered(&answer);
        }
        self.waiting.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn change(&mut self) {
        self.session.change(self.shared.snapshots.snapshot(&self.info));
        self.pushed.get_or_insert_with(Instant::now);
        self.waiting.get_or_insert_with(Instant::now);
    }

    /// The next response, if there is one.
    fn next(&mut self) -> Option<P::Response> {
        let now = Instant::now();
        if let Some(outgoing) = self.session.next(now) {
            self.waiting = Some(now);
            metrics::counter!("outrider_control_xds_responses_total", "type" => outgoing.kind.type_url())
                .increment(1);
            self.connection.sent(&outgoing);
            return Some(outgoing.response);
        }
        self.waiting = None;
        let standing = self.session.standing();
        let settled = standing.iter().all(|(_, one)| one.settled);
        self.connection.standing(standing.into_iter());
        if let Some(pushed) = self.pushed.take_if(|_| settled) {
            metrics::histogram!("outrider_control_xds_push_seconds").record(pushed.elapsed().as_secs_f64());
        }
        None
    }

    fn answered(&self, answer: &Answer) {
        let kind = answer.kind.type_url();
        if let Some(reason) = &answer.error {
            metrics::counter!("outrider_control_xds_rejects_total", "type" => kind).increment(1);
            tracing::warn!(proxy = %self.info.id, namespace = %self.info.namespace, kind, reason, "configuration refused");
        } else {
            metrics::counter!("outrider_control_xds_accepts_total", "type" => kind).increment(1);
        }
        self.connection.answered(answer);
    }
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        match &error {
            NodeError::Invalid { .. } => Self::invalid_argument(error.to_string()),
            NodeError::Other { .. } => Self::permission_denied(error.to_string()),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A time of the calendar on the clock of timers; what is over is now.
fn instant(at: SystemTime) -> Instant {
    /// Further than this no timer need see.
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default().min(FAR)
}
