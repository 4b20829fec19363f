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
        ("/a//../b", "/a/b"),
        ("//", "//"),
        ("/...;/a", "/...;/a"),
        ("/....%3b", "/....%3B"),
        ("/a;/../admin", "/admin"),
        ("/x/.;y/admin", "/x/admin"),
        ("/%5f%7E%2D", "/_~-"),
        ("/%F0%9f%98%80", "/%F0%9F%98%80"),
        ("/a?x=/../%zz\\", "/a?x=/../%zz\\"),
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
        ("/x/..%3b/admin", PathError::AmbiguousParameter),
        ("/x/%2e%2E%3Bx/admin", PathError::AmbiguousParameter),
        ("/;/admin", PathError::AmbiguousParameter),
        ("/a/;x=1/admin", PathError::AmbiguousParameter),
        ("/%3bx/admin", PathError::AmbiguousParameter),
        ("\\admin", PathError::NotAbsolute),
        ("admin", PathError::NotAbsolute),
        ("/admin#x", PathError::IllegalByte),
        ("/a?b#c", PathError::IllegalByte),
        ("/a b", PathError::IllegalByte),
        ("/a\tb", PathError::IllegalByte),
        ("/a\u{e4}", PathError::IllegalByte),
        ("/a?\u{e4}", PathError::IllegalByte),
        ("/%e0%80%af", PathError::NotUtf8),
        ("/%ed%a0%80", PathError::NotUtf8),
        ("/%f5%80%80%80", PathError::NotUtf8),
        ("/%e4%bd", PathError::NotUtf8),
        ("/%e4%bda", PathError::NotUtf8),
        ("/%80", PathError::NotUtf8),
        ("/%u002e", PathError::BadEscape),
        ("/%%32%65", PathError::BadEscape),
        ("/a%", PathError::BadEscape),
        ("/a%2", PathError::BadEscape),
        ("/a%zz", PathError::BadEscape),
    ] {
        assert_eq!(normal(path), Err(error), "{path}");
    }
}

#[test]
fn what_is_no_path_is_left_alone() {
    assert_eq!(normal("*").as_deref(), Ok("*"));
    assert_eq!(normal("").as_deref(), Ok(""));
}

#[test]
fn a_refused_path_stays_as_it_was() {
    let mut path = "/a/../%61%00".to_owned();
    assert_eq!(normalize(&mut path, PathOptions::default()), Err(PathError::Nul));
    assert_eq!(path, "/a/../%61%00");
}

/// The table of what a DENY rule on the prefix `/admin` must make of a path: `true` is denied, `false` is not.
#[test]
fn a_deny_prefix_sees_through_disguises() {
    for (path, denied) in [
        ("/admin", true),
        ("/./admin", true),
        ("/x/%2e%2e/admin", true),
        ("/x/%2E./admin", true),
        ("/%61dmin", true),
        ("/%61%64%6d%69%6E/x", true),
        ("/admin%20", true),
        ("/admin;x=1", true),
        ("/x/..;/admin", true),
        ("/x/%2e%2e;a/admin", true),
        ("/x\\..\\admin", true),
        ("/x/..\\admin", true),
        ("/../../admin", true),
        ("/Admin", false),
        ("/x/%252e%252e/admin", false),
    ] {
        assert_eq!(normal(path).unwrap().starts_with("/admin"), denied, "{path}");
    }
}

fn with(options: PathOptions, path: &str) -> Result<(String, Normalized), PathError> {
    let mut text = path.to_owned();
    normalize(&mut text, options).map(|done| (text, done))
}

const OFF: PathOptions =
    PathOptions { normalize: false, merge_slashes: false, escaped_slashes: EscapedSlashes::Default };

#[test]
fn without_normalisation_a_path_stays_as_it_is() {
    for path in ["/a/../%2fb\\", "/%61;/..;/%ff%c0", "/;//./%5c", "/%2F"] {
        assert_eq!(with(OFF, path), Ok((path.to_owned(), Normalized::Forward)), "{path}");
    }
    assert_eq!(with(OFF, "/a#"), Err(PathError::IllegalByte));
    assert_eq!(with(OFF, "/%0"), Err(PathError::BadEscape));
    let merge = PathOptions { merge_slashes: true, ..OFF };
    assert_eq!(with(merge, "//a/%2f///./?//").unwrap().0, "/a/%2f/./?//");
}

#[test]
fn escaped_slashes_are_treated_as_told() {
    use EscapedSlashes::{Keep, Reject, Unescape, UnescapeAndRedirect};
    let on = |escaped_slashes| PathOptions { escaped_slashes, ..PathOptions::default() };
    let off = |escaped_slashes| PathOptions { escaped_slashes, ..OFF };
    for (options, path, expected) in [
        (on(Keep), "/a%2fb%5c", Ok(("/a%2Fb%5C", Normalized::Forward))),
        (on(Keep), "/a/..%2fb", Ok(("/a/..%2Fb", Normalized::Forward))),
        (on(Reject), "/a%2fb", Err(PathError::EscapedSlash)),
        (on(Unescape), "/a/..%2fb", Ok(("/b", Normalized::Forward))),
        (on(Unescape), "/a/x%5C..%2fb", Ok(("/a/b", Normalized::Forward))),
        (on(UnescapeAndRedirect), "/a%2Fb?c%2f", Ok(("/a/b?c%2f", Normalized::Redirect))),
        (on(UnescapeAndRedirect), "/a/./b", Ok(("/a/b", Normalized::Forward))),
        (off(Reject), "/a%5Cb", Err(PathError::EscapedSlash)),
        (off(Unescape), "/%61/..%2fb%5c", Ok(("/%61/../b\\", Normalized::Forward))),
        (off(UnescapeAndRedirect), "/a%2f", Ok(("/a/", Normalized::Redirect))),
    ] {
        let expected = expected.map(|(path, done)| (path.to_owned(), done));
        assert_eq!(with(options, path), expected, "{path} {options:?}");
    }
    let merge = PathOptions { merge_slashes: true, ..on(Unescape) };
    assert_eq!(with(merge, "//a/%2F/b/").unwrap().0, "/a/b/");
    // As in Envoy, slashes are merged last: the empty segment is what `..` takes away.
    assert_eq!(with(merge, "/a//../b").unwrap().0, "/a/b");
}

/// The same by way of allocation and the letter of RFC 3986, to compare with.
fn plainly(path: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(next) = rest.chars().next() {
        rest = rest.get(1..)?;
        if next == '%' {
            let byte = u8::from_str_radix(rest.get(..2)?, 16).ok()?;
            rest = rest.get(2..)?;
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    decoded.push(char::from(byte))
                }
                _ => decoded.push_str(&format!("%{byte:02X}")),
            }
        } else {
            decoded.push(if next == '\\' { '/' } else { next });
        }
    }
    let segments: Vec<&str> = decoded.get(1..)?.split('/').collect();
    let mut kept: Vec<&str> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        match segment.split(';').next().unwrap() {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    Some(format!("/{}", kept.join("/")))
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing(
        path in "/([a./;\\\\?]|%25|%2[eEfF0]|%[46]1|%[cC]3%a4|%3[bB]|%5[cC]){0,20}",
        merge_slashes in any::<bool>(),
        normalize in any::<bool>(),
        escaped_slashes in prop_oneof![
            Just(EscapedSlashes::Default), Just(EscapedSlashes::Keep), Just(EscapedSlashes::Unescape)
        ],
    ) {
        let options = PathOptions { normalize, merge_slashes, escaped_slashes };
        if let Ok((once, _)) = with(options, &path) {
            prop_assert!(once.starts_with('/') && once.len() <= path.len());
            if normalize {
                for segment in once.split('?').next().unwrap().split('/') {
                    let name = segment.split(';').next().unwrap();
                    prop_assert!(name != "." && name != "..", "{}", once);
                }
            }
            prop_assert_eq!(with(options, &once), Ok((once, Normalized::Forward)));
        }
    }

    #[test]
    fn rewriting_in_place_agrees_with_the_plain_way(path in "/([a./\\\\]|;x|%2[eE0]|%[46]1|%[cC]3%a4){0,20}") {
        if let Ok((fast, _)) = with(PathOptions::default(), &path) {
            prop_assert_eq!(Some(fast), plainly(&path));
        }
    }

    #[test]
    fn any_text_never_panics(path in "/\\PC{0,60}", normalize in any::<bool>()) {
        let _ = with(PathOptions { normalize, ..OFF }, &path);
    }
}
