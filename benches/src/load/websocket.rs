//! WebSocket messages that are echoed.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::engine::{Client, Plan};
use super::http1::authority;
use super::meter::{Failure, Moved};
use super::outcome::ErrorKind;
use super::stream::Stream;
use crate::wire::http1::response;
use crate::wire::websocket::{ACCEPT, Head, KEY, MAX_HEAD_BYTES, Opcode, mask};

/// What messages are masked with: any key does between a generator and its own backend.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Largest head of the answer to the handshake, in bytes.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// A connection after its handshake.
pub(super) struct Messages {
    stream: Stream,
    frame: Vec<u8>,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Client for Messages {
    async fn open(plan: &Plan) -> Result<Self, Failure> {
        let mut stream = plan.dialer.dial().await?;
        let path = plan.spec.path.as_deref().unwrap_or("/websocket");
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: {KEY}\r\n",
            authority(&plan.spec)
        );
        for (name, value) in &plan.spec.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.map_err(Failure::broken)?;
        stream.flush().await.map_err(Failure::broken)?;
        upgraded(&mut stream).await?;
        let message = vec![b'x'; plan.spec.request_bytes];
        let mut frame = Vec::with_capacity(MAX_HEAD_BYTES + message.len());
        let length = message.len() as u64;
        Head { opcode: Opcode::Binary, length, mask: Some(MASK) }.encode(&mut frame);
        let begin = frame.len();
        frame.extend_from_slice(&message);
        mask(frame.get_mut(begin..).unwrap_or_default(), MASK, 0);
        let buffer = vec![0; MAX_HEAD_BYTES + message.len()];
        Ok(Self { stream, frame, message, buffer })
    }

    async fn exchange(&mut self, _: &Plan) -> Result<Moved, Failure> {
        self.stream.write_all(&self.frame).await.map_err(Failure::broken)?;
        self.stream.flush().await.map_err(Failure::broken)?;
        let mut end = 0;
        let (head, begin) = loop {
            let room = self.buffer.get_mut(end..).unwrap_or_default();
            match self.stream.read(room).await.map_err(Failure::broken)? {
                0 => return Err(Failure::broken("closed before an echo")),
                read => end += read,
            }
            let bytes = self.buffer.get(..end).unwrap_or_default();
            let decoded = Head::decode(bytes).map_err(|error| Failure::new(ErrorKind::Malformed, error))?;
            if let Some((head, begin)) = decoded {
                break (head, begin);
            }
        };
        let expected = Head { opcode: Opcode::Binary, length: self.message.len() as u64, mask: None };
        if head != expected {
            return Err(Failure::new(ErrorKind::Length, format!("{head:?} instead of {expected:?}")));
        }
        let whole = begin + self.message.len();
        if end < whole {
            let rest = self.buffer.get_mut(end..whole).unwrap_or_default();
            self.stream.read_exact(rest).await.map_err(Failure::broken)?;
        }
        if end > whole || self.buffer.get(begin..whole) != Some(&*self.message) {
            return Err(Failure::new(ErrorKind::Length, "another message came back"));
        }
        Ok(Moved { bytes_in: whole as u64, bytes_out: self.frame.len() as u64 })
    }
}

/// Reads the answer to the handshake and not a byte more.
async fn upgraded(stream: &mut Stream) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.map_err(Failure::broken)?);
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(Failure::new(ErrorKind::Handshake, "the answer to the handshake is too long"));
        }
    }
    let answer = response(&bytes).map_err(|error| Failure::new(ErrorKind::Malformed, error))?;
    let status = answer.map_or(0, |(status, _)| status);
    if status != 101 {
        return Err(Failure::new(ErrorKind::Handshake, format!("status {status} instead of an upgrade")));
    }
    if !String::from_utf8_lossy(&bytes).contains(ACCEPT) {
        return Err(Failure::new(ErrorKind::Handshake, "the handshake was not answered with its key"));
    }
    Ok(())
}
