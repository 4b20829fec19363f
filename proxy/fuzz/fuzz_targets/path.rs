//! Path normalisation: what is done once needs no second time, no dot segment is left, the query stays.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::http::path::{EscapedSlashes, Normalized, PathOptions, normalize};

fuzz_target!(|data: (u8, &str)| {
    let (control, path) = data;
    let escaped_slashes = match control >> 2 & 7 {
        0 => EscapedSlashes::Keep,
        1 => EscapedSlashes::Reject,
        2 => EscapedSlashes::Unescape,
        3 => EscapedSlashes::UnescapeAndRedirect,
        _ => EscapedSlashes::Default,
    };
    let options =
        PathOptions { normalize: control & 1 != 0, merge_slashes: control & 2 != 0, escaped_slashes };
    let mut once = path.to_owned();
    if normalize(&mut once, options).is_err() {
        assert_eq!(once, path);
        return;
    }
    assert!(once.len() <= path.len());
    assert_eq!(once.split_once('?').map(|split| split.1), path.split_once('?').map(|split| split.1));
    let only = once.split('?').next().unwrap_or_default();
    if options.normalize {
        assert!(!only.contains('\\'));
        for segment in only.split('/') {
            assert!(!matches!(segment.split(';').next(), Some("." | "..")), "{once}");
        }
    }
    assert!(!options.merge_slashes || !only.contains("//"));
    let mut twice = once.clone();
    assert_eq!(normalize(&mut twice, options), Ok(Normalized::Forward));
    assert_eq!(once, twice);
});
