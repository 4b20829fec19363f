//! Where the body is in the bytes that follow a head (RFC 9112 sections 6 and 7).

use super::field::{self, FieldError, LineError, Lines};
use crate::http::headers::Headers;
use crate::http::is_forbidden_in_trailers;
use crate::http::message::BodyLength;

/// Longest chunk-size line, with its extensions and line end, in bytes.
pub const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Digits of a chunk size: as many as 64 bits have.
const MAX_SIZE_DIGITS: usize = 16;
/// Bytes of a trailer's name that are compared with the forbidden ones.
const MAX_FORBIDDEN_NAME_BYTES: usize = 32;
/// All chunk extensions of one body, in bytes.
pub const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// A trailer section, in bytes.
pub const MAX_TRAILER_BYTES: usize = 16 * 1024;
/// Fields in a trailer section.
pub const MAX_TRAILERS: usize = 64;

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk size that is not one to sixteen hex digits.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A chunk extension that is malformed, or more of them than [`MAX_EXTENSION_BYTES`].
    #[error("malformed or too long chunk extension")]
    Extension,
    /// Chunk data is not followed by CR LF.
    #[error("chunk data does not end where its size says")]
    ChunkEnd,
    /// A malformed trailer field.
    #[error("malformed trailer: {0}")]
    Trailer(#[from] FieldError),
    /// More trailers than [`MAX_TRAILERS`] or [`MAX_TRAILER_BYTES`].
    #[error("trailer section too large")]
    TooManyTrailers,
    /// The input ended before the body did.
    #[error("the body was cut short")]
    Truncated,
}

impl BodyError {
    /// One stable word for logs and metrics. A request with such a body is answered with 400, a response with
    /// such a body is cut off.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ChunkSize => "chunk_size",
            Self::Extension => "chunk_extension",
            Self::ChunkEnd => "chunk_end",
            Self::Trailer(_) => "trailer_syntax",
            Self::TooManyTrailers => "too_many_trailers",
            Self::Truncated => "truncated",
        }
    }
}

/// What stands at the front of the input: first `skip` bytes of framing, and then what the variant says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// `len` bytes of body, counted as read.
    Data {
        /// Framing before it.
        skip: usize,
        /// Body bytes; at least one.
        len: usize,
    },
    /// The end of the body.
    End {
        /// Framing before it.
        skip: usize,
    },
    /// More input is needed.
    NeedMore {
        /// Framing that is done with.
        skip: usize,
    },
}

impl Decoded {
    /// Framing bytes to be skipped first.
    #[must_use]
    pub const fn framing_len(self) -> usize {
        match self {
            Self::Data { skip, .. } | Self::End { skip } | Self::NeedMore { skip } => skip,
        }
    }
}

/// Follows one body. Holds none of it.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// The line of framing that the input begins with.
    lines: Lines,
    extension_bytes: usize,
    trailer_bytes: usize,
    /// Trailer fields, those that were left out included.
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Known(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

impl BodyDecoder {
    /// A decoder for a body of this length.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Empty | BodyLength::Known(0) => State::Done,
            BodyLength::Known(left) => State::Known(left),
            BodyLength::Streamed => State::ChunkSize,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state, lines: Lines::default(), extension_bytes: 0, trailer_bytes: 0, trailers: 0 }
    }

    /// Whether the whole body has been shown.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Looks at the front of `input`, which continues where the last call's skip and data ended. `trailers` is
    /// where trailer fields are added; it is for the caller to clear it before a body.
    ///
    /// # Errors
    /// When the framing is wrong; final. It does not depend on the pieces in which the input came.
    pub fn decode(&mut self, input: &[u8], trailers: &mut Headers) -> Result<Decoded, BodyError> {
        let mut skip = 0;
        loop {
            let rest = input.get(skip..).unwrap_or_default();
            match self.state {
                State::Done => return Ok(Decoded::End { skip }),
                State::Known(_) | State::UntilClose | State::ChunkData(_) => {
                    return Ok(match self.take_data(rest.len()) {
                        0 => Decoded::NeedMore { skip },
                        len => Decoded::Data { skip, len },
                    });
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => match self.framing(rest, trailers)? {
                    0 => return Ok(Decoded::NeedMore { skip }),
                    count => skip += count,
                },
            }
        }
    }

    /// Takes note of the end of the input.
    ///
    /// # Errors
    /// When the body was not complete.
    pub fn finish(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Known(_) | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers => {
                Err(BodyError::Truncated)
            }
        }
    }

    /// Counts body bytes as read and says how many of those there are belong to the body.
    fn take_data(&mut self, available: usize) -> usize {
        let (left, done) = match &mut self.state {
            State::Known(left) => (left, State::Done),
            State::ChunkData(left) => (left, State::ChunkEnd),
            State::UntilClose => return available,
            State::Done | State::ChunkSize | State::ChunkEnd | State::Trailers => return 0,
        };
        let len = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
        *left -= len as u64;
        if *left == 0 {
            self.state = done;
        }
        len
    }

    /// Reads one piece of framing and says its length; 0 while it is incomplete.
    fn framing(&mut self, rest: &[u8], trailers: &mut Headers) -> Result<usize, BodyError> {
        match self.state {
            State::ChunkSize => self.chunk_size(rest),
            State::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(BodyError::ChunkEnd),
            },
            State::Trailers => self.trailer(rest, trailers),
            State::Done | State::Known(_) | State::UntilClose | State::ChunkData(_) => Ok(0),
        }
    }

    fn chunk_size(&mut self, rest: &[u8]) -> Result<usize, BodyError> {
        let digits =
            rest.iter().take(MAX_SIZE_DIGITS + 1).take_while(|byte| byte.is_ascii_hexdigit()).count();
        match rest.get(digits) {
            None if digits <= MAX_SIZE_DIGITS => {}
            Some(b'\r' | b';') if (1..=MAX_SIZE_DIGITS).contains(&digits) => {}
            // Refused before the line is there: it may never end.
            Some(_) | None => return Err(BodyError::ChunkSize),
        }
        let line = match self.lines.next(rest, MAX_CHUNK_LINE_BYTES) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(0),
            Err(LineError::TooLong) => return Err(BodyError::Extension),
            Err(LineError::BareLf) => return Err(BodyError::ChunkSize),
        };
        let (digits, extensions) = line.split_at_checked(digits).ok_or(BodyError::ChunkSize)?;
        if !extensions.is_empty() {
            if !extensions.starts_with(b";") {
                return Err(BodyError::ChunkSize);
            }
            self.extension_bytes += extensions.len();
            if self.extension_bytes > MAX_EXTENSION_BYTES || !are_extensions(extensions) {
                return Err(BodyError::Extension);
            }
        }
        let size = digits.iter().fold(0_u64, |size, digit| (size << 4) | u64::from(hex_value(*digit)));
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(std::mem::take(&mut self.lines).done)
    }

    fn trailer(&mut self, rest: &[u8], trailers: &mut Headers) -> Result<usize, BodyError> {
        let line = match self.lines.next(rest, MAX_TRAILER_BYTES.saturating_sub(self.trailer_bytes)) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(0),
            Err(LineError::TooLong) => return Err(BodyError::TooManyTrailers),
            Err(LineError::BareLf) => return Err(FieldError::BareLf.into()),
        };
        let line_len = std::mem::take(&mut self.lines).done;
        self.trailer_bytes += line_len;
        if line.is_empty() {
            self.state = State::Done;
            return Ok(line_len);
        }
        if self.trailers >= MAX_TRAILERS {
            return Err(BodyError::TooManyTrailers);
        }
        self.trailers += 1;
        let (name, value) = field::parse(line)?;
        if !is_forbidden(name) {
            trailers.append(name, value);
        }
        Ok(line_len)
    }
}

/// [`is_forbidden_in_trailers`] for a name in any case, without a copy on the heap. No forbidden name is longer
/// than the copy, so what is cut off cannot make two names equal.
fn is_forbidden(name: &[u8]) -> bool {
    let mut lowered = [0; MAX_FORBIDDEN_NAME_BYTES];
    let len = name.len().min(lowered.len());
    for (to, from) in lowered.iter_mut().zip(name) {
        *to = from.to_ascii_lowercase();
    }
    lowered.get(..len).is_some_and(is_forbidden_in_trailers)
}

/// `*( ";" token [ "=" ( token / quoted-string ) ] )`, without the white space that the grammar calls bad.
fn are_extensions(mut text: &[u8]) -> bool {
    while let [b';', rest @ ..] = text {
        let name_end = rest.iter().position(|byte| matches!(byte, b';' | b'=')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        if !field::is_token(name) {
            return false;
        }
        text = match after {
            [b'=', b'"', quoted @ ..] => match quoted_end(quoted) {
                Some(end) => quoted.get(end..).unwrap_or_default(),
                None => return false,
            },
            [b'=', value @ ..] => {
                let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
                let (value, after) = value.split_at(end);
                if !field::is_token(value) {
                    return false;
                }
                after
            }
            after => after,
        };
    }
    text.is_empty()
}

/// Where a quoted string whose opening quote has been read is over.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index + 1),
            0..=8 | 10..=31 | 127 => return None,
            _ => {}
        }
    }
    None
}

const fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
