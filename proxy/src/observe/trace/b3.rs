//! Zipkin's headers, in one field or in several. They are read so that a trace that others have begun goes on; what is
//! sent on is `traceparent`.

use super::context::Parent;
use super::{SpanId, TraceId, from_hex};
use crate::http::headers::Headers;

/// What the headers say; `None` when they name no trace, or are malformed.
///
/// A decision without a trace is not followed: there is nothing that it could be a decision about.
#[must_use]
pub fn parent(headers: &Headers) -> Option<Parent> {
    match headers.first(b"b3") {
        Some(value) => single(value),
        None => several(headers),
    }
}

/// `{trace}-{span}-{decision}-{parent}`, of which the last two may be missing.
fn single(value: &[u8]) -> Option<Parent> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (trace, span) = (trace(parts.next()?)?, span(parts.next()?)?);
    let sampled = match parts.next() {
        None => None,
        Some(b"1" | b"d") => Some(true),
        Some(b"0") => Some(false),
        Some(_) => return None,
    };
    if let Some(grandparent) = parts.next() {
        self::span(grandparent)?;
    }
    parts.next().is_none().then_some(Parent { trace, span: Some(span), sampled })
}

fn several(headers: &Headers) -> Option<Parent> {
    let trace = trace(headers.first(b"x-b3-traceid")?)?;
    let span = match headers.first(b"x-b3-spanid") {
        Some(value) => Some(span(value)?),
        None => None,
    };
    let sampled = match (headers.first(b"x-b3-flags"), headers.first(b"x-b3-sampled")) {
        // Debug: whoever asks for it wants to see it in any case.
        (Some(b"1"), _) | (_, Some(b"1" | b"true")) => Some(true),
        (_, Some(b"0" | b"false")) => Some(false),
        (_, None) => None,
        (_, Some(_)) => return None,
    };
    Some(Parent { trace, span, sampled })
}

/// Of 128 bits, or of 64.
fn trace(digits: &[u8]) -> Option<TraceId> {
    matches!(digits.len(), 16 | 32).then(|| from_hex(digits)).flatten().and_then(TraceId::new)
}

fn span(digits: &[u8]) -> Option<SpanId> {
    let number = (digits.len() == 16).then(|| from_hex(digits)).flatten()?;
    u64::try_from(number).ok().and_then(SpanId::new)
}
