use std::future::poll_fn;

use super::*;

/// A body that is there as a whole, and a sink that keeps all of it.
#[derive(Default)]
struct Memory(Vec<u8>, usize);

impl BodySource for Memory {
    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Result<Chunk, SourceError>> {
        Poll::Ready(Ok(if self.chunk().is_empty() { Chunk::End } else { Chunk::Data }))
    }

    fn chunk(&self) -> &[u8] {
        &self.0[self.1..]
    }

    fn consume(&mut self, count: usize) {
        self.1 += count;
    }

    fn take_bytes(&mut self) -> Bytes {
        let bytes = Bytes::copy_from_slice(self.chunk());
        self.1 = self.0.len();
        bytes
    }

    fn ends_with_chunk(&self) -> bool {
        true
    }

    fn trailers(&self) -> Option<&Headers> {
        None
    }
}

impl BodySink for Memory {
    fn poll_send<S: BodySource>(
        &mut self,
        _: &mut Context<'_>,
        source: &mut S,
    ) -> Poll<Result<usize, crate::http::body::SinkError>> {
        let bytes = if self.0.len().is_multiple_of(2) {
            source.take_bytes()
        } else {
            let some = source.chunk().len().div_ceil(2);
            let bytes = Bytes::copy_from_slice(&source.chunk()[..some]);
            source.consume(some);
            bytes
        };
        self.0.extend_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_end(
        &mut self,
        _: &mut Context<'_>,
        _: Option<&Headers>,
    ) -> Poll<Result<(), crate::http::body::SinkError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), crate::http::body::SinkError>> {
        Poll::Ready(Ok(()))
    }
}

fn body(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

async fn pass(shaper: Shaper, length: usize) -> (Vec<u8>, Result<(), PumpError>, Duration) {
    let (mut source, mut sink, mut pump) = (Memory(body(length), 0), Memory::default(), Pump::default());
    let (begun, mut shaper) = (Instant::now(), Some(Box::new(shaper)));
    let ended = poll_fn(|cx| poll_pump(&mut shaper, &mut pump, cx, &mut source, &mut sink)).await;
    (sink.0, ended, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_and_nothing_lost() {
    for (rate, length, expected_ms) in [(100_000, 200_000, 1950), (1_000, 100, 50), (3, 6, 1667)] {
        let (got, ended, took) = pass(Shaper::new(Some(Pace::Rate(rate))), length).await;
        assert!(ended.is_ok() && got == body(length));
        let took = took.as_millis().abs_diff(expected_ms);
        assert!(took <= 10, "{rate}: {took} ms off");
    }
}
