//! Finished spans on their way from the workers to whoever exports them.
//!
//! A worker never waits for a collector: spans are handed over in batches over a bounded queue, and when that is full
//! they are dropped and counted.

use std::cell::RefCell;
use std::sync::Arc;

use outrider_proto::opentelemetry::proto::trace::v1::Span;
use tokio::sync::mpsc;

use crate::model::tracing::Collector;

/// A batch is handed over when it holds this many spans.
const BATCH_SPANS: usize = 64;
/// Batches that may wait to be exported: as many spans as Envoy's `max_cache_size` is by default, some 3 MB.
const QUEUED_BATCHES: usize = 16;

/// A span, and where it goes.
pub type Finished = (Arc<Collector>, Span);

/// Where the spans of all workers come out.
pub type Spans = mpsc::Receiver<Vec<Finished>>;

/// The end of the queue that workers hold.
#[derive(Clone, Debug)]
pub struct SpanQueue(mpsc::Sender<Vec<Finished>>);

impl SpanQueue {
    /// The two ends. The other one ends when all workers have.
    #[must_use]
    pub fn new() -> (Self, Spans) {
        let (sender, receiver) = mpsc::channel(QUEUED_BATCHES);
        (Self(sender), receiver)
    }
}

/// What became of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A collector has them.
    Exported,
    /// There was no room for them.
    Dropped,
    /// No collector took them.
    Failed,
}

impl Fate {
    /// Counts spans.
    pub fn count(self, spans: usize) {
        let outcome = match self {
            Self::Exported => "exported",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        };
        metrics::counter!("outrider_trace_spans_total", "outcome" => outcome).increment(spans as u64);
    }
}

/// One worker's spans.
#[derive(Debug)]
pub struct Tracer {
    queue: SpanQueue,
    batch: RefCell<Vec<Finished>>,
}

impl Tracer {
    /// Without spans.
    #[must_use]
    pub const fn new(queue: SpanQueue) -> Self {
        Self { queue, batch: RefCell::new(Vec::new()) }
    }

    /// Adds a span.
    pub fn add(&self, collector: &Arc<Collector>, span: Span) {
        let mut batch = self.batch.borrow_mut();
        batch.push((Arc::clone(collector), span));
        if batch.len() >= BATCH_SPANS {
            let whole = std::mem::take(&mut *batch);
            drop(batch);
            self.hand_over(whole);
        }
    }

    /// Hands over what there is; called a few times a second and at the end.
    pub fn flush(&self) {
        let batch = self.batch.take();
        if !batch.is_empty() {
            self.hand_over(batch);
        }
    }

    fn hand_over(&self, batch: Vec<Finished>) {
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full(batch) | Closed(batch)) = self.queue.0.try_send(batch) {
            Fate::Dropped.count(batch.len());
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_queue_is_bounded_and_whoever_adds_never_waits() {
        let (queue, mut spans) = SpanQueue::new();
        let timeout = Duration::from_secs(1);
        let collector = Arc::new(Collector { cluster: "c".into(), service: None, timeout });
        let tracer = Tracer::new(queue);
        for _ in 0..BATCH_SPANS * (QUEUED_BATCHES + 5) {
            tracer.add(&collector, Span::default());
        }
        tracer.flush();
        drop(tracer);
        let mut held = 0;
        while let Some(batch) = spans.blocking_recv() {
            assert!(batch.len() <= BATCH_SPANS);
            held += batch.len();
        }
        assert_eq!(held, BATCH_SPANS * QUEUED_BATCHES);
    }

    #[test]
    fn what_is_left_is_handed_over_at_the_end() {
        let (queue, mut spans) = SpanQueue::new();
        let timeout = Duration::from_secs(1);
        let collector = Arc::new(Collector { cluster: "c".into(), service: None, timeout });
        let tracer = Tracer::new(queue);
        tracer.flush();
        tracer.add(&collector, Span::default());
        drop(tracer);
        assert_eq!(spans.blocking_recv().map(|batch| batch.len()), Some(1));
        assert!(spans.blocking_recv().is_none());
    }
}
