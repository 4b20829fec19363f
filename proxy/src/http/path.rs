//! Path normalisation, done once before anybody decides by the path.
//!
//! What comes out is what is matched, authorised, logged and forwarded, so that no two parties can read it
//! differently. What cannot be made unambiguous is refused. There is no second view for matching: a parameter
//! (`/admin;x=1`) stays where it is, so a rule on the prefix `/admin` sees it; a parameter on a dot segment
//! (`/x/..;/admin`) does not hide the segment; and one that stands for a whole segment (`/;x/admin`), or is
//! escaped behind dots (`/x/..%3b/admin`), is refused, because some servers cut it off before they resolve.
//!
//! The order is Envoy's: escaped slashes, then dot segments, then repeated slashes.

/// What is done with `%2F` and `%5C` in a path (Envoy's `path_with_escaped_slashes_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// [`EscapedSlashes::Reject`] where paths are normalised, because upstreams differ on what they mean, and
    /// [`EscapedSlashes::Keep`] where they are not (`IMPLEMENTATION_SPECIFIC_DEFAULT`).
    #[default]
    Default,
    /// They stay escaped.
    Keep,
    /// The request is refused.
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
    /// Neither `/...` nor `*`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A control character, a space, `"`, `#`, `<`, `>`, or what is not ASCII: never in a URI as it is (RFC 3986).
    #[error("an illegal character in the path")]
    IllegalByte,
    /// `%` without two hex digits.
    #[error("malformed percent-encoding in the path")]
    BadEscape,
    /// `%00`.
    #[error("an escaped NUL in the path")]
    Nul,
    /// Escaped bytes that are no UTF-8, overlong forms included.
    #[error("escaped bytes in the path are not UTF-8")]
    NotUtf8,
    /// `%2F` or `%5C`.
    #[error("an escaped slash in the path")]
    EscapedSlash,
    /// A segment that some servers read as a dot segment or as none, and others as a name.
    #[error("an ambiguous path parameter")]
    AmbiguousParameter,
}

/// Normalises the path part of `target` in place, the query behind it untouched. A path that is clean already
/// costs one look at each byte. Doing it twice changes nothing.
///
/// # Errors
/// When the path must be refused; `target` is then as it was.
pub fn normalize(target: &mut String, options: PathOptions) -> Result<Normalized, PathError> {
    if target.is_empty() || target == "*" {
        return Ok(Normalized::Forward);
    }
    let path_len = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
    let (path, query) = target.as_bytes().split_at_checked(path_len).unwrap_or_default();
    if path.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if query.iter().fold(false, |bad, byte| bad | !(0x21..0x7f).contains(byte) | (*byte == b'#')) {
        return Err(PathError::IllegalByte);
    }
    let found = scan(path, options)?;
    if found.is_clean {
        return Ok(Normalized::Forward);
    }
    let mut bytes = std::mem::take(target).into_bytes();
    let clean_len = rewrite(bytes.get_mut(..path_len).unwrap_or_default(), options);
    bytes.drain(clean_len..path_len);
    // The scan has let ASCII through only, and rewriting makes no other: nothing is ever lost here.
    *target = String::from_utf8(bytes).unwrap_or_default();
    let redirects = options.escaped_slashes == EscapedSlashes::UnescapeAndRedirect && found.has_escaped_slash;
    Ok(if redirects { Normalized::Redirect } else { Normalized::Forward })
}

/// What a look at a path has found.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// There is nothing to rewrite.
    is_clean: bool,
    has_escaped_slash: bool,
}

/// Refuses what must be refused, and says whether anything is left to do.
fn scan(path: &[u8], options: PathOptions) -> Result<Found, PathError> {
    let mut found = Found { is_clean: true, has_escaped_slash: false };
    // Dots that the segment begins with, as long as it holds nothing else.
    let mut dots = Some(0_usize);
    let mut previous = 0;
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'/' => {
                found.is_clean &= previous != b'/' || !options.merge_slashes;
                dots = Some(0);
            }
            b'\\' if options.normalize => {
                found.is_clean = false;
                dots = Some(0);
            }
            b'.' => {
                found.is_clean &= dots != Some(0) || !options.normalize;
                dots = dots.map(|count| count + 1);
            }
            b';' => {
                if options.normalize && dots == Some(0) {
                    return Err(PathError::AmbiguousParameter);
                }
                dots = None;
            }
            b'%' => {
                let escape = escape_at(rest, options)?;
                rest = rest.get(escape.len..).unwrap_or_default();
                found.is_clean &= escape.stays;
                found.has_escaped_slash |= escape.is_slash;
                dots = match escape.byte {
                    b'.' => dots.map(|count| count + 1),
                    b'/' | b'\\' if !escape.stays => Some(0),
                    b';' if options.normalize && dots.is_some_and(|count| count <= 2) => {
                        return Err(PathError::AmbiguousParameter);
                    }
                    _ => None,
                };
            }
            0..=b' ' | b'"' | b'#' | b'<' | b'>' | 0x7f.. => return Err(PathError::IllegalByte),
            _ => dots = None,
        }
        previous = *byte;
    }
    Ok(found)
}

/// What an escape is.
#[derive(Clone, Copy, Debug)]
struct Escape {
    /// How much follows the first `%`, in bytes: 2, or more for a character of several bytes.
    len: usize,
    /// The byte that it stands for; the first of several.
    byte: u8,
    /// It is written as it should be.
    stays: bool,
    is_slash: bool,
}

/// Reads the escape whose `%` stands before `rest`.
fn escape_at(rest: &[u8], options: PathOptions) -> Result<Escape, PathError> {
    let [high, low, ..] = rest else {
        return Err(PathError::BadEscape);
    };
    let byte = hex(*high)? << 4 | hex(*low)?;
    let is_upper = !high.is_ascii_lowercase() && !low.is_ascii_lowercase();
    let mut escape = Escape { len: 2, byte, stays: is_upper || !options.normalize, is_slash: false };
    match byte {
        0 => return Err(PathError::Nul),
        b'/' | b'\\' => {
            escape.is_slash = true;
            match options.escaped_slashes {
                EscapedSlashes::Default if options.normalize => return Err(PathError::EscapedSlash),
                EscapedSlashes::Reject => return Err(PathError::EscapedSlash),
                EscapedSlashes::Default | EscapedSlashes::Keep => {}
                EscapedSlashes::Unescape | EscapedSlashes::UnescapeAndRedirect => escape.stays = false,
            }
        }
        0x80.. if options.normalize => {
            let (len, is_upper) = character(byte, rest)?;
            escape.len = len;
            escape.stays = is_upper;
        }
        byte if options.normalize && is_unreserved(byte) => escape.stays = false,
        _ => {}
    }
    Ok(escape)
}

/// The length of the escapes of one character beyond ASCII whose first byte is `first`, without the first `%`,
/// and whether all their digits are upper case.
fn character(first: u8, rest: &[u8]) -> Result<(usize, bool), PathError> {
    let mut bytes = [first, 0, 0, 0];
    let count = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(PathError::NotUtf8),
    };
    for (place, escape) in bytes.iter_mut().zip(0..count).skip(1) {
        let [b'%', high, low] = rest.get(escape * 3 - 1..escape * 3 + 2).unwrap_or_default() else {
            return Err(PathError::NotUtf8);
        };
        *place = hex(*high)? << 4 | hex(*low)?;
    }
    if bytes.get(..count).is_none_or(|bytes| std::str::from_utf8(bytes).is_err()) {
        return Err(PathError::NotUtf8);
    }
    let len = count * 3 - 1;
    Ok((len, !rest.get(..len).unwrap_or_default().iter().any(u8::is_ascii_lowercase)))
}

/// Rewrites a path that [`scan`] has let through, and says how long it is now: never longer than it was.
fn rewrite(path: &mut [u8], options: PathOptions) -> usize {
    let mut len = decode(path, options);
    if options.normalize {
        len = resolve(path.get_mut(..len).unwrap_or_default());
    }
    if options.merge_slashes {
        len = merge(path.get_mut(..len).unwrap_or_default());
    }
    len
}

/// Undoes the escapes that mean the same unescaped, and writes the others in upper case (RFC 3986 section 6.2.2).
fn decode(path: &mut [u8], options: PathOptions) -> usize {
    let unescapes_slashes =
        matches!(options.escaped_slashes, EscapedSlashes::Unescape | EscapedSlashes::UnescapeAndRedirect);
    let (mut read, mut out) = (0, Out(0));
    while let Some(byte) = path.get(read).copied() {
        read += 1;
        let (b'%', Some([high, low])) = (byte, path.get(read..read + 2)) else {
            out.put(path, if byte == b'\\' && options.normalize { b'/' } else { byte });
            continue;
        };
        read += 2;
        let (high, low) = (*high, *low);
        let byte = hex(high).unwrap_or_default() << 4 | hex(low).unwrap_or_default();
        match byte {
            b'\\' if unescapes_slashes && !options.normalize => out.put(path, b'\\'),
            b'/' | b'\\' if unescapes_slashes => out.put(path, b'/'),
            byte if options.normalize && is_unreserved(byte) => out.put(path, byte),
            _ => {
                let upper = |digit: u8| {
                    if options.normalize { digit.to_ascii_uppercase() } else { digit }
                };
                out.put(path, b'%');
                out.put(path, upper(high));
                out.put(path, upper(low));
            }
        }
    }
    out.0
}

/// Removes dot segments (RFC 3986 section 5.2.4), those with a parameter (`..;x`) too.
fn resolve(path: &mut [u8]) -> usize {
    let (mut start, mut out) = (1, Out(0));
    loop {
        let rest = path.get(start..).unwrap_or_default();
        let segment_len = memchr::memchr(b'/', rest);
        let end = segment_len.map_or(path.len(), |len| start + len);
        let segment = path.get(start..end).unwrap_or_default();
        let name_len = memchr::memchr(b';', segment).unwrap_or(segment.len());
        let is_last = segment_len.is_none();
        match segment.get(..name_len).unwrap_or_default() {
            name @ (b"." | b"..") => {
                if name.len() == 2 {
                    out.0 = path.get(..out.0).and_then(|done| memchr::memrchr(b'/', done)).unwrap_or(0);
                }
                if is_last {
                    out.put(path, b'/');
                }
            }
            _ => {
                out.put(path, b'/');
                path.copy_within(start..end, out.0);
                out.0 += end - start;
            }
        }
        if is_last {
            break;
        }
        start = end + 1;
    }
    if out.0 == 0 {
        out.put(path, b'/');
    }
    out.0
}

fn merge(path: &mut [u8]) -> usize {
    let (mut out, mut previous) = (Out(0), 0);
    for read in 0..path.len() {
        let byte = path.get(read).copied().unwrap_or_default();
        if byte != b'/' || previous != b'/' {
            out.put(path, byte);
        }
        previous = byte;
    }
    out.0
}

/// Where the next byte goes in a slice that is rewritten from its front, never beyond where it is read.
struct Out(usize);

impl Out {
    fn put(&mut self, path: &mut [u8], byte: u8) {
        if let Some(place) = path.get_mut(self.0) {
            *place = byte;
            self.0 += 1;
        }
    }
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

#[cfg(test)]
mod tests;
