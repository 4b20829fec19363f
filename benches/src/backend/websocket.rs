//! WebSocket: messages come back.

use anyhow::{Result, ensure};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::answer::MAX_BODY_BYTES;
use crate::wire::websocket::{Head, Opcode, mask};

/// What the handshake appends to the client's key (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

/// The answer to a handshake with this key.
pub(super) fn accept(key: &[u8]) -> String {
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat()));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
}

/// Serves a connection from the handshake on; `buffer` has what was read after it.
pub(super) async fn echo(mut stream: TcpStream, mut buffer: BytesMut) -> Result<()> {
    let mut answer = Vec::new();
    loop {
        // All messages that are there go back in one write.
        while let Some((head, payload)) = next(&mut buffer)? {
            let opcode = match head.opcode {
                Opcode::Ping => Opcode::Pong,
                Opcode::Pong => continue,
                same @ (Opcode::Text | Opcode::Binary | Opcode::Close) => same,
            };
            Head { opcode, length: head.length, mask: None }.encode(&mut answer);
            answer.extend_from_slice(&payload);
            if opcode == Opcode::Close {
                stream.write_all(&answer).await?;
                return Ok(stream.shutdown().await?);
            }
        }
        if !answer.is_empty() {
            stream.write_all(&answer).await?;
            answer.clear();
        }
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Takes a whole frame, unmasked.
fn next(buffer: &mut BytesMut) -> Result<Option<(Head, BytesMut)>> {
    let Some((head, length)) = Head::decode(buffer)? else { return Ok(None) };
    let payload = usize::try_from(head.length).unwrap_or(usize::MAX);
    ensure!(payload <= MAX_BODY_BYTES, "a message of more than {MAX_BODY_BYTES} bytes");
    if buffer.len() < length + payload {
        return Ok(None);
    }
    buffer.advance(length);
    let mut payload = buffer.split_to(payload);
    if let Some(key) = head.mask {
        mask(&mut payload, key, 0);
    }
    Ok(Some((head, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::websocket::{ACCEPT, KEY};

    #[test]
    fn the_example_of_the_rfc() {
        assert!(accept(KEY.as_bytes()).contains(&format!("sec-websocket-accept: {ACCEPT}\r\n\r\n")));
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let mut bytes = Vec::new();
        Head { opcode: Opcode::Text, length: 3, mask: Some([1, 2, 3, 4]) }.encode(&mut bytes);
        bytes.extend([b'a' ^ 1, b'b' ^ 2]);
        let mut buffer = BytesMut::from(&*bytes);
        assert!(next(&mut buffer).unwrap().is_none());
        buffer.extend_from_slice(&[b'c' ^ 3, 0x82]);
        let (_, payload) = next(&mut buffer).unwrap().unwrap();
        assert_eq!((&*payload, &*buffer), (b"abc".as_slice(), [0x82].as_slice()));
    }
}
