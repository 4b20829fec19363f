//! HTTP/1.1 messages (RFC 9112), as much of them as a load generator and its backend need: where a head ends, what its first line says,
//! and how long the body is. Nothing is allocated and header fields that do not matter are only stepped over.

use memchr::{memchr, memmem};

/// Largest head, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Longest line between the chunks of a body, in bytes.
const MAX_CHUNK_LINE_BYTES: u32 = 1024;

/// What is not HTTP/1.1 as we speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not HTTP/1.1: {0}")]
pub struct Malformed(pub &'static str);

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// Where the connection ends.
    UntilClose,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The three parts of the first line: method, target, version, or version, status, reason.
    pub line: [&'a [u8]; 3],
    /// Bytes of the head with the empty line.
    pub length: usize,
    /// Of the body.
    pub framing: Framing,
    /// Whether the connection ends with this message.
    pub close: bool,
    /// `Sec-WebSocket-Key`, where there is one.
    pub websocket_key: Option<&'a [u8]>,
}

/// The head of a request at the front of `bytes`; `None` until it is whole.
///
/// # Errors
/// When it is none.
pub fn request(bytes: &[u8]) -> Result<Option<Head<'_>>, Malformed> {
    let Some(mut head) = parse(bytes)? else { return Ok(None) };
    if !head.line[2].starts_with(b"HTTP/1.") {
        return Err(Malformed("no HTTP/1 request line"));
    }
    if head.framing == Framing::UntilClose {
        head.framing = Framing::Length(0);
    }
    Ok(Some(head))
}

/// The head of a response at the front of `bytes` and its status; `None` until it is whole.
///
/// # Errors
/// When it is none.
pub fn response(bytes: &[u8]) -> Result<Option<(u16, Head<'_>)>, Malformed> {
    let Some(mut head) = parse(bytes)? else { return Ok(None) };
    let status = decimal(head.line[1]).and_then(|status| u16::try_from(status).ok());
    let Some(status) = status.filter(|_| head.line[0].starts_with(b"HTTP/1.")) else {
        return Err(Malformed("no HTTP/1 status line"));
    };
    if matches!(status, 100..=199 | 204 | 304) {
        head.framing = Framing::Length(0);
    } else if head.framing == Framing::UntilClose {
        head.close = true;
    }
    Ok(Some((status, head)))
}

fn parse(bytes: &[u8]) -> Result<Option<Head<'_>>, Malformed> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(Malformed("the head is too long")) };
    };
    let (mut text, _) = bytes.split_at(end + 2);
    let mut head = Head {
        line: first_line(next_line(&mut text).unwrap_or_default())?,
        length: end + 4,
        framing: Framing::UntilClose,
        close: false,
        websocket_key: None,
    };
    while let Some(line) = next_line(&mut text) {
        // Those that matter begin with one of these letters.
        if let Some(b'c' | b'C' | b't' | b'T' | b's' | b'S') = line.first() {
            field(line, &mut head)?;
        }
    }
    Ok(Some(head))
}

fn next_line<'a>(text: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (line, rest) = text.split_at_checked(memchr(b'\n', text)? + 1)?;
    *text = rest;
    line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n"))
}

/// The reason of a status line may be missing, or have spaces.
fn first_line(line: &[u8]) -> Result<[&[u8]; 3], Malformed> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(first), Some(second), third) => Ok([first, second, third.unwrap_or_default()]),
        _ => Err(Malformed("the first line has one word")),
    }
}

fn field<'a>(line: &'a [u8], head: &mut Head<'a>) -> Result<(), Malformed> {
    let colon = memchr(b':', line).ok_or(Malformed("a header field without a colon"))?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    if name.eq_ignore_ascii_case(b"content-length") {
        let length = decimal(value).ok_or(Malformed("a content-length that is no number"))?;
        // A body in chunks has no other length (RFC 9112, section 6.3).
        if head.framing != Framing::Chunked {
            head.framing = Framing::Length(length);
        }
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed("a transfer-encoding other than chunked"));
        }
        head.framing = Framing::Chunked;
    } else if name.eq_ignore_ascii_case(b"connection") {
        head.close |= value.eq_ignore_ascii_case(b"close");
    } else if name.eq_ignore_ascii_case(b"sec-websocket-key") {
        head.websocket_key = Some(value);
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A body that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    state: State,
    /// Bytes of content so far.
    pub received: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In a line that gives a chunk's size: the size so far, the bytes of the line so far, whether digits may still come.
    Size(u64, u32, bool),
    Chunk(u64),
    /// After a chunk: so many bytes of the line end are missing.
    Break(u8),
    /// In the trailer: the bytes of its line so far, of all its lines.
    Trailer(u32, u32),
    Done,
}

impl Body {
    /// A body of which nothing has come yet.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0, 0, true),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, received: 0 }
    }

    /// Whether it is whole.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether it is whole when the connection ends here.
    #[must_use]
    pub const fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Takes what has come; how many bytes of it belong to the body.
    ///
    /// # Errors
    /// When chunks are not as they should be.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_done() {
            let used = match self.state {
                State::Length(left) => self.content(left, rest, State::Done, State::Length),
                State::Chunk(left) => self.content(left, rest, State::Break(2), State::Chunk),
                State::UntilClose => self.content(u64::MAX, rest, State::Done, |_| State::UntilClose),
                State::Size(..) | State::Break(_) | State::Trailer(..) => {
                    self.between(rest.first().copied().unwrap_or_default())?;
                    1
                }
                State::Done => 0,
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(bytes.len() - rest.len())
    }

    fn content(&mut self, left: u64, bytes: &[u8], then: State, more: impl Fn(u64) -> State) -> usize {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.received += used as u64;
        self.state = if used as u64 == left { then } else { more(left - used as u64) };
        used
    }

    /// One byte of what stands between chunks.
    fn between(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Size(_, MAX_CHUNK_LINE_BYTES.., _) | State::Trailer(_, MAX_CHUNK_LINE_BYTES..), _) => {
                return Err(Malformed("a line between chunks is too long"));
            }
            (State::Size(_, 0, _), b'\r' | b'\n' | b';') => return Err(Malformed("a chunk without a size")),
            (State::Size(0, ..), b'\n') => State::Trailer(0, 0),
            (State::Size(size, ..), b'\n') => State::Chunk(size),
            (State::Size(size, line, true), _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let shifted = size.checked_mul(16).ok_or(Malformed("a chunk that is too long"))?;
                State::Size(shifted + u64::from(digit), line + 1, true)
            }
            (State::Size(_, _, true), other) if !matches!(other, b'\r' | b';' | b' ' | b'\t') => {
                return Err(Malformed("a chunk size that is no number"));
            }
            (State::Size(size, line, _), _) => State::Size(size, line + 1, false),
            (State::Break(2), b'\r') => State::Break(1),
            (State::Break(1), b'\n') => State::Size(0, 0, true),
            (State::Break(_), _) => return Err(Malformed("a chunk that is longer than its size")),
            (State::Trailer(0, _), b'\n') => State::Done,
            (State::Trailer(_, all), b'\n') => State::Trailer(0, all + 1),
            (State::Trailer(0, all), b'\r') => State::Trailer(0, all + 1),
            (State::Trailer(line, all), _) => State::Trailer(line + 1, all + 1),
            (same @ (State::Length(_) | State::UntilClose | State::Chunk(_) | State::Done), _) => same,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
