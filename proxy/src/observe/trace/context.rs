//! `traceparent` and `tracestate` (W3C Trace Context), read strictly: what is malformed begins a new trace.

use super::{SpanId, TraceId, b3, from_hex};
use crate::http::headers::Headers;

/// The header that carries a trace.
pub const TRACEPARENT: &[u8] = b"traceparent";
/// The header that carries what vendors say about it.
pub const TRACESTATE: &[u8] = b"tracestate";

/// Longest `tracestate` that is passed on, all of its fields together, in bytes: as much as must be (section 3.3.1.5).
pub const MAX_STATE_BYTES: usize = 512;
/// Most members of a `tracestate` (section 3.3.1.1).
const MAX_STATE_MEMBERS: usize = 32;
/// Length of a `traceparent` of version 00, in bytes.
const PARENT_BYTES: usize = 55;
/// The flag of a trace that is recorded.
const SAMPLED: u128 = 1;

/// What a request carries of a trace that others have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span; b3 may leave that out.
    pub span: Option<SpanId>,
    /// Whether the caller has it recorded; `None` where it leaves the decision to us.
    pub sampled: Option<bool>,
}

/// What is carried on to the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The trace.
    pub trace: TraceId,
    /// Our span.
    pub span: SpanId,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl Parent {
    /// What the headers say: those of W3C, or else of b3. `None` when there is nothing, or nothing that holds.
    #[must_use]
    pub fn of(headers: &Headers) -> Option<Self> {
        let mut parents = headers.all(TRACEPARENT);
        match (parents.next(), parents.next()) {
            (Some(value), None) => Self::parse(value),
            // Two of them contradict each other, or one is of no use.
            (Some(_), Some(_)) => None,
            (None, _) => b3::parent(headers),
        }
    }

    /// Reads a `traceparent` (section 3.2).
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(PARENT_BYTES)?;
        let part = |from: usize, to: usize| known.get(from..to).and_then(from_hex);
        let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        let version = part(0, 2)?;
        // A later version may say more after another dash; ff is none.
        let rest = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        if !dashes || !rest {
            return None;
        }
        Some(Self {
            trace: TraceId::new(part(3, 35)?)?,
            span: Some(SpanId::new(u64::try_from(part(36, 52)?).ok()?)?),
            sampled: Some(part(53, 55)? & SAMPLED != 0),
        })
    }
}

impl Carried {
    /// The value of `traceparent`.
    #[must_use]
    pub fn to_traceparent(self) -> [u8; PARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let parts: [(usize, &[u8]); 3] = [
            (3, &self.trace.to_hex()),
            (36, &self.span.to_hex()),
            (53, if self.sampled { b"01" } else { b"00" }),
        ];
        for (from, digits) in parts {
            if let Some(place) = text.get_mut(from..from + digits.len()) {
                place.copy_from_slice(digits);
            }
        }
        text
    }

    /// Puts it on a request. What vendors say goes on as it is where it belongs to a trace that `goes_on`, and is
    /// within its bounds.
    pub fn put_on(self, headers: &mut Headers, goes_on: bool) {
        headers.set(TRACEPARENT, &self.to_traceparent());
        if !goes_on || !is_state_bounded(headers) {
            headers.remove(TRACESTATE);
        }
    }
}

/// What vendors say about the trace, in one line; nothing if it is too long.
#[must_use]
pub fn state(headers: &Headers) -> Option<String> {
    if !is_state_bounded(headers) {
        return None;
    }
    let fields: Vec<&str> =
        headers.all(TRACESTATE).filter_map(|field| std::str::from_utf8(field).ok()).collect();
    Some(fields.join(",")).filter(|line| !line.is_empty())
}

/// Whether what vendors say is short enough, and printable.
fn is_state_bounded(headers: &Headers) -> bool {
    let (mut bytes, mut members) = (0, 0);
    for field in headers.all(TRACESTATE) {
        // One for the comma that would join it to the one before.
        bytes += field.len() + usize::from(members > 0);
        members += field.split(|byte| *byte == b',').count();
        if !field.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return false;
        }
    }
    bytes <= MAX_STATE_BYTES && members <= MAX_STATE_MEMBERS
}
