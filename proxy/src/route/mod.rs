//! What a matched route does to the path.

use crate::model::Route;
use crate::model::route::PathRewrite;

/// The path (with its query) after the rewrite; `None` when nothing changes or the result is no path.
#[must_use]
pub fn rewrite(rewrite: &PathRewrite, route: &Route, path: &str) -> Option<String> {
    let query_at = path.find('?').unwrap_or(path.len());
    let (only_path, query) = path.split_at_checked(query_at)?;
    let rewritten = match rewrite {
        PathRewrite::Prefix(prefix) => {
            let rest = only_path.get(route.matched_len(only_path)..)?;
            format!("{prefix}{rest}{query}")
        }
        PathRewrite::Regex(regex, substitution) => {
            let replaced = regex.replace_all(only_path.as_bytes(), &**substitution);
            format!("{}{query}", std::str::from_utf8(&replaced).ok()?)
        }
    };
    let legal = rewritten.starts_with('/')
        && rewritten.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#');
    (legal && rewritten != path).then_some(rewritten)
}
