//! Header blocks (RFC 7541): those of one request, written once, and the status of an answer.

use super::Malformed;
use super::frame::MAX_FRAME_BYTES;

/// Bytes of the table that both sides have before anybody says otherwise.
const DEFAULT_TABLE_BYTES: usize = 4096;
/// What an entry of the table takes beside its name and value (section 4.1).
const ENTRY_BYTES: usize = 32;
/// Entries of the static table, before those of the dynamic one.
const STATIC_ENTRIES: usize = 61;
/// Places in the static table (appendix A).
const AUTHORITY: usize = 1;
const GET: usize = 2;
const POST: usize = 3;
const PATH: usize = 4;
const HTTP: usize = 6;
const HTTPS: usize = 7;
const STATUS: u8 = 8;
const CONTENT_LENGTH: usize = 28;
/// Bits that tell representations apart (section 6), and the bits of the integer after them.
const INDEXED: (u8, u32) = (0x80, 7);
const LITERAL_KEPT: (u8, u32) = (0x40, 6);
const LITERAL: (u8, u32) = (0x00, 4);
const TABLE_SIZE: (u8, u32) = (0x20, 5);

/// A request that is sent again and again.
#[derive(Clone, Debug)]
pub struct Request {
    /// Bytes of its body.
    pub body_bytes: usize,
    fields: Vec<Field>,
    method: usize,
    scheme: usize,
    /// The block that puts the fields into the server's table, and the one that refers to them there.
    first: Vec<u8>,
    next: Vec<u8>,
}

/// A name, by its place in the static table or in full, and its value.
type Field = (Result<usize, String>, String);

impl Request {
    /// A `GET`, or a `POST` if there is a body.
    ///
    /// # Errors
    /// When the fields together are too large for one frame.
    pub fn new(
        (secure, authority, path): (bool, &str, &str),
        headers: &[(String, String)],
        body_bytes: usize,
    ) -> Result<Self, Malformed> {
        let mut fields: Vec<Field> = vec![(Ok(PATH), path.to_owned()), (Ok(AUTHORITY), authority.to_owned())];
        fields.extend(headers.iter().map(|(name, value)| (Err(name.to_ascii_lowercase()), value.clone())));
        if body_bytes > 0 {
            fields.push((Ok(CONTENT_LENGTH), body_bytes.to_string()));
        }
        let method = if body_bytes == 0 { GET } else { POST };
        let scheme = if secure { HTTPS } else { HTTP };
        let mut request = Self { body_bytes, fields, method, scheme, first: Vec::new(), next: Vec::new() };
        request.write(true);
        if request.first.len() > MAX_FRAME_BYTES {
            return Err(Malformed("the header fields of the request are too large"));
        }
        Ok(request)
    }

    /// The block for the first request of a connection, or for another.
    pub(super) fn block(&self, first: bool) -> &[u8] {
        if first { &self.first } else { &self.next }
    }

    /// The server wants a table of this size. That has to come before the first request, if it is smaller than it was.
    pub(super) fn limit_table(&mut self, bytes: u32, before_first: bool) -> Result<(), Malformed> {
        if bytes as usize >= DEFAULT_TABLE_BYTES {
            return Ok(());
        }
        if !before_first {
            return Err(Malformed("a header table that shrinks"));
        }
        self.write(false);
        Ok(())
    }

    fn write(&mut self, table: bool) {
        let size: usize = self.fields.iter().map(entry_bytes).sum();
        let kept = table && size <= DEFAULT_TABLE_BYTES;
        let (mut first, mut next) = (Vec::new(), Vec::new());
        if !table {
            // The first block says that the table is not used (section 4.2).
            integer(&mut first, TABLE_SIZE, 0);
        }
        for block in [&mut first, &mut next] {
            integer(block, INDEXED, self.method);
            integer(block, INDEXED, self.scheme);
        }
        for (place, (name, value)) in self.fields.iter().enumerate() {
            literal(&mut first, if kept { LITERAL_KEPT } else { LITERAL }, name, value);
            if kept {
                // The newest entry comes first.
                integer(&mut next, INDEXED, STATIC_ENTRIES + self.fields.len() - place);
            } else {
                literal(&mut next, LITERAL, name, value);
            }
        }
        (self.first, self.next) = (first, next);
    }
}

fn entry_bytes((name, value): &Field) -> usize {
    // Of the three names of the static table that are used none is longer than `content-length`.
    let name = name.as_ref().map_or_else(String::len, |_| "content-length".len());
    name + value.len() + ENTRY_BYTES
}

fn literal(to: &mut Vec<u8>, form: (u8, u32), name: &Result<usize, String>, value: &str) {
    match name {
        Ok(place) => integer(to, form, *place),
        Err(name) => {
            integer(to, form, 0);
            string(to, name);
        }
    }
    string(to, value);
}

fn string(to: &mut Vec<u8>, text: &str) {
    integer(to, (0, 7), text.len());
    to.extend_from_slice(text.as_bytes());
}

/// An integer after some bits (section 5.1).
fn integer(to: &mut Vec<u8>, (bits, prefix): (u8, u32), value: usize) {
    let most = u8::MAX >> (8 - prefix);
    if let Some(short) = u8::try_from(value).ok().filter(|value| *value < most) {
        to.push(bits | short);
        return;
    }
    to.push(bits | most);
    let mut left = value - usize::from(most);
    loop {
        let seven = u8::try_from(left & 0x7f).unwrap_or(0);
        left >>= 7;
        if left == 0 {
            return to.push(seven);
        }
        to.push(seven | 0x80);
    }
}

/// The status of an answer. It stands before all other fields (RFC 9113, section 8.3); 200 and some others are in the static table,
/// and for the rest it is enough to know that they are none of them.
pub(super) fn status(block: &[u8]) -> Result<u16, Malformed> {
    let mut block = block;
    // Changes of the table's size stand before all fields.
    while let Some((0x20..0x40, rest)) = block.split_first() {
        let more = if block.first() == Some(&0x3f) {
            1 + rest.iter().take_while(|byte| **byte >= 0x80).count()
        } else {
            0
        };
        block = rest.get(more..).unwrap_or_default();
    }
    let (first, rest) = block.split_first().ok_or(Malformed("an empty header block"))?;
    match first {
        0x88 => Ok(200),
        0x89 => Ok(204),
        0x8a => Ok(206),
        0x8b => Ok(304),
        0x8c => Ok(400),
        0x8d => Ok(404),
        0x8e => Ok(500),
        // A literal with the name of this place: kept, not kept, never kept.
        _ if [0x40 | STATUS, STATUS, 0x10 | STATUS].contains(first) => digits(rest),
        // From the dynamic table: only what is not in the static one gets there.
        0xbe.. => Ok(UNKNOWN_STATUS),
        _ => Err(Malformed("an answer without a status")),
    }
}

/// Stands for a status that is known only to be an uncommon one.
pub(super) const UNKNOWN_STATUS: u16 = 999;

/// A status as a string of three digits, plain or in the code of appendix B.
fn digits(value: &[u8]) -> Result<u16, Malformed> {
    let wrong = Malformed("a status that is no number");
    let (length, rest) = value.split_first().ok_or(wrong)?;
    let text = rest.get(..usize::from(length & 0x7f)).ok_or(wrong)?;
    let mut number = 0;
    if length & 0x80 == 0 {
        for digit in text {
            let digit = char::from(*digit).to_digit(10).ok_or(wrong)?;
            number = number * 10 + digit;
        }
    } else {
        let bits = text.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let mut left = u32::try_from(text.len()).unwrap_or(0).min(4) * 8;
        for _ in 0..3 {
            // 0 to 2 have five bits, 3 to 9 six.
            let next = |count: u32| left.checked_sub(count).map(|after| bits >> after & ((1 << count) - 1));
            let (digit, used) = match (next(5), next(6)) {
                (Some(digit @ 0..=2), _) => (digit, 5),
                (_, Some(code @ 0b01_1001..=0b01_1111)) => (code - 0b01_1001 + 3, 6),
                _ => return Err(wrong),
            };
            number = number * 10 + digit;
            left -= used;
        }
    }
    u16::try_from(number).ok().filter(|number| (100..1000).contains(number)).ok_or(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_in_every_form() {
        let cases: [(&[u8], u16); 8] = [
            (&[0x88], 200),
            (&[0x20, 0x88], 200),
            (&[0x3f, 0xe1, 0x1f, 0x8d, 0x00], 404),
            (b"\x48\x03503", 503),
            (b"\x08\x03103", 103),
            // RFC 7541, appendix C.6: 302 and 307.
            (&[0x48, 0x82, 0x64, 0x02], 302),
            (&[0x48, 0x83, 0x64, 0x0e, 0xff], 307),
            (&[0xbf], UNKNOWN_STATUS),
        ];
        for (block, expected) in cases {
            assert_eq!(status(block), Ok(expected), "{block:x?}");
        }
        for block in [&[][..], &[0x20], &[0x82], &[0x48], b"\x48\x0450", b"\x48\x02xx", &[0x48, 0x81, 0xff]] {
            assert!(status(block).is_err(), "{block:x?}");
        }
    }

    #[test]
    fn integers_of_the_rfc() {
        for (value, prefix, bytes) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
            let mut out = Vec::new();
            integer(&mut out, (0, prefix), value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_second_request_refers_to_the_first() {
        let headers = [("x-a".to_owned(), "b".to_owned())];
        let mut request = Request::new((false, "h", "/p"), &headers, 3).unwrap();
        assert_eq!(request.block(true), b"\x83\x86\x44\x02/p\x41\x01h\x40\x03x-a\x01b\x5c\x013");
        assert_eq!(request.block(false), [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]);
        request.limit_table(0, true).unwrap();
        assert_eq!(request.block(true), b"\x20\x83\x86\x04\x02/p\x01\x01h\x00\x03x-a\x01b\x0f\x0d\x013");
        assert_eq!(request.block(false), &request.block(true)[1..]);
        assert!(request.limit_table(0, false).is_err());
    }

    #[test]
    fn fields_that_do_not_fit() {
        let long = [("x".to_owned(), "y".repeat(5000))];
        let request = Request::new((false, "h", "/"), &long, 0).unwrap();
        assert_eq!(request.block(true), request.block(false), "too large for the table");
        let longer = [("x".to_owned(), "y".repeat(17_000))];
        assert!(Request::new((false, "h", "/"), &longer, 0).is_err(), "too large for a frame");
    }
}
