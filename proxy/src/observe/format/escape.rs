//! What a peer sent, made harmless for a log: it can neither end a line or a JSON string, nor steer a terminal.

/// Makes what was written since `start` fit for a line of text: control characters, quotes, backslashes and bytes
/// that are no UTF-8 are shown as escapes (`\n`, `\"`, `\\`, `\xff`).
pub(super) fn text_from(out: &mut Vec<u8>, start: usize) {
    escape_from(out, start, |byte_or_char, out| match byte_or_char {
        Unsafe::Byte(byte) => out.extend(std::ascii::escape_default(byte)),
        Unsafe::Char(letter) => {
            for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                out.extend(std::ascii::escape_default(byte));
            }
        }
    });
}

/// Makes what was written since `start` fit for the inside of a JSON string (RFC 8259, section 7). A byte that is no
/// UTF-8 becomes the character of its number, as Envoy does it.
pub(super) fn json_from(out: &mut Vec<u8>, start: usize) {
    escape_from(out, start, |byte_or_char, out| {
        let number = match byte_or_char {
            Unsafe::Byte(byte) => u32::from(byte),
            Unsafe::Char(letter) => u32::from(letter),
        };
        match number {
            0x22 => out.extend_from_slice(b"\\\""),
            0x5c => out.extend_from_slice(b"\\\\"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x09 => out.extend_from_slice(b"\\t"),
            // All others are in the basic plane: four digits are enough.
            number => {
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    let digit = char::from_digit(number >> shift & 0xf, 16).unwrap_or('0');
                    out.extend_from_slice(digit.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    });
}

enum Unsafe {
    /// No part of valid UTF-8.
    Byte(u8),
    Char(char),
}

fn escape_from(out: &mut Vec<u8>, start: usize, write: impl Fn(Unsafe, &mut Vec<u8>)) {
    let written = out.get(start..).unwrap_or_default();
    if !written.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'"' | b'\\' | 0x80..)) {
        return;
    }
    let raw = out.split_off(start);
    for chunk in raw.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if is_unsafe(letter) {
                write(Unsafe::Char(letter), out);
            } else {
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        for byte in chunk.invalid() {
            write(Unsafe::Byte(*byte), out);
        }
    }
}

/// Quotes, all controls (C1 too, which steer terminals) and the line separators that some readers split at.
const fn is_unsafe(letter: char) -> bool {
    matches!(letter, '"' | '\\' | '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(raw: &[u8]) -> Vec<u8> {
        let mut out = b"\n".to_vec();
        out.extend_from_slice(raw);
        text_from(&mut out, 1);
        out.split_off(1)
    }

    fn json(raw: &[u8]) -> Vec<u8> {
        let mut out = b"\"".to_vec();
        out.extend_from_slice(raw);
        json_from(&mut out, 1);
        out.push(b'"');
        out
    }

    #[test]
    fn escapes_are_the_usual_ones() {
        let cases: [(&[u8], &str, &str); 6] = [
            (b"plain /a?b=c", "plain /a?b=c", "plain /a?b=c"),
            (b"a\"b\\c", "a\\\"b\\\\c", "a\\\"b\\\\c"),
            (b"1\r\n2\t\x1b[31m", "1\\r\\n2\\t\\x1b[31m", "1\\r\\n2\\t\\u001b[31m"),
            ("é漢".as_bytes(), "é漢", "é漢"),
            (b"\xff\x80x", "\\xff\\x80x", "\\u00ff\\u0080x"),
            ("\u{9b}\u{2028}".as_bytes(), "\\xc2\\x9b\\xe2\\x80\\xa8", "\\u009b\\u2028"),
        ];
        for (raw, as_text, as_json) in cases {
            assert_eq!(String::from_utf8(text(raw)).unwrap(), as_text);
            assert_eq!(String::from_utf8(json(raw)).unwrap(), format!("\"{as_json}\""));
        }
    }

    proptest! {
        #[test]
        fn any_string_survives_json(raw in any::<String>()) {
            let read: String = serde_json::from_slice(&json(raw.as_bytes())).unwrap();
            prop_assert_eq!(read, raw);
        }

        #[test]
        fn any_bytes_make_valid_json(raw in any::<Vec<u8>>()) {
            prop_assert!(serde_json::from_slice::<String>(&json(&raw)).is_ok());
        }

        #[test]
        fn no_bytes_break_a_line(raw in any::<Vec<u8>>()) {
            let line = String::from_utf8(text(&raw)).unwrap();
            prop_assert!(!line.chars().any(char::is_control));
            // A quote is always escaped, so a quoted field ends where the template says.
            let mut letters = line.chars();
            while let Some(letter) = letters.next() {
                prop_assert_ne!(letter, '"');
                if letter == '\\' {
                    letters.next();
                }
            }
        }
    }
}
