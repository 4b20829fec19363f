//! Field lines (RFC 9112 section 5): how heads and trailers are cut into lines, names and values.

use memchr::memchr;

/// Why a field line is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The line does not end in CR LF.
    #[error("a line ends in a bare LF")]
    BareLf,
    /// No colon.
    #[error("a field line has no colon")]
    NoColon,
    /// An empty name, or a character that no name may hold; white space before the colon included.
    #[error("a field name holds an illegal character")]
    BadName,
    /// A control character in a value: NUL, a bare CR.
    #[error("the value of a field holds a control character")]
    BadValue,
    /// A line that begins with white space (RFC 9112 section 5.2).
    #[error("a field is folded over several lines")]
    Folded,
}

/// Why there is no next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineError {
    /// It would end beyond the limit.
    TooLong,
    /// It ends in LF without CR.
    BareLf,
}

/// Cuts growing input into lines and never looks at a byte for its line end twice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    /// Input that is done with, always up to the start of a line.
    pub done: usize,
    /// Input that is known to hold no line end beyond `done`.
    searched: usize,
}

impl Lines {
    /// The next line without its line end, which must lie in the first `max_bytes` of `input`; `None` while it
    /// is incomplete. `input` begins at the same byte in every call.
    ///
    /// The limit is looked at before the line, so that the answer does not depend on how the input arrived.
    pub(super) fn next<'a>(
        &mut self,
        input: &'a [u8],
        max_bytes: usize,
    ) -> Result<Option<&'a [u8]>, LineError> {
        let window = input.get(..max_bytes).unwrap_or(input);
        let from = self.searched.max(self.done);
        let Some(found) = memchr(b'\n', window.get(from..).unwrap_or_default()) else {
            self.searched = window.len();
            return if input.len() >= max_bytes { Err(LineError::TooLong) } else { Ok(None) };
        };
        let end = from + found;
        let line = window.get(self.done..end).unwrap_or_default();
        self.done = end + 1;
        line.strip_suffix(b"\r").map(Some).ok_or(LineError::BareLf)
    }
}

/// Name and trimmed value of a line.
pub(super) fn parse(line: &[u8]) -> Result<(&[u8], &[u8]), FieldError> {
    let name_len = line.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_len);
    let Some((b':', rest)) = rest.split_first() else {
        return Err(fault_of_name(line));
    };
    if name.is_empty() {
        return Err(FieldError::BadName);
    }
    let value = crate::http::trim_blanks(rest);
    if is_value(value) { Ok((name, value)) } else { Err(FieldError::BadValue) }
}

#[cold]
fn fault_of_name(line: &[u8]) -> FieldError {
    match line.first() {
        Some(b' ' | b'\t') => FieldError::Folded,
        _ if memchr(b':', line).is_none() => FieldError::NoColon,
        _ => FieldError::BadName,
    }
}

/// Whether this is a token (RFC 9110 section 5.6.2), which is never empty.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES.get(usize::from(byte)).copied().unwrap_or(false)
}

/// `tchar` of RFC 9110 section 5.6.2, looked up because every byte of every name is asked for.
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let is_token = matches!(byte,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        if let Some((_, [place, ..])) = table.split_at_mut_checked(byte as usize) {
            *place = is_token;
        }
        byte += 1;
    }
    table
};

/// HTAB, visible characters, space and obs-text (RFC 9110 section 5.5).
pub(super) fn is_value(value: &[u8]) -> bool {
    let is_clean =
        |word: &[u8; 8]| !may_hold_control(u64::from_ne_bytes(*word)) || word.iter().all(is_value_byte);
    let (words, _) = value.as_chunks();
    match value.last_chunk() {
        // It overlaps with the last of the others, so that no byte is looked at alone.
        Some(last) => words.iter().all(is_clean) && is_clean(last),
        None => value.iter().all(is_value_byte),
    }
}

const fn is_value_byte(byte: &u8) -> bool {
    (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t'
}

/// Whether one of eight bytes may be below space or DEL, looked at all at once: a subtraction borrows out of the top bit
/// of a byte that is smaller, and what borrows from its neighbour as well is looked at again.
const fn may_hold_control(word: u64) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let del = word ^ (ONES * 0x7f);
    let is_del = del.wrapping_sub(ONES) & !del;
    (below_space | is_del) & TOPS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_lines_are_strict() {
        assert_eq!(parse(b"a: b"), Ok((&b"a"[..], &b"b"[..])));
        assert_eq!(parse(b"a:\t b c \t"), Ok((&b"a"[..], &b"b c"[..])));
        assert_eq!(parse(b"a:"), Ok((&b"a"[..], &b""[..])));
        assert_eq!(parse(b"under_score:b"), Ok((&b"under_score"[..], &b"b"[..])));
        assert_eq!(parse(b"a : b"), Err(FieldError::BadName));
        assert_eq!(parse(b"a\t: b"), Err(FieldError::BadName));
        assert_eq!(parse(b": b"), Err(FieldError::BadName));
        assert_eq!(parse(b"a b"), Err(FieldError::NoColon));
        assert_eq!(parse(b" a: b"), Err(FieldError::Folded));
        assert_eq!(parse(b"\ta: b"), Err(FieldError::Folded));
        assert_eq!(parse(b"a: b\rc"), Err(FieldError::BadValue));
        assert_eq!(parse(b"a: b\r"), Err(FieldError::BadValue));
        assert_eq!(parse(b"a: b\0c"), Err(FieldError::BadValue));
    }

    #[test]
    fn every_byte_is_legal_where_the_rfc_says_so() {
        for byte in 0..=255_u8 {
            let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(parse(&[b'a', byte, b'b', b':']).is_ok(), is_tchar || byte == b':', "name {byte:#x}");
            let is_field_vchar = byte == b'\t' || (b' '..0x7f).contains(&byte) || byte >= 0x80;
            assert_eq!(parse(&[b'a', b':', b'x', byte, b'y']).is_ok(), is_field_vchar, "value {byte:#x}");
        }
    }

    #[test]
    fn a_control_character_is_found_wherever_it_stands() {
        for len in 1..40 {
            for place in 0..len {
                for byte in 0..=255_u8 {
                    let mut value = vec![b'x'; len];
                    value[place] = byte;
                    assert_eq!(is_value(&value), is_value_byte(&byte), "{byte:#x} at {place} of {len}");
                }
            }
        }
    }

    #[test]
    fn lines_end_in_cr_lf_within_the_limit() {
        assert_eq!(Lines::default().next(b"ab\r\n", 4), Ok(Some(&b"ab"[..])));
        assert_eq!(Lines::default().next(b"ab\r\n", 3), Err(LineError::TooLong));
        assert_eq!(Lines::default().next(b"ab\r", 4), Ok(None));
        // Full without a line end: waiting for more would be waiting for what must be refused.
        assert_eq!(Lines::default().next(b"abcd", 4), Err(LineError::TooLong));
        assert_eq!(Lines::default().next(b"ab\n", 4), Err(LineError::BareLf));
        assert_eq!(Lines::default().next(b"\n", 4), Err(LineError::BareLf));
        let (mut lines, input) = (Lines::default(), b"a\r\n\r\nb");
        assert_eq!(lines.next(&input[..2], 9), Ok(None));
        assert_eq!(lines.next(&input[..3], 9), Ok(Some(&b"a"[..])));
        assert_eq!(lines.next(input, 9), Ok(Some(&b""[..])));
        assert_eq!((lines.next(input, 9), lines.done), (Ok(None), 5));
    }
}
