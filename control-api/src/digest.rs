//! Digests: what tells that two contents are the same.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

/// The bytes of a SHA-256.
pub type Digest = [u8; 32];

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut result = [0; 32];
    for (to, from) in result.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    result
}

/// The first 16 bytes in hexadecimal digits: short enough for a log line, long enough never to meet by accident.
#[must_use]
pub fn short(bytes: &[u8]) -> String {
    sha256(bytes).iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
