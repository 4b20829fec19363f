//! Raw frames: so many bytes there, so many back.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::engine::{Client, Plan};
use super::meter::{Failure, Moved};
use super::stream::Stream;
use crate::wire::bulk::{HEAD_BYTES, Head};

/// Most bytes of one read.
const READ_BYTES: usize = 256 * 1024;

/// A connection.
pub(super) struct Frames {
    stream: Stream,
    frame: Vec<u8>,
    buffer: Box<[u8]>,
}

impl Client for Frames {
    async fn open(plan: &Plan) -> Result<Self, Failure> {
        let stream = plan.dialer.dial().await?;
        let (sent, wanted) = (plan.spec.request_bytes, plan.spec.response_bytes);
        // Both are bounded far below this.
        let head = Head {
            sent: u32::try_from(sent).unwrap_or(u32::MAX),
            wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
        };
        let mut frame = head.encode().to_vec();
        frame.resize(HEAD_BYTES + sent, b'x');
        Ok(Self { stream, frame, buffer: vec![0; wanted.clamp(1, READ_BYTES)].into() })
    }

    async fn exchange(&mut self, plan: &Plan) -> Result<Moved, Failure> {
        self.stream.write_all(&self.frame).await.map_err(Failure::broken)?;
        self.stream.flush().await.map_err(Failure::broken)?;
        let mut left = plan.spec.response_bytes;
        while left > 0 {
            let most = left.min(self.buffer.len());
            let room = self.buffer.get_mut(..most).unwrap_or_default();
            match self.stream.read(room).await.map_err(Failure::broken)? {
                0 => return Err(Failure::broken("closed within an answer")),
                read => left -= read,
            }
        }
        Ok(Moved { bytes_in: plan.spec.response_bytes as u64, bytes_out: self.frame.len() as u64 })
    }
}
