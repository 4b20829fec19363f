//! Frames over raw TCP: how many bytes follow, how many are to come back, then those that follow.
//!
//! Eight bytes of head, two big-endian 32-bit lengths; the answer is the wanted bytes alone. One form serves both small messages that
//! come back (equal lengths) and bulk in either direction.

/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 8;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow the head.
    pub sent: u32,
    /// Bytes that are to come back.
    pub wanted: u32,
}

impl Head {
    /// On the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEAD_BYTES] {
        ((u64::from(self.sent) << 32) | u64::from(self.wanted)).to_be_bytes()
    }

    /// From the wire; `None` until it is whole.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        Some(Self { sent: u32::from_be_bytes([a, b, c, d]), wanted: u32::from_be_bytes([e, f, g, h]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_the_wire_and_waits_until_it_is_whole() {
        let head = Head { sent: 0x0102_0304, wanted: 0xff00_00fe };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Some(head));
        assert_eq!(Head::decode(&bytes[..7]), None);
    }
}
