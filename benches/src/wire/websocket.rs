//! WebSocket frames (RFC 6455, section 5.2): one final frame for each message.

/// Most bytes of a frame's head: two, eight of length, four of mask.
pub const MAX_HEAD_BYTES: usize = 14;
/// The key of the handshake that the generator sends: the example of RFC 6455, section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the server makes of [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Values of the length field that say how many bytes of length follow.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text,
    /// A binary message.
    Binary,
    /// The end of the connection.
    Close,
    /// Wants a [`Opcode::Pong`] with its payload.
    Ping,
    /// The answer to it.
    Pong,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub opcode: Opcode,
    /// Bytes of the payload.
    pub length: u64,
    /// What the payload is masked with, from a client.
    pub mask: Option<[u8; 4]>,
}

/// What is no frame that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WebSocket frame: {0}")]
pub struct Malformed(&'static str);

impl Head {
    /// The head at the front of `bytes` and its length; `None` until it is whole.
    ///
    /// # Errors
    /// When it is none, or begins a message of several frames.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = match first {
            0x81 => Opcode::Text,
            0x82 => Opcode::Binary,
            0x88 => Opcode::Close,
            0x89 => Opcode::Ping,
            0x8a => Opcode::Pong,
            _ => return Err(Malformed("a fragment, an extension or an unknown opcode")),
        };
        let (length, rest) = match second & LENGTH {
            LENGTH_16 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            LENGTH_64 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            length => (u64::from(length), rest),
        };
        let (mask, rest) = match (second & MASKED, rest.split_first_chunk()) {
            (0, _) => (None, rest),
            (_, Some((mask, rest))) => (Some(*mask), rest),
            (_, None) => return Ok(None),
        };
        Ok(Some((Self { opcode, length, mask }, bytes.len() - rest.len())))
    }

    /// Appends it as it goes on the wire.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.push(match self.opcode {
            Opcode::Text => FINAL | 0x1,
            Opcode::Binary => FINAL | 0x2,
            Opcode::Close => FINAL | 0x8,
            Opcode::Ping => FINAL | 0x9,
            Opcode::Pong => FINAL | 0xa,
        });
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        if let Some(short) = u8::try_from(self.length).ok().filter(|length| *length < LENGTH_16) {
            to.push(masked | short);
        } else if let Ok(middle) = u16::try_from(self.length) {
            to.push(masked | LENGTH_16);
            to.extend(middle.to_be_bytes());
        } else {
            to.push(masked | LENGTH_64);
            to.extend(self.length.to_be_bytes());
        }
        to.extend(self.mask.unwrap_or_default().iter().take(if self.mask.is_some() { 4 } else { 0 }));
    }
}

/// Masks or unmasks a payload of which `from` bytes came before.
pub fn mask(payload: &mut [u8], mask: [u8; 4], from: usize) {
    let turned: [u8; 4] =
        std::array::from_fn(|place| mask.get((place + from) % 4).copied().unwrap_or_default());
    let (words, rest) = payload.as_chunks_mut::<4>();
    let word = u32::from_ne_bytes(turned);
    for four in words {
        *four = (u32::from_ne_bytes(*four) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_survives_the_wire(
            opcode in prop::sample::select(vec![Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong]),
            length in prop_oneof![0_u64..130, 65_530_u64..65_540, any::<u64>()],
            mask in any::<Option<[u8; 4]>>(),
        ) {
            let head = Head { opcode, length, mask };
            let mut bytes = Vec::new();
            head.encode(&mut bytes);
            prop_assert!(bytes.len() <= MAX_HEAD_BYTES);
            prop_assert_eq!(Head::decode(&bytes), Ok(Some((head, bytes.len()))));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Head::decode(&bytes[..cut]), Ok(None));
            }
        }

        #[test]
        fn masking_in_pieces_is_masking_the_whole(
            payload in prop::collection::vec(any::<u8>(), 0..64), key in any::<[u8; 4]>(), cut in any::<prop::sample::Index>(),
        ) {
            let expected: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            let mut masked = payload;
            let cut = cut.index(masked.len() + 1);
            let (first, second) = masked.split_at_mut(cut);
            mask(first, key, 0);
            mask(second, key, cut);
            prop_assert_eq!(masked, expected);
        }
    }

    #[test]
    fn what_is_no_whole_message() {
        assert!(Head::decode(&[0x02, 0x00]).is_err(), "a first fragment");
        assert!(Head::decode(&[0xc2, 0x00]).is_err(), "an extension");
        assert!(Head::decode(&[0x83, 0x00]).is_err(), "an unknown opcode");
    }
}
