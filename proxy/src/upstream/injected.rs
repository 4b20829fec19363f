//! An endpoint that misbehaves on purpose: what an attempt meets in the place of a connection, so that everything
//! behind it takes the fault for real.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::time::{Instant, Sleep, sleep_until};

use super::clusters::ClusterState;
use super::connect::{ConnectError, show_expired};
use super::endpoint::EndpointState;
use super::link::UpstreamError;
use crate::fault::lease::LOOK_EVERY;
use crate::fault::leased::{Abort, Action, Leased};
use crate::http::message::ResponseHead;
use crate::identity::Refusal;

/// One exchange with an endpoint that is not asked.
#[derive(Debug)]
pub struct InjectedExchange {
    fault: Arc<Leased>,
    look: Option<Pin<Box<Sleep>>>,
}

impl InjectedExchange {
    /// An exchange that goes as the fault says.
    #[must_use]
    pub const fn new(fault: Arc<Leased>) -> Self {
        Self { fault, look: None }
    }

    /// Waits for the head of what the endpoint seems to answer. Cancel-safe.
    pub(super) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), UpstreamError>> {
        let closed = UpstreamError::ClosedBeforeResponse { reused: false };
        match &self.fault.action {
            Action::Abort(Abort::Http(status)) => {
                head.clear();
                head.status = *status;
                Poll::Ready(Ok(()))
            }
            Action::Abort(Abort::Grpc(code, message)) => {
                head.clear();
                head.status = StatusCode::OK;
                head.headers.append(b"content-type", b"application/grpc");
                head.headers.append(b"grpc-status", itoa::Buffer::new().format(*code).as_bytes());
                head.headers.append(b"grpc-message", message.as_bytes());
                Poll::Ready(Ok(()))
            }
            Action::Abort(Abort::Stream(code)) => match h2::Reason::from(*code) {
                h2::Reason::REFUSED_STREAM => Poll::Ready(Err(UpstreamError::Refused)),
                reason => Poll::Ready(Err(UpstreamError::Reset(reason))),
            },
            Action::Blackhole => {
                ready!(self.poll_lease(cx));
                Poll::Ready(Err(closed))
            }
            Action::Abort(Abort::Reset | Abort::GoAway(_) | Abort::Close)
            | Action::Delay(..)
            | Action::Bandwidth(..)
            | Action::Truncate(..)
            | Action::Corrupt(..)
            | Action::Refuse
            | Action::TlsFailure(_)
            | Action::ExpiredCertificate
            | Action::Drip(..) => Poll::Ready(Err(closed)),
        }
    }

    /// Ready when the fault's lease is over.
    fn poll_lease(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.fault.lease.is_live() {
            let look = Instant::now() + LOOK_EVERY;
            let sleep = self.look.get_or_insert_with(|| Box::pin(sleep_until(look)));
            if sleep.is_elapsed() {
                sleep.as_mut().reset(look);
            }
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

/// What becomes of connecting to an endpoint; `None` where the fault is not about that. Cancel-safe.
///
/// # Errors
/// Why there is no connection to be had.
pub async fn meet(
    fault: &Leased,
    cluster: &ClusterState,
    endpoint: &EndpointState,
) -> Option<Result<(), ConnectError>> {
    let address = endpoint.address();
    match fault.action {
        Action::Refuse => {
            Some(Err(ConnectError::Failed { address, message: "refused by a fault".to_owned() }))
        }
        Action::TlsFailure(_) => Some(Err(ConnectError::Tls { address, refusal: Refusal::RefusedByPeer })),
        Action::ExpiredCertificate => {
            let way = (address, &**endpoint.more());
            Some(Box::pin(show_expired(cluster.config(), way, cluster.buffers())).await)
        }
        Action::Abort(_)
        | Action::Blackhole
        | Action::Delay(..)
        | Action::Bandwidth(..)
        | Action::Truncate(..)
        | Action::Corrupt(..)
        | Action::Drip(..) => None,
    }
}
