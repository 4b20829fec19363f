//! Attempts that were late and are still waited for while others are made (Envoy's `hedge_on_per_try_timeout`): the
//! first good answer is the one that counts.
//!
//! Only an attempt that has sent the whole request is kept; one that has not is given up like any other that fails.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use super::attempt::{Attempts, Ending, Established};
use super::failed::Failed;
use super::mirror::Mirrors;
use super::replay::Replay;
use super::report::Report;
use super::timers::Timers;
use crate::http::body::BodySink as _;
use crate::http::downstream::Downstream;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};
use crate::observe::Reason;

/// A late attempt and the head of its answer.
pub(super) struct Rival {
    established: Established,
    head: ResponseHead,
}

/// Which of the rivals was first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Winner(usize);

impl Attempts<'_> {
    /// Keeps what is needed of an attempt that has failed, or all of it if it was only late and may be waited for: one that
    /// a fault was put upon may not, because the fault ends with it.
    pub(super) fn set_aside(&mut self, mut established: Established, failed: &Failed, may_wait: bool) {
        let nothing = Replay::new(false, Mirrors::default(), Rc::clone(&self.origin.worker.buffers));
        let replay = std::mem::replace(&mut established.replay, nothing);
        let late = matches!(failed, Failed::Attempt(_, Reason::PerTryTimeout, _));
        if late && may_wait && self.action.hedge && established.pump.is_done() && replay.is_possible() {
            self.rivals.borrow_mut().push(Rival { established, head: ResponseHead::default() });
        }
        self.replay = Some(replay);
    }

    /// Ready when one of the late attempts has a good answer. Those that failed, or have an answer for which another
    /// attempt would be made, are given up.
    pub(super) fn poll_rivals(&self, cx: &mut Context<'_>, request: &RequestHead) -> Poll<Winner> {
        self.poll_late(cx, request, false)
    }

    /// The same; where any answer is better than none, the last one counts even if it is bad.
    fn poll_late(&self, cx: &mut Context<'_>, request: &RequestHead, any: bool) -> Poll<Winner> {
        let mut rivals = self.rivals.borrow_mut();
        let mut place = 0;
        let mut alone = rivals.len() == 1;
        while let Some(Rival { established, head }) = rivals.get_mut(place) {
            match established.link.poll_response(cx, &request.method, head) {
                Poll::Pending => {
                    let _ = established.link.poll_flush(cx);
                    place += 1;
                }
                Poll::Ready(Ok(())) if head.is_interim() => {}
                Poll::Ready(Ok(())) if (any && alone) || !self.is_unwanted(head, request) => {
                    return Poll::Ready(Winner(place));
                }
                Poll::Ready(Ok(()) | Err(_)) => {
                    drop(rivals.swap_remove(place));
                    alone = rivals.len() == 1;
                }
            }
        }
        Poll::Pending
    }

    /// Waits for a late attempt when no other is made; `None` when none has an answer, or a good one unless `any` will do.
    pub(super) async fn last_hope<D: Downstream>(
        &mut self,
        down: &mut D,
        request: &RequestHead,
        (timers, any): (&mut Timers<'_>, bool),
    ) -> Option<Result<Winner, Reason>> {
        if self.rivals.borrow().is_empty() {
            return None;
        }
        timers.response_begun();
        poll_fn(|cx| {
            if let Poll::Ready(winner) = self.poll_late(cx, request, any) {
                return Poll::Ready(Some(Ok(winner)));
            }
            if self.rivals.borrow().is_empty() {
                return Poll::Ready(None);
            }
            if down.poll_closed(cx).is_ready() {
                return Poll::Ready(Some(Err(Reason::DownstreamGone)));
            }
            timers.poll(cx, request).map(|reason| Some(Err(reason)))
        })
        .await
    }

    /// Waits before the next attempt, while late ones, client, deadlines and policies are kept in sight; an error when
    /// there is to be none.
    pub(super) async fn wait<D: Downstream>(
        &self,
        down: &mut D,
        request: &RequestHead,
        (pause, timers): (Duration, &mut Timers<'_>),
    ) -> Result<(), Failed> {
        timers.attempt_over();
        let whole =
            request.body == BodyLength::Empty || self.replay.as_ref().is_some_and(Replay::has_seen_the_end);
        let mut over = pin!(sleep(pause));
        poll_fn(|cx| {
            if let Poll::Ready(winner) = self.poll_rivals(cx, request) {
                return Poll::Ready(Err(Failed::Overtaken(winner)));
            }
            if whole && down.poll_closed(cx).is_ready() {
                return Poll::Ready(Err(Failed::Gone(Reason::DownstreamGone)));
            }
            if let Poll::Ready(reason) = timers.poll(cx, request) {
                return Poll::Ready(Err(Failed::Answer(reason, String::new())));
            }
            // A pause of nothing must not cost a turn.
            if pause.is_zero() { Poll::Ready(Ok(())) } else { over.as_mut().poll(cx).map(Ok) }
        })
        .await
    }

    /// A late attempt's answer is the one that is passed on; the others are given up.
    pub(super) fn take_over(
        &mut self,
        Winner(place): Winner,
        response: &mut ResponseHead,
        request: &RequestHead,
        report: &mut Report,
    ) -> Ending {
        let mut rivals = std::mem::take(&mut *self.rivals.borrow_mut());
        if place >= rivals.len() {
            // A winner is taken at once, so it is there.
            return Ending::Answer(Reason::PerTryTimeout, String::new());
        }
        let Rival { established, head } = rivals.swap_remove(place);
        *response = head;
        report.upstream = Some(established.endpoint.address());
        self.observe(&established.endpoint, None, request, Ok(response));
        self.tell_attempts(response, report);
        Ending::Response(established)
    }
}
