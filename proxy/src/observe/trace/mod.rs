//! Distributed tracing: what requests carry of a trace, and how finished spans leave the workers.

pub mod b3;
pub mod context;
pub mod queue;
#[cfg(test)]
mod tests;

pub use context::{Carried, Parent};

/// The number of a trace, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

/// The number of a span, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(u64);

impl TraceId {
    /// Digits of its hexadecimal form.
    pub const DIGITS: usize = 32;

    /// One that nobody has. Not for secrets.
    #[must_use]
    pub fn random(random: &mut fastrand::Rng) -> Self {
        Self(random.u128(1..))
    }

    /// From its number, unless that is 0.
    #[must_use]
    pub const fn new(number: u128) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The last seven bytes, which are as good as random (W3C Trace Context level 2, section "random-trace-id").
    #[must_use]
    pub const fn random_part(self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest 56 bits are wanted")]
        let low = self.0 as u64;
        low & ((1 << 56) - 1)
    }

    /// As it goes over OTLP.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// As headers and logs show it.
    #[must_use]
    pub fn to_hex(self) -> [u8; Self::DIGITS] {
        hex(self.0)
    }
}

impl SpanId {
    /// Digits of its hexadecimal form.
    pub const DIGITS: usize = 16;

    /// One that no other span of the trace has. Not for secrets.
    #[must_use]
    pub fn random(random: &mut fastrand::Rng) -> Self {
        Self(random.u64(1..))
    }

    /// From its number, unless that is 0.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// As it goes over OTLP.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// As headers show it.
    #[must_use]
    pub fn to_hex(self) -> [u8; Self::DIGITS] {
        hex(u128::from(self.0))
    }
}

/// The lowest digits of a number, in lower case.
fn hex<const DIGITS: usize>(number: u128) -> [u8; DIGITS] {
    let mut text = [b'0'; DIGITS];
    for (place, digit) in text.iter_mut().rev().enumerate() {
        let value = u8::try_from((number >> (place * 4)) & 15).unwrap_or(0);
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
    }
    text
}

/// A number from its hexadecimal digits, of which there are 32 at most; only lower case counts.
fn from_hex(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > TraceId::DIGITS {
        return None;
    }
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}
