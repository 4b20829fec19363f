//! Raw frames: takes what a frame brings, gives what it asks for.

use anyhow::{Result, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::answer::MAX_BODY_BYTES;
use crate::wire::bulk::{HEAD_BYTES, Head};

/// Bytes of one read and of one write.
const CHUNK_BYTES: usize = 64 * 1024;
/// What is sent back.
static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// Serves a connection to its end.
pub(super) async fn connection(mut stream: TcpStream) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    loop {
        let Some(head) = Head::decode(&buffer) else {
            buffer.reserve(CHUNK_BYTES);
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        buffer.advance(HEAD_BYTES);
        let (mut sent, mut wanted) = (usize::try_from(head.sent)?, usize::try_from(head.wanted)?);
        ensure!(sent.max(wanted) <= MAX_BODY_BYTES, "a frame of more than {MAX_BODY_BYTES} bytes");
        loop {
            let here = sent.min(buffer.len());
            buffer.advance(here);
            sent -= here;
            if sent == 0 {
                break;
            }
            buffer.reserve(CHUNK_BYTES);
            ensure!(stream.read_buf(&mut buffer).await? > 0, "closed within a frame");
        }
        while wanted > 0 {
            let some = ZEROS.get(..wanted).unwrap_or(&ZEROS);
            stream.write_all(some).await?;
            wanted -= some.len();
        }
    }
}
