//! Texts of HTTP that objects hold: what a proxy would refuse is refused here already, at the field that says it.

use outrider_proto::Path;

/// Headers that belong to a connection: no rule may change them.
const RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that rules cannot look at: most are gone before a rule is asked.
const NOT_MATCHED: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];
/// Longest regular expression, bytes.
const MAX_REGEX_BYTES: usize = 1024;
/// Most memory of a compiled regular expression, bytes: half of the proxy's own limit, because two may become one.
const MAX_REGEX_SIZE_BYTES: usize = 1 << 19;

/// Whether a text is a token (RFC 9110 section 5.6.2), as the name of a header must be.
#[must_use]
pub(super) fn is_token(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(inner)
}

/// What is wrong with the name of a header that a rule looks at, if anything is.
pub(super) fn matched_header_fault(name: &str) -> Option<&'static str> {
    if !is_token(name) {
        Some("not the name of a header")
    } else if NOT_MATCHED.iter().any(|other| name.eq_ignore_ascii_case(other)) {
        Some("belongs to the connection and cannot be matched")
    } else {
        None
    }
}

/// The name of a header that a rule changes.
pub(super) fn check_changed_header(name: &str, field: &str, path: &mut Path) {
    if !is_token(name) {
        path.fault_at(field, "not the name of a header");
    } else if name.eq_ignore_ascii_case("host") {
        path.fault_at(field, "cannot be changed; to change the host use URLRewrite");
    } else if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        path.fault_at(field, "belongs to the connection and cannot be changed");
    }
}

/// The value of a header (RFC 9110 section 5.5).
pub(super) fn check_header_value(value: &str, field: &str, path: &mut Path) {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        path.fault_at(field, "must not hold line breaks or other control characters");
    }
}

/// A path that requests are compared with: normalised, as theirs are.
pub(super) fn check_path(text: &str, field: &str, path: &mut Path) {
    if !text.starts_with('/') || text.contains(['?', '#', ' ']) || text.chars().any(char::is_control) {
        path.fault_at(field, "must begin with \"/\" and hold no \"?\", \"#\" or blank");
    } else if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        path.fault_at(field, "must be normal: no \"//\", \"/./\" or \"/../\"");
    }
}

/// A path that takes the place of another: it goes onto the wire as it is.
pub(super) fn check_new_path(text: &str, field: &str, path: &mut Path) {
    check_path(text, field, path);
    if !text.is_ascii() {
        path.fault_at(field, "characters outside of ASCII must be escaped, for example %C3%A9");
    }
}

/// A regular expression that the proxy can compile within its limits.
pub(super) fn check_regex(text: &str, field: &str, path: &mut Path) {
    if text.is_empty() {
        path.fault_at(field, "an empty regular expression; to match anything write .*");
        return;
    }
    if text.len() > MAX_REGEX_BYTES {
        path.fault_at(field, format!("a regular expression of more than {MAX_REGEX_BYTES} bytes"));
        return;
    }
    let build = |text: &str| regex::RegexBuilder::new(text).size_limit(MAX_REGEX_SIZE_BYTES).build();
    // By itself first: `a)|(b` would become an expression only by being put in brackets. Then as the proxy has it.
    if let Err(error) = build(text).and_then(|_| build(&format!("^(?:{text})$"))) {
        let reason = error.to_string();
        let last = reason.lines().last().unwrap_or_default();
        path.fault_at(field, format!("not a regular expression: {}", last.trim()));
    }
}
