//! An HTTP/2 connection: its streams run as tasks of their own on the same worker.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use h2::server::{Connection, SendResponse};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::drain::Drain;
use crate::exchange::timers::LazyTimer;
use crate::exchange::{self, Origin, Outcome, reply};
use crate::http::downstream::Downstream as _;
use crate::http::h2::convert::{self, HeadError};
use crate::http::h2::server::H2Server;
use crate::http::h2::{Queue, Queued};
use crate::limit::pressure::Stage;
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::PANICS;
use crate::transport::{Cutoff, Transport};

/// For the preface and the settings of a new connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that the client may reset before they were accepted (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 50;
/// Streams that we may have to reset for the client's errors before the connection is ended (CVE-2025-8671).
const MAX_LOCAL_ERRORS: usize = 256;
/// Reset streams that are remembered, and for how long.
const MAX_REMEMBERED_RESETS: usize = 50;
const REMEMBER_RESETS: Duration = Duration::from_secs(5);
/// How long a connection that is being ended may take to say goodbye once its streams are done.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves a connection to its end.
pub async fn serve(mut transport: Transport, origin: Origin, drain: Drain) {
    let cutoff = Rc::clone(transport.cutoff());
    let settings = origin.chain.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_concurrent_streams)
        .initial_window_size(settings.initial_stream_window_bytes)
        .initial_connection_window_size(settings.initial_connection_window_bytes)
        .max_header_list_size(u32::try_from(origin.chain.max_head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_LOCAL_ERRORS))
        .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_send_buffer_size(crate::http::h2::MAX_SEND_BUFFER_BYTES);
    if settings.allow_connect {
        builder.enable_connect_protocol();
    }
    let Ok(Ok(connection)) = timeout(HANDSHAKE_TIMEOUT, builder.handshake::<_, Queued>(transport)).await
    else {
        return;
    };
    Streams {
        connection,
        cutoff,
        tasks: JoinSet::new(),
        origin: Rc::new(origin),
        queue: Rc::default(),
        opened: Instant::now(),
        accepted: 0,
    }
    .run(&drain)
    .await;
}

struct Streams {
    connection: Connection<Transport, Queued>,
    /// Knows whether the client reads.
    cutoff: Rc<Cutoff>,
    /// A stream that wants the whole connection to end says so, and lives until it has: its own reset would come first.
    tasks: JoinSet<Option<Box<H2Server>>>,
    origin: Rc<Origin>,
    queue: Rc<Queue>,
    opened: Instant,
    accepted: u32,
}

/// What happened on a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment on the stack; a box would be an allocation per stream"
)]
enum Event {
    Stream(http::Request<h2::RecvStream>, SendResponse<Queued>),
    Ended,
    Drain,
}

impl Streams {
    async fn run(mut self, drain: &Drain) {
        let mut timer = LazyTimer::default();
        let mut draining = false;
        let mut idle_since = Instant::now();
        loop {
            match self.next(&mut timer, (drain, draining), &mut idle_since).await {
                Event::Stream(request, respond) => {
                    self.accepted = self.accepted.saturating_add(1);
                    let (parts, recv) = request.into_parts();
                    let ended = recv.is_end_stream();
                    let request = http::Request::from_parts(parts, ());
                    if let Some(renewed) = self.origin.renewed() {
                        self.origin = Rc::new(renewed);
                    }
                    let server = H2Server::new(recv, respond, &self.queue);
                    self.tasks.spawn_local(stream(request, ended, server, Rc::clone(&self.origin)));
                    draining |= self.is_used_up();
                }
                Event::Drain if draining => return,
                Event::Drain => {
                    draining = true;
                    self.connection.graceful_shutdown();
                }
                Event::Ended => break,
            }
        }
        // Streams that are still open have lost their connection; they notice, record it, and are waited for.
        drop(self.connection);
        while let Some(done) = self.tasks.join_next().await {
            account(&self.origin, done);
        }
    }

    fn is_used_up(&mut self) -> bool {
        let worker = &self.origin.worker;
        let used_up = self.origin.chain.max_requests.is_some_and(|limit| self.accepted >= limit)
            || worker.pressure.holds(Stage::StopKeepAlive, || worker.draw());
        if used_up {
            self.connection.graceful_shutdown();
        }
        used_up
    }

    async fn next(
        &mut self,
        timer: &mut LazyTimer,
        (drain, draining): (&Drain, bool),
        idle_since: &mut Instant,
    ) -> Event {
        poll_fn(|cx| {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    return Poll::Ready(Event::Stream(request, respond));
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Ended),
                Poll::Pending => {}
            }
            while let Poll::Ready(Some(done)) = self.tasks.poll_join_next(cx) {
                let last = account(&self.origin, done);
                if let Some(code) = last.as_ref().and_then(|server| server.goodbye()) {
                    self.connection.abrupt_shutdown(code);
                    cx.waker().wake_by_ref();
                }
                *idle_since = Instant::now();
            }
            let retired = self.origin.standing.retired().is_some();
            if !draining && (retired || drain.poll_begun(cx).is_ready()) {
                return Poll::Ready(Event::Drain);
            }
            match self.end(draining, *idle_since) {
                Some((end, stuck)) => {
                    timer.poll_until(cx, end).map(|()| if stuck { Event::Ended } else { Event::Drain })
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    /// When the connection is to end, and whether that is because the client does not read: answers that wait for it are
    /// whole as far as their streams know, so that none of them would notice.
    fn end(&self, draining: bool, idle_since: Instant) -> Option<(Instant, bool)> {
        let chain = &self.origin.chain;
        let idle = self.tasks.is_empty().then_some(idle_since);
        let idle_limit = if draining { Some(GOODBYE) } else { chain.idle_timeout };
        let idle_end = idle.zip(idle_limit).map(|(since, limit)| since + limit);
        let life_end = chain.max_connection_duration.filter(|_| !draining).map(|limit| self.opened + limit);
        let stuck_end = self.cutoff.stuck_since().zip(chain.stream_idle_timeout);
        let stuck_end = stuck_end.map(|(since, limit)| (since + limit, true));
        [idle_end, life_end].into_iter().flatten().map(|end| (end, false)).chain(stuck_end).min()
    }
}

fn account(
    origin: &Origin,
    done: Result<Option<Box<H2Server>>, tokio::task::JoinError>,
) -> Option<Box<H2Server>> {
    if done.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
        origin.worker.metrics.counter(PANICS, &Labels::none()).add(1);
    }
    done.ok().flatten()
}

async fn stream(
    request: http::Request<()>,
    ended: bool,
    mut server: H2Server,
    origin: Rc<Origin>,
) -> Option<Box<H2Server>> {
    let mut heads = origin.worker.heads.lend();
    let converted = convert::request_in(&request, ended, origin.chain.max_headers, &mut heads.request);
    drop(request);
    match converted {
        Ok(()) => {
            let mut timer = LazyTimer::default();
            let outcome = Box::pin(exchange::serve(&mut server, &mut heads, &mut timer, &origin)).await;
            let abandoned = outcome == Outcome::Broken && !server.is_sent_whole();
            if abandoned && server.goodbye().is_none() {
                server.abort();
            }
        }
        Err(error) => {
            let (reason, detail) = (reason(error), error.to_string());
            Box::pin(reply::unread(&mut server, &mut heads, (reason, &detail), &origin)).await;
        }
    }
    origin.worker.heads.give_back(heads);
    server.goodbye().is_some().then(|| Box::new(server))
}

const fn reason(error: HeadError) -> Reason {
    match error {
        HeadError::TooManyHeaders => Reason::HeadersTooLarge,
        HeadError::NoAuthority
        | HeadError::Switched
        | HeadError::HostMismatch
        | HeadError::BadAuthority
        | HeadError::BadPath
        | HeadError::BadContentLength => Reason::BadRequest,
    }
}
