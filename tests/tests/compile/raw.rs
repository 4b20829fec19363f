//! Messages as they are on the wire, for those that our own descriptors do not know: a line for each field, by its number.

use std::fmt::Write as _;

use prost::bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};

/// How deep messages lie in each other at most; what is deeper is shown as bytes.
const MAX_DEPTH: usize = 32;

/// A message as text.
pub fn shown(body: &[u8]) -> String {
    fields(body, 0).expect("a message")
}

/// `None` for what is no message.
fn fields(mut body: &[u8], depth: usize) -> Option<String> {
    let mut text = String::new();
    let pad = "  ".repeat(depth);
    while body.has_remaining() {
        let (number, kind) = decode_key(&mut body).ok()?;
        match kind {
            WireType::Varint => writeln!(text, "{pad}{number}: {}", decode_varint(&mut body).ok()?),
            WireType::SixtyFourBit => writeln!(text, "{pad}{number}: {:#018x}", body.try_get_u64_le().ok()?),
            WireType::ThirtyTwoBit => writeln!(text, "{pad}{number}: {:#010x}", body.try_get_u32_le().ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut body).ok()?).ok()?;
                let (content, rest) = body.split_at_checked(length)?;
                body = rest;
                writeln!(text, "{pad}{number}: {}", content_of(content, depth))
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        }
        .ok()?;
    }
    Some(text)
}

/// Text where it reads as such, else a message, else bytes.
fn content_of(content: &[u8], depth: usize) -> String {
    let text = std::str::from_utf8(content).ok();
    if let Some(text) = text.filter(|text| !text.chars().any(char::is_control)) {
        return format!("{text:?}");
    }
    let inner = if depth < MAX_DEPTH { fields(content, depth + 1) } else { None };
    inner.map_or_else(|| format!("{content:02x?}"), |inner| format!("{{\n{inner}{}}}", "  ".repeat(depth)))
}

#[test]
fn fields_texts_messages_and_bytes_are_told_apart() {
    let body = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1a, 0x02, 0x08, 0x01, 0x22, 0x01, 0xff];
    assert_eq!(shown(&body), "1: 150\n2: \"hi\"\n3: {\n  1: 1\n}\n4: [ff]\n");
}
