//! An HTTP/2 connection: its streams run as tasks of their own on the same worker.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::drain::Drain;
use crate::exchange::report::Report;
use crate::exchange::timers::LazyTimer;
use crate::exchange::{self, Origin, Outcome, reply};
use crate::http::body::{Pump, Whole};
use crate::http::downstream::Downstream as _;
use crate::http::h2::convert::{self, HeadError};
use crate::http::h2::server::H2Server;
use crate::http::heads::Heads;
use crate::http::message::{BodyLength, RequestHead};
use crate::limit::pressure::Stage;
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::PANICS;
use crate::transport::Transport;

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
pub async fn serve(transport: Transport, origin: Origin, drain: Drain) {
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
    let Ok(Ok(connection)) = timeout(HANDSHAKE_TIMEOUT, builder.handshake::<_, Bytes>(transport)).await
    else {
        return;
    };
    Streams {
        connection,
        tasks: JoinSet::new(),
        origin: Rc::new(origin),
        opened: Instant::now(),
        accepted: 0,
    }
    .run(&drain)
    .await;
}

struct Streams {
    connection: Connection<Transport, Bytes>,
    /// A stream that wants the whole connection to end says so, and lives until it has: its own reset would come first.
    tasks: JoinSet<Option<Box<H2Server>>>,
    origin: Rc<Origin>,
    opened: Instant,
    accepted: u32,
}

/// What happened on a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment on the stack; a box would be an allocation per stream"
)]
enum Event {
    Stream(http::Request<h2::RecvStream>, SendResponse<Bytes>),
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
                    let request = http::Request::from_parts(parts, ());
                    if let Some(renewed) = self.origin.renewed() {
                        self.origin = Rc::new(renewed);
                    }
                    self.tasks.spawn_local(stream(request, recv, respond, Rc::clone(&self.origin)));
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
            if !draining && drain.poll_begun(cx).is_ready() {
                return Poll::Ready(Event::Drain);
            }
            let chain = &self.origin.chain;
            let idle = self.tasks.is_empty().then_some(*idle_since);
            let idle_limit = if draining { Some(GOODBYE) } else { chain.idle_timeout };
            let idle_end = idle.zip(idle_limit).map(|(since, limit)| since + limit);
            let life_end = chain.max_connection_duration.map(|limit| self.opened + limit);
            let ends = [life_end, self.origin.trusted_until].into_iter().flatten().filter(|_| !draining);
            match idle_end.into_iter().chain(ends).min() {
                Some(end) => timer.poll_until(cx, end).map(|()| Event::Drain),
                None => Poll::Pending,
            }
        })
        .await
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
    recv: h2::RecvStream,
    respond: SendResponse<Bytes>,
    origin: Rc<Origin>,
) -> Option<Box<H2Server>> {
    let mut heads = origin.worker.heads.lend();
    let ended = recv.is_end_stream();
    let converted = convert::request_in(&request, ended, origin.chain.max_headers, &mut heads.request);
    drop(request);
    let mut server = H2Server::new(recv, respond);
    match converted {
        Ok(()) => {
            let mut timer = LazyTimer::default();
            let outcome = Box::pin(exchange::serve(&mut server, &mut heads, &mut timer, &origin)).await;
            let abandoned = outcome == Outcome::Broken && !server.is_sent_whole();
            if abandoned && server.goodbye().is_none() {
                server.abort();
            }
        }
        Err(error) => refuse(&mut server, &mut heads, error, &origin).await,
    }
    origin.worker.heads.give_back(heads);
    server.goodbye().is_some().then(|| Box::new(server))
}

async fn refuse(
    server: &mut H2Server,
    Heads { request, response }: &mut Heads,
    error: HeadError,
    origin: &Origin,
) {
    let reason = match error {
        HeadError::TooManyHeaders => Reason::HeadersTooLarge,
        HeadError::NoAuthority
        | HeadError::Switched
        | HeadError::HostMismatch
        | HeadError::BadAuthority
        | HeadError::BadPath
        | HeadError::BadContentLength => Reason::BadRequest,
    };
    let mut report = Report::begin(origin, origin.remote);
    let plain = RequestHead::default();
    let body = reply::head(&plain, response, (reason, reason.status()), &error.to_string(), &mut report);
    response.body = BodyLength::Known(body.len() as u64);
    report.status = response.status.as_u16();
    if server.send_head(response).is_ok() {
        let (mut pump, mut source) = (Pump::default(), Whole(body));
        let _ = timeout(report.patience, poll_fn(|cx| pump.poll(cx, &mut source, server))).await;
    }
    report.finish(request, response, origin, Instant::now());
}
