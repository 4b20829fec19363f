//! Path normalisation, done once before anybody decides by the path.
//!
//! What comes out is what is matched, authorised, logged and forwarded, so that no two parties can read it
//! differently. What cannot be made unambiguous is refused.

/// What is done with `%2F` and `%5C` in a path (Envoy's `path_with_escaped_slashes_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay escaped.
    Keep,
    /// The request is refused; the default, because upstreams differ on what they mean.
    #[default]
    Reject,
    /// They become slashes, and the client is sent to the result.
    UnescapeAndRedirect,
    /// They become slashes.
    Unescape,
}

/// How paths are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathOptions {
    /// Whether at all (Envoy's `normalize_path`; here on unless it is turned off).
    pub normalize: bool,
    /// Whether `//` becomes `/` (Envoy's `merge_slashes`).
    pub merge_slashes: bool,
    /// What is done with escaped slashes.
    pub escaped_slashes: EscapedSlashes,
}

impl Default for PathOptions {
    fn default() -> Self {
        Self { normalize: true, merge_slashes: false, escaped_slashes: EscapedSlashes::default() }
    }
}

/// What is to be done with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalized {
    /// Go on with the path as it is now.
    Forward,
    /// Send the client to the path as it is now.
    Redirect,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `%` without two hex digits.
    #[error("malformed percent-encoding in the path")]
    BadEscape,
    /// `%00`.
    #[error("an escaped NUL in the path")]
    Nul,
    /// Escaped bytes that are no UTF-8.
    #[error("escaped bytes in the path are not UTF-8")]
    NotUtf8,
    /// `%2F` or `%5C`.
    #[error("an escaped slash in the path")]
    EscapedSlash,
}

/// Normalises the path part of `target`, the query behind it untouched.
///
/// # Errors
/// When the path must be refused.
pub fn normalize(target: &mut String, options: PathOptions) -> Result<Normalized, PathError> {
    if !target.starts_with('/') {
        return Ok(Normalized::Forward);
    }
    let path_len = target.find('?').unwrap_or(target.len());
    let path = target.as_bytes().get(..path_len).unwrap_or_default();
    if is_clean(path, options) {
        return Ok(Normalized::Forward);
    }
    let mut redirect = false;
    let decoded = decode(path, options, &mut redirect)?;
    let mut clean = if options.normalize { resolve(&decoded, options.merge_slashes) } else { decoded };
    if options.merge_slashes && !options.normalize {
        clean = resolve_slashes(&clean);
    }
    let clean = String::from_utf8(clean).map_err(|_| PathError::NotUtf8)?;
    target.replace_range(..path_len, &clean);
    Ok(if redirect { Normalized::Redirect } else { Normalized::Forward })
}

/// Whether there is nothing that any step would look at twice.
fn is_clean(path: &[u8], options: PathOptions) -> bool {
    let mut previous = 0;
    for byte in path {
        let suspicious = match byte {
            b'%' => true,
            b'\\' | b'.' if !options.normalize => false,
            b'\\' => true,
            b'.' => previous == b'/',
            b'/' => options.merge_slashes && previous == b'/',
            _ => false,
        };
        if suspicious {
            return false;
        }
        previous = *byte;
    }
    true
}

/// Undoes the escapes that mean the same unescaped, and writes the others in upper case (RFC 3986 section 6.2.2).
fn decode(path: &[u8], options: PathOptions, redirect: &mut bool) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut run = Vec::new();
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            check_run(&mut run)?;
            out.push(if *byte == b'\\' && options.normalize { b'/' } else { *byte });
            continue;
        }
        let (high, low) = match after {
            [high, low, ..] => (hex(*high)?, hex(*low)?),
            _ => return Err(PathError::BadEscape),
        };
        rest = after.get(2..).unwrap_or_default();
        let byte = high << 4 | low;
        if byte >= 0x80 {
            run.push(byte);
        } else {
            check_run(&mut run)?;
        }
        match byte {
            0 => return Err(PathError::Nul),
            b'/' | b'\\' => match options.escaped_slashes {
                EscapedSlashes::Keep => escape(byte, &mut out),
                EscapedSlashes::Reject if options.normalize => return Err(PathError::EscapedSlash),
                EscapedSlashes::Reject => escape(byte, &mut out),
                EscapedSlashes::Unescape => out.push(b'/'),
                EscapedSlashes::UnescapeAndRedirect => {
                    *redirect = true;
                    out.push(b'/');
                }
            },
            byte if options.normalize && is_unreserved(byte) => out.push(byte),
            byte => escape(byte, &mut out),
        }
    }
    check_run(&mut run)?;
    Ok(out)
}

fn check_run(run: &mut Vec<u8>) -> Result<(), PathError> {
    let valid = std::str::from_utf8(run).is_ok();
    run.clear();
    if valid { Ok(()) } else { Err(PathError::NotUtf8) }
}

/// Removes dot segments (RFC 3986 section 5.2.4). A parameter on one (`..;x`) does not hide it: some servers
/// cut parameters off before they resolve.
fn resolve(path: &[u8], merge_slashes: bool) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.get(1..).unwrap_or_default().split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        match name {
            b"." if last => out.push(b'/'),
            b"." => {}
            b".." => {
                let parent = out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.truncate(parent);
                if last {
                    out.push(b'/');
                }
            }
            _ if segment.is_empty() && merge_slashes && !last => {}
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    if merge_slashes { resolve_slashes(&out) } else { out }
}

fn resolve_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for byte in path {
        if *byte != b'/' || out.last() != Some(&b'/') {
            out.push(*byte);
        }
    }
    out
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const fn hex(digit: u8) -> Result<u8, PathError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(PathError::BadEscape),
    }
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'%');
    out.extend(DIGITS.get(usize::from(byte >> 4)));
    out.extend(DIGITS.get(usize::from(byte & 15)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> Result<String, PathError> {
        let mut text = path.to_owned();
        normalize(&mut text, PathOptions::default()).map(|_| text)
    }

    #[test]
    fn disguises_of_a_path_come_out_as_that_path() {
        for (path, expected) in [
            ("/admin", "/admin"),
            ("/./admin", "/admin"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/admin%20", "/admin%20"),
            ("/admin;x=1", "/admin;x=1"),
            ("/x/..;/admin", "/admin"),
            ("/x/..;a=b/admin?q=%2e%2F", "/admin?q=%2e%2F"),
            ("/x\\..\\admin", "/admin"),
            ("/Admin", "/Admin"),
            ("/x/%252e%252e/admin", "/x/%252e%252e/admin"),
            ("/../../a", "/a"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/.well-known", "/.well-known"),
            ("/a//b", "/a//b"),
            ("/%e4%bd%a0%3f", "/%E4%BD%A0%3F"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (path, error) in [
            ("/x/..%2fadmin", PathError::EscapedSlash),
            ("/%5c%2e%2e/admin", PathError::EscapedSlash),
            ("/%c0%ae%c0%ae/admin", PathError::NotUtf8),
            ("/%ff", PathError::NotUtf8),
            ("/a%00", PathError::Nul),
            ("/a%", PathError::BadEscape),
            ("/a%2", PathError::BadEscape),
            ("/a%zz", PathError::BadEscape),
        ] {
            assert_eq!(normal(path), Err(error), "{path}");
        }
    }

    #[test]
    fn options_are_followed() {
        let with = |options: PathOptions, path: &str| {
            let mut text = path.to_owned();
            normalize(&mut text, options).map(|done| (text, done))
        };
        let off = PathOptions { normalize: false, ..PathOptions::default() };
        assert_eq!(with(off, "/a/../%2fb\\").unwrap(), ("/a/../%2Fb\\".to_owned(), Normalized::Forward));
        let merge = PathOptions { merge_slashes: true, ..PathOptions::default() };
        assert_eq!(with(merge, "//a///b/").unwrap().0, "/a/b/");
        let keep = PathOptions { escaped_slashes: EscapedSlashes::Keep, ..PathOptions::default() };
        assert_eq!(with(keep, "/a%2fb").unwrap().0, "/a%2Fb");
        let unescape = PathOptions { escaped_slashes: EscapedSlashes::Unescape, ..PathOptions::default() };
        assert_eq!(with(unescape, "/a/..%2fb").unwrap().0, "/b");
        let redirect =
            PathOptions { escaped_slashes: EscapedSlashes::UnescapeAndRedirect, ..PathOptions::default() };
        assert_eq!(with(redirect, "/a%2Fb?c").unwrap(), ("/a/b?c".to_owned(), Normalized::Redirect));
        assert_eq!(with(redirect, "/ab").unwrap().1, Normalized::Forward);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/([a./;%25\\\\]|%2[eEfF0]|%[46]1){0,20}", merge in any::<bool>()) {
            let options = PathOptions { merge_slashes: merge, escaped_slashes: EscapedSlashes::Unescape, normalize: true };
            let mut once = path;
            if normalize(&mut once, options).is_ok() {
                prop_assert!(once.starts_with('/'));
                for segment in once.split('/') {
                    let name = segment.split(';').next().unwrap();
                    prop_assert!(name != "." && name != "..", "{}", once);
                }
                let mut twice = once.clone();
                prop_assert!(normalize(&mut twice, options).is_ok());
                prop_assert_eq!(once, twice);
            }
        }
    }
}
