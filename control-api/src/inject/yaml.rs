//! Objects as YAML that every reader takes for the same, those of YAML 1.1 included: text is written bare only where it
//! cannot be anything else.

use serde_json::Value;

/// Words that some reader of YAML 1.1 or 1.2 takes for something other than text.
const WORDS: [&str; 12] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "none", "nan", "inf"];

/// A document, without a marker before it, with a line break at its end.
#[must_use]
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    if is_nested(value) {
        block(value, 0, &mut out);
    } else {
        out.push_str(&scalar(value));
        out.push('\n');
    }
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                out.push_str(&margin);
                out.push_str(&text(name));
                out.push(':');
                // Lists stand at the margin of their name, as is usual with Kubernetes.
                child(value, indent + if value.is_array() { 0 } else { 2 }, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(&margin);
                out.push('-');
                let from = out.len();
                if item.is_object() && is_nested(item) {
                    block(item, indent + 2, out);
                    // The first field stands behind the dash.
                    out.replace_range(from..from + indent + 2, " ");
                } else {
                    child(item, indent + 2, out);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What stands behind a name or a dash.
fn child(value: &Value, indent: usize, out: &mut String) {
    if is_nested(value) {
        out.push('\n');
        block(value, indent, out);
        return;
    }
    out.push(' ');
    match value.as_str() {
        Some(text) if is_literal(text) => literal(text, indent, out),
        Some(_) | None => out.push_str(&scalar(value)),
    }
    out.push('\n');
}

/// Whether lines of a text can be written as lines: nothing in them that a reader would change.
fn is_literal(text: &str) -> bool {
    let printable = |line: &str| {
        !line.ends_with([' ', '\t'])
            && line.chars().all(|letter| letter == '\t' || (' '..='~').contains(&letter))
    };
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && !text.ends_with("\n\n")
        && text.lines().all(printable)
        && !text.contains('\r')
}

fn literal(text: &str, indent: usize, out: &mut String) {
    out.push_str(if text.ends_with('\n') { "|" } else { "|-" });
    for line in text.lines() {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent.max(2)));
            out.push_str(line);
        }
    }
}

fn is_nested(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| !fields.is_empty())
        || value.as_array().is_some_and(|items| !items.is_empty())
}

/// Whatever is no text is written as JSON, which is YAML.
fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), text)
}

fn text(text: &str) -> String {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte));
    let word = WORDS.contains(&text.to_ascii_lowercase().as_str());
    if first && rest && !word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let value = json!({
            "a": {"b": [], "c": {}, "d": [1, {"x": 1, "y": [true]}, [2, [3]], null]},
            "lines": "one\n  two\n\nthree\n",
            "open": "one\ntwo",
            "odd": " lead\ntrail \n",
            "words": ["no", "Off", "1e3", "0x1", "-", "~", "a: b", "a #b", "", "12:30", "2001-01-01", "ü", "\u{1}"],
            "on": 1, "x y": 2, "nested": [[{"k": "v\nw\n"}]],
        });
        let written = write(&value);
        assert_eq!(serde_saphyr::from_str::<Value>(&written).unwrap(), value, "{written}");
        for value in [json!({}), json!([]), json!("a"), json!(null)] {
            assert_eq!(serde_saphyr::from_str::<Value>(&write(&value)).unwrap(), value);
        }
    }

    #[test]
    fn it_looks_as_one_writes_it() {
        let value = json!({"spec": {"containers": [{"args": ["a", "-b"], "name": "web"}], "on": "yes"}});
        let expected =
            "spec:\n  containers:\n  - args:\n    - a\n    - \"-b\"\n    name: web\n  \"on\": \"yes\"\n";
        assert_eq!(write(&value), expected);
    }
}
