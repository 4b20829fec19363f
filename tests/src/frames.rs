//! HTTP/2 by hand: frames and header blocks that no library would write.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{PATIENCE, connect};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PUSH_PROMISE.
pub const PUSH_PROMISE: u8 = 5;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// END_STREAM on DATA and HEADERS, ACK on SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// END_HEADERS on HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// Both.
pub const END_BOTH: u8 = 5;

/// A frame that was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
///
/// # Panics
/// When the payload does not fit a frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One setting in a SETTINGS frame.
#[must_use]
pub fn setting(name: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A header block of literals without indexing, up to 126 bytes each.
///
/// # Panics
/// When a text is longer.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127);
        [&[text.len() as u8][..], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect()
}

/// A complete request for `/x` with more fields.
#[must_use]
pub fn usual(more: &[(&'static str, &'static str)]) -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")];
    block(&[&fields[..], more].concat())
}

/// Opens an HTTP/2 connection by hand.
///
/// # Panics
/// When nobody listens.
pub async fn open(port: u16) -> TcpStream {
    let mut stream = connect(port).await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("a connection");
    stream
}

/// The next frame; `None` at the end of the connection, or when it does not come in time.
pub async fn next(stream: &mut TcpStream) -> Option<Frame> {
    timeout(PATIENCE, read(stream)).await.ok().flatten()
}

async fn read(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0_u8; 9];
    stream.read_exact(&mut head).await.ok()?;
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some(Frame { kind: head[3], flags: head[4], stream: id, payload })
}

/// All frames up to the one that is looked for; panics when it does not come.
///
/// # Panics
/// When the connection ends before.
pub async fn until(stream: &mut TcpStream, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
    let mut all = Vec::new();
    loop {
        let Some(frame) = next(stream).await else { panic!("not among {all:?}") };
        all.push(frame);
        if all.last().is_some_and(&wanted) {
            return all;
        }
    }
}

/// Writes until the other side has had enough, and says whether it had.
pub async fn flood(port: u16, bytes: Vec<u8>, times: usize) -> bool {
    let mut stream = open(port).await;
    let (mut read, mut write) = stream.split();
    let writing = async {
        for _ in 0..times {
            if write.write_all(&bytes).await.is_err() {
                return true;
            }
        }
        let _ = write.shutdown().await;
        false
    };
    let reading = async {
        let mut space = vec![0; 65_536];
        while read.read(&mut space).await.is_ok_and(|count| count > 0) {}
    };
    let both = async { tokio::join!(writing, reading).0 };
    timeout(PATIENCE, both).await.expect("the proxy ends a connection whose client has nothing more to say")
}
