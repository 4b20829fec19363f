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

#[cfg(test)]
mod tests {
    use outrider_proto::envoy::config::route::v3 as pb;
    use outrider_proto::json;

    use super::*;
    use crate::http::message::RequestHead;
    use crate::model::{RouteAction, RouteTable};

    /// The path after the rewrite of a route with this match and this action.
    fn rewritten(rule: &str, action: &str, path: &str) -> Option<String> {
        let yaml = format!(
            "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {rule}, route: {{cluster: c, {action}}}}}]}}]"
        );
        let config: pb::RouteConfiguration = json::from_yaml(&yaml).unwrap();
        let table = RouteTable::from_proto(&config).unwrap();
        let head = RequestHead { path: path.into(), ..RequestHead::default() };
        let (_, route) = table.select(&head, 0).unwrap();
        let RouteAction::Forward(action) = &route.action else { panic!("a forward action") };
        rewrite(action.rewrite.as_ref().unwrap(), route, path)
    }

    #[test]
    fn a_prefix_rewrite_replaces_what_was_matched() {
        for (rule, to, path, expected) in [
            ("{prefix: /a/}", "/b/", "/a/c?q=/a/", "/b/c?q=/a/"),
            ("{prefix: /a}", "/", "/a/c", "//c"),
            ("{prefix: /a}", "/b", "/ac", "/bc"),
            ("{prefix: /A, case_sensitive: false}", "/b", "/a/c", "/b/c"),
            ("{path: /a}", "/b", "/a?q", "/b?q"),
            ("{path_separated_prefix: /a}", "/b/c", "/a/d", "/b/c/d"),
            ("{path_separated_prefix: /a}", "/b", "/a", "/b"),
            ("{safe_regex: {regex: '/a.*'}}", "/b", "/a/c/d?q", "/b?q"),
        ] {
            let found = rewritten(rule, &format!("prefix_rewrite: {to}"), path);
            assert_eq!(found.as_deref(), Some(expected), "{rule} {to} {path}");
        }
    }

    #[test]
    fn a_regex_rewrite_replaces_all_that_it_finds_before_the_query() {
        for (regex, substitution, path, expected) in [
            ("a", "b", "/a/a?a", Some("/b/b?a")),
            ("^/(x)/(y)", "/\\2/\\1", "/x/y/z", Some("/y/x/z")),
            ("^/(x)", "/\\0\\1", "/x", Some("//xx")),
            ("x", "$1", "/x", Some("/$1")),
            ("x", "\\\\", "/x", Some("/\\")),
            ("^/x", "y", "/x/z", None),
            ("z", "y", "/x", None),
        ] {
            let action =
                format!("regex_rewrite: {{pattern: {{regex: '{regex}'}}, substitution: '{substitution}'}}");
            let found = rewritten("{prefix: /}", &action, path);
            assert_eq!(found.as_deref(), expected, "{regex} {substitution} {path}");
        }
    }
}
