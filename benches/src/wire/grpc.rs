//! gRPC's framing of messages over HTTP/2: a byte that says whether it is compressed, and four of length.

/// Bytes before each message.
pub const PREFIX_BYTES: usize = 5;

/// A message of so many bytes in its frame, not compressed. Its content is one `bytes` field of protobuf where that fits, so that a
/// proxy that looks inside finds a valid message.
#[must_use]
pub fn message(bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = Vec::with_capacity(PREFIX_BYTES + bytes);
    frame.push(0);
    frame.extend(length);
    frame.extend(content(bytes));
    frame
}

/// Field 1, wire type 2, a varint of length, and that many bytes. One byte alone can be no message, and is sent as it is.
fn content(bytes: usize) -> Vec<u8> {
    const FIELD: u8 = 0x0a;
    for varint in 1..=5 {
        let Some(value) = bytes.checked_sub(1 + varint) else { break };
        let mut content = vec![FIELD];
        let mut left = value;
        for place in 1..=varint {
            let seven = u8::try_from(left & 0x7f).unwrap_or(0);
            left >>= 7;
            // A longer varint than needed is valid, so that every length can be met.
            content.push(if place == varint { seven } else { seven | 0x80 });
        }
        if left == 0 {
            content.resize(bytes, b'x');
            return content;
        }
    }
    vec![b'x'; bytes]
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Echo {
        #[prost(bytes = "vec", tag = "1")]
        payload: Vec<u8>,
    }

    #[test]
    fn every_length_is_a_valid_message() {
        for bytes in (0..400).filter(|bytes| *bytes != 1).chain([16_384, 16_388, 16_389, 1 << 20]) {
            let frame = message(bytes);
            assert_eq!(frame.len(), PREFIX_BYTES + bytes);
            assert_eq!(frame[..5], [&[0][..], &u32::try_from(bytes).unwrap().to_be_bytes()].concat()[..]);
            Echo::decode(&frame[PREFIX_BYTES..]).unwrap_or_else(|error| panic!("{bytes}: {error}"));
        }
    }
}
