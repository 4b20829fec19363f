//! Frames of HTTP/2 (RFC 9113, sections 4 and 6).

use std::ops::BitOr;

use super::Malformed;

/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: usize = 9;
/// Most bytes of a frame's payload, as long as nobody says otherwise.
pub(super) const MAX_FRAME_BYTES: usize = 16_384;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Other(u8),
}

impl Kind {
    const fn of(number: u8) -> Self {
        match number {
            0 => Self::Data,
            1 => Self::Headers,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Reset => 3,
            Self::Settings => 4,
            Self::PushPromise => 5,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::WindowUpdate => 8,
            Self::Continuation => 9,
            Self::Other(other) => other,
        }
    }
}

/// The flags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    pub(super) const END_STREAM: Self = Self(0x1);
    pub(super) const ACK: Self = Self(0x1);
    pub(super) const END_HEADERS: Self = Self(0x4);
    pub(super) const PADDED: Self = Self(0x8);
    const PRIORITY: Self = Self(0x20);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A whole frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) flags: Flags,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the front of `bytes`, and what comes after it; `None` until it is whole.
    pub(super) fn split(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, Malformed> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > MAX_FRAME_BYTES {
            return Err(Malformed("a frame that is too long"));
        }
        let Some((payload, after)) = rest.split_at_checked(length) else { return Ok(None) };
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Ok(Some((Self { kind: Kind::of(kind), flags: Flags(flags), stream, payload }, after)))
    }

    /// Without padding.
    pub(super) fn content(&self) -> Result<&'a [u8], Malformed> {
        if !self.flags.has(Flags::PADDED) {
            return Ok(self.payload);
        }
        let unpadded = self.payload.split_first().and_then(|(padding, rest)| {
            let length = rest.len().checked_sub(usize::from(*padding))?;
            rest.get(..length)
        });
        unpadded.ok_or(Malformed("a frame that is shorter than its padding"))
    }

    /// The header block, without padding and priority.
    pub(super) fn block(&self) -> Result<&'a [u8], Malformed> {
        let content = self.content()?;
        if !self.flags.has(Flags::PRIORITY) {
            return Ok(content);
        }
        content.get(5..).ok_or(Malformed("a frame that is shorter than its priority"))
    }

    /// The 32 bits at a place.
    pub(super) fn word(&self, place: usize) -> Result<u32, Malformed> {
        let bytes = self.payload.get(place..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Malformed("a frame that is too short"))
    }

    /// Settings by their identifiers.
    pub(super) fn settings(&self) -> Result<impl Iterator<Item = (u16, u32)> + 'a, Malformed> {
        let (settings, rest) = self.payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Malformed("half a setting"));
        }
        Ok(settings
            .iter()
            .map(|[a, b, c, d, e, f]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes([*c, *d, *e, *f]))))
    }
}

/// Appends a frame. Its payload is at most [`MAX_FRAME_BYTES`].
pub(super) fn write(to: &mut Vec<u8>, kind: Kind, flags: Flags, stream: u32, payload: &[u8]) {
    head(to, payload.len(), (kind, flags), stream);
    to.extend_from_slice(payload);
}

/// Appends a frame of a body that says nothing.
pub(super) fn data(to: &mut Vec<u8>, flags: Flags, stream: u32, bytes: usize) {
    head(to, bytes, (Kind::Data, flags), stream);
    to.resize(to.len() + bytes, b'x');
}

pub(super) fn settings(to: &mut Vec<u8>, settings: &[(u16, u32)]) {
    head(to, settings.len() * 6, (Kind::Settings, Flags::NONE), 0);
    for (identifier, value) in settings {
        to.extend(identifier.to_be_bytes());
        to.extend(value.to_be_bytes());
    }
}

/// Opens the connection's window further.
pub(super) fn window_update(to: &mut Vec<u8>, more: u32) {
    write(to, Kind::WindowUpdate, Flags::NONE, 0, &more.to_be_bytes());
}

fn head(to: &mut Vec<u8>, length: usize, (kind, flags): (Kind, Flags), stream: u32) {
    let [_, length @ ..] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    to.extend_from_slice(&length);
    to.extend_from_slice(&[kind.number(), flags.0]);
    to.extend_from_slice(&stream.to_be_bytes());
}
