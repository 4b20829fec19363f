//! A header section as one flat byte arena.
//!
//! On the request path nothing may be allocated that can be avoided, so a section is two vectors that are
//! cleared and filled again for every message of a connection: the octets, and the spans of each field in
//! them. Names are held in lower case (RFC 9110 section 5.1 makes them case-insensitive, HTTP/2 wants them
//! so), which makes a look-up a plain comparison.

use std::ops::Range;

/// The ordered fields of a header or trailer section.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

/// Where one field stands in [`Headers::bytes`].
#[derive(Clone, Copy, Debug)]
struct Field {
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
}

impl Headers {
    /// An empty section without any allocation.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), fields: Vec::new() }
    }

    /// Forgets the fields and keeps the memory for the next message.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// How many fields there are; a name that comes twice counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Memory held for the arena, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<Field>()
    }

    /// Adds a field at the end. The name is lowered here; the caller has checked that both are well-formed
    /// (the codecs for what came from a peer, the model for what came from configuration).
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        let name = self.push_bytes(name);
        if let Some(lowered) = self.bytes.get_mut(span(name.start, name.end)) {
            lowered.make_ascii_lowercase();
        }
        let value = self.push_bytes(value);
        self.fields.push(Field {
            name_start: name.start,
            name_end: name.end,
            value_start: value.start,
            value_end: value.end,
        });
    }

    /// Removes every field of this name and adds it once with this value, at the place of the first.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let Some(first) = self.fields.iter().position(|field| self.name_of(field) == name) else {
            self.append(name, value);
            return;
        };
        let value = self.push_bytes(value);
        if let Some(field) = self.fields.get_mut(first) {
            field.value_start = value.start;
            field.value_end = value.end;
        }
        let bytes = &self.bytes;
        let mut index = 0;
        self.fields.retain(|field| {
            index += 1;
            index - 1 <= first || name_in(bytes, field) != name
        });
    }

    /// Removes every field of this (lower-case) name and says how many there were.
    pub fn remove(&mut self, name: &[u8]) -> usize {
        let before = self.fields.len();
        let bytes = &self.bytes;
        self.fields.retain(|field| name_in(bytes, field) != name);
        before - self.fields.len()
    }

    /// Keeps the fields for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let bytes = &self.bytes;
        self.fields.retain(|field| keep(name_in(bytes, field), value_in(bytes, field)));
    }

    /// The value of the first field of this (lower-case) name.
    #[must_use]
    pub fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// Whether a field of this (lower-case) name is there.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.first(name).is_some()
    }

    /// The values of all fields of this (lower-case) name, in order.
    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(field, _)| *field == name).map(|(_, value)| value)
    }

    /// All fields in order, names in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (self.name_of(field), value_in(&self.bytes, field)))
    }

    /// Whether a comma-separated list field holds this token, compared without case (RFC 9110 section 5.6.1).
    #[must_use]
    pub fn has_token(&self, name: &[u8], token: &[u8]) -> bool {
        self.all(name).flat_map(list_members).any(|member| member.eq_ignore_ascii_case(token))
    }

    fn name_of(&self, field: &Field) -> &[u8] {
        name_in(&self.bytes, field)
    }

    /// Sections are bounded far below 4 GiB by the codecs' limits, so the conversions cannot saturate.
    fn push_bytes(&mut self, part: &[u8]) -> Range<u32> {
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(part);
        start..u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }
}

/// The members of a comma-separated list, trimmed, empty ones left out (RFC 9110 section 5.6.1.2).
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

fn span(start: u32, end: u32) -> Range<usize> {
    start as usize..end as usize
}

fn name_in<'a>(bytes: &'a [u8], field: &Field) -> &'a [u8] {
    bytes.get(span(field.name_start, field.name_end)).unwrap_or_default()
}

fn value_in<'a>(bytes: &'a [u8], field: &Field) -> &'a [u8] {
    bytes.get(span(field.value_start, field.value_end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    fn listed(headers: &Headers) -> Vec<(String, String)> {
        headers
            .iter()
            .map(|(name, value)| {
                (String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned())
            })
            .collect()
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_are_lowered_and_order_is_kept() {
        let headers = section(&[("Host", "a"), ("X-B", "1"), ("x-b", "2")]);
        assert_eq!(listed(&headers), pairs(&[("host", "a"), ("x-b", "1"), ("x-b", "2")]));
        assert_eq!(headers.first(b"x-b"), Some(&b"1"[..]));
        assert_eq!(headers.all(b"x-b").count(), 2);
    }

    #[test]
    fn set_replaces_all_at_the_first_place() {
        let mut headers = section(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]);
        headers.set(b"a", b"new");
        assert_eq!(listed(&headers), pairs(&[("a", "new"), ("b", "2"), ("c", "4")]));
        headers.set(b"d", b"5");
        assert_eq!(headers.first(b"d"), Some(&b"5"[..]));
    }

    #[test]
    fn remove_counts_what_it_took() {
        let mut headers = section(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(headers.remove(b"a"), 2);
        assert_eq!(headers.remove(b"a"), 0);
        assert_eq!(listed(&headers), pairs(&[("b", "2")]));
    }

    #[test]
    fn tokens_are_found_across_lists_without_case() {
        let headers = section(&[("connection", "keep-alive, Upgrade"), ("connection", "x")]);
        assert!(headers.has_token(b"connection", b"upgrade"));
        assert!(headers.has_token(b"connection", b"x"));
        assert!(!headers.has_token(b"connection", b"keep"));
    }

    #[test]
    fn clear_keeps_the_memory() {
        let mut headers = section(&[("a", "1")]);
        let held = headers.capacity_bytes();
        headers.clear();
        assert!(headers.is_empty());
        assert_eq!(headers.capacity_bytes(), held);
    }
}
