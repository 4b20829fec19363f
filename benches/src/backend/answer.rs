//! What is answered: made once for each path, and given out without a copy.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;

/// Largest body, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 << 20;
/// The body where the path names no length.
const DEFAULT_BYTES: usize = 12;
/// Up to here head and body are one piece, and go out in one write.
const ONE_PIECE_BYTES: usize = 64 * 1024;
/// Lengths that are remembered; any others are made anew each time.
const MAX_REMEMBERED: usize = 64;

/// An answer over HTTP/1.1, and its body.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The head, with the body if that is small.
    pub(super) head: Bytes,
    /// The body if it is large.
    pub(super) rest: Bytes,
    /// The body.
    pub(super) body: Bytes,
}

/// Answers by the length of their bodies.
#[derive(Debug)]
pub(super) struct Answers {
    payload: RefCell<Bytes>,
    made: RefCell<BTreeMap<usize, Answer>>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { payload: RefCell::default(), made: RefCell::default() }
    }

    /// The answer for a path.
    pub(super) fn for_path(&self, path: &[u8]) -> Answer {
        let bytes = wanted(path);
        if let Some(answer) = self.made.borrow().get(&bytes) {
            return answer.clone();
        }
        let answer = self.make(bytes);
        let mut made = self.made.borrow_mut();
        if made.len() < MAX_REMEMBERED {
            made.insert(bytes, answer.clone());
        }
        answer
    }

    fn make(&self, bytes: usize) -> Answer {
        let mut payload = self.payload.borrow_mut();
        if payload.len() < bytes {
            *payload = vec![b'x'; bytes].into();
        }
        let body = payload.slice(..bytes);
        let head = format!(
            "HTTP/1.1 200 OK\r\nserver: outrider-bench\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n"
        );
        if bytes <= ONE_PIECE_BYTES {
            let head = [head.as_bytes(), &body].concat().into();
            return Answer { head, rest: Bytes::new(), body };
        }
        Answer { head: head.into(), rest: body.clone(), body }
    }
}

/// How many bytes a path asks for.
fn wanted(path: &[u8]) -> usize {
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let digits = path.strip_prefix(b"/bytes/").and_then(|digits| std::str::from_utf8(digits).ok());
    digits
        .and_then(|digits| digits.parse().ok())
        .map_or(DEFAULT_BYTES, |bytes: usize| bytes.min(MAX_BODY_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_how_much() {
        let cases: [(&[u8], usize); 6] = [
            (b"/bytes/1024", 1024),
            (b"/bytes/7?x=1", 7),
            (b"/bytes/0", 0),
            (b"/", 12),
            (b"/bytes/x", 12),
            (b"/bytes/99999999999", MAX_BODY_BYTES),
        ];
        for (path, bytes) in cases {
            assert_eq!(wanted(path), bytes, "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn large_bodies_are_not_copied_into_heads() {
        let answers = Answers::new();
        let (small, large) = (answers.for_path(b"/bytes/3"), answers.for_path(b"/bytes/100000"));
        assert!(small.head.ends_with(b"content-length: 3\r\n\r\nxxx") && small.rest.is_empty());
        assert!(large.head.ends_with(b"\r\n\r\n") && large.rest.len() == 100_000);
        assert_eq!(answers.for_path(b"/bytes/100000").rest.as_ptr(), large.rest.as_ptr());
    }
}
