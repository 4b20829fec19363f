//! WebSocket (RFC 6455): messages of up to 125 bytes in one frame, which come back.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Shared;

/// The key of the example in RFC 6455, section 1.3, and the answer to it: the handshake is not what is measured.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Longest message whose length is in the frame's second byte.
const MAX_MESSAGE: usize = 125;
/// A final binary frame.
const BINARY: u8 = 0x82;
/// The mask bit, and the mask that the client uses.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Sends messages over one connection until the pass is over.
pub(super) async fn client(target: SocketAddr, bytes: usize, shared: Shared) -> Result<()> {
    ensure!(bytes <= MAX_MESSAGE, "a WebSocket message of more than {MAX_MESSAGE} bytes");
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /socket HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = head(&mut stream).await?;
    ensure!(head.starts_with("HTTP/1.1 101"), "no upgrade: {}", head.lines().next().unwrap_or_default());
    let length = u8::try_from(bytes)?;
    let mut frame = vec![BINARY, MASKED | length];
    frame.extend(MASK);
    frame.extend((0..bytes).map(|number| b'x' ^ MASK.get(number % 4).copied().unwrap_or(0)));
    let mut back = vec![0; bytes + 2];
    while let Some(due) = shared.turns.next().await {
        stream.write_all(&frame).await?;
        stream.read_exact(&mut back).await?;
        let echoed = back.starts_with(&[BINARY, length]) && back.iter().skip(2).all(|byte| *byte == b'x');
        if !echoed {
            shared.failed();
            bail!("another message came back");
        }
        shared.answered(due);
    }
    Ok(())
}

/// The head of the answer to an upgrade.
async fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        ensure!(head.len() < 4096, "the answer's head is too long");
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The backend's side, from the upgrade on.
pub(super) async fn echo(mut stream: TcpStream) -> Result<()> {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut buffer = [0_u8; 2 + 4 + MAX_MESSAGE];
    let mut end = 0;
    loop {
        let read = stream.read(buffer.get_mut(end..).unwrap_or_default()).await?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let Some((frame, whole)) = unmasked(buffer.get(..end).unwrap_or_default())? else { continue };
        ensure!(whole == end, "a second message before the first came back");
        stream.write_all(&frame).await?;
        end = 0;
    }
}

/// The frame to send back, and the length of the one that came; `None` until it is whole.
fn unmasked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let [BINARY, second, mask @ ..] = bytes else {
        ensure!(bytes.len() < 2, "not a binary frame");
        return Ok(None);
    };
    let length = usize::from(second & !MASKED);
    ensure!(second & MASKED != 0 && length <= MAX_MESSAGE, "not a small masked frame");
    let Some((mask, body)) = mask.split_at_checked(4) else { return Ok(None) };
    let Some(body) = body.get(..length) else { return Ok(None) };
    let plain = body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    Ok(Some(([BINARY, second & !MASKED].into_iter().chain(plain).collect(), 6 + length)))
}
