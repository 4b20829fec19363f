//! One file of YAML into the documents and objects in it, each on its own: a bad one takes no other with it.

use std::sync::Arc;

use outrider_proto::{Fault, yaml};
use serde_json::Value;

use crate::object::Place;

/// Most documents of a file, items of lists included.
const MAX_DOCUMENTS: usize = 100_000;

/// A document, or what is wrong with it.
pub(crate) type Document = (Place, Result<Value, Fault>);

/// The objects of a file; the items of a `List` are objects of their own.
pub(crate) fn documents(file: &Arc<str>, text: &str) -> Vec<Document> {
    let mut all = Vec::new();
    for (index, (line, text)) in split(text).into_iter().enumerate() {
        let place = Place { file: Arc::clone(file), document: index + 1, line };
        if all.len() >= MAX_DOCUMENTS {
            let reason = format!("more than {MAX_DOCUMENTS} documents; use several files");
            all.push((place, Err(Fault::new("", reason))));
            break;
        }
        match serde_saphyr::from_str_with_options::<Value>(&text, yaml::options()) {
            Ok(Value::Null) => {}
            Ok(value) => flatten(place, value, &mut all),
            Err(error) => all.push(syntax(place, &error)),
        }
    }
    all
}

fn flatten(place: Place, mut value: Value, all: &mut Vec<Document>) {
    let is_list = value.get("apiVersion").and_then(Value::as_str) == Some("v1")
        && value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match value.get_mut("items") {
        Some(Value::Array(items)) if is_list => {
            let items = std::mem::take(items);
            all.extend(items.into_iter().map(|item| (place.clone(), Ok(item))));
        }
        Some(_) | None => all.push((place, Ok(value))),
    }
}

/// The documents with their first lines. A line that begins with `---` and a blank, or is nothing else, separates
/// documents wherever it stands (YAML 1.2 section 9.1.2: no scalar may hold one), `...` ends one.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = Vec::new();
    let (mut current, mut first) = (String::new(), 1);
    for (index, line) in text.lines().enumerate() {
        let is_marker = |marker: &str| {
            line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        if is_marker("---") || is_marker("...") {
            documents.push((first, std::mem::take(&mut current)));
            first = index + 1;
            // What follows the marker on its line belongs to the document; blanks keep its column.
            current.push_str("   ");
            current.push_str(if is_marker("---") { line.get(3..).unwrap_or_default() } else { "" });
        } else {
            current.push_str(line);
        }
        current.push('\n');
    }
    documents.push((first, current));
    documents.retain(|(_, text)| {
        text.lines().any(|line| !matches!(line.trim_start().chars().next(), None | Some('#' | '%')))
    });
    for (first, text) in &mut documents {
        // The line of the first thing in it is more use than the line of the marker.
        let blank = |line: &&str| matches!(line.trim_start().chars().next(), None | Some('#' | '%'));
        *first += text.lines().take_while(blank).count();
        let begin = text.lines().take_while(blank).map(|line| line.len() + 1).sum();
        *text = text.split_off(begin);
    }
    documents
}

/// The line of the fault is more use than that of the document.
fn syntax(mut place: Place, error: &serde_saphyr::Error) -> Document {
    let at = yaml::place(error, place.line);
    let what = yaml::what(error, place.line);
    let reason = match at {
        None => format!("not valid YAML: {what}"),
        Some((line, column)) => {
            place.line = line;
            format!("not valid YAML: column {column}: {what}")
        }
    };
    (place, Err(Fault::new("", reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        documents(&"a.yaml".into(), text)
            .into_iter()
            .map(|(place, value)| match value {
                Ok(value) => format!("{}:{} {}", place.document, place.line, value["kind"]),
                Err(fault) => format!("{}:{} {fault}", place.document, place.line),
            })
            .collect()
    }

    #[test]
    fn documents_are_read_on_their_own() {
        let text = "# head\n---\nkind: A\n---\nkind: [\n---\n\n# c\nkind: C\n...\n--- {kind: D}\n---\n";
        let kinds = kinds(text);
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        assert_eq!((kinds[0].as_str(), kinds[2].as_str()), ("1:3 \"A\"", "3:9 \"C\""));
        assert!(kinds[1].starts_with("2:5 not valid YAML: column "), "{kinds:?}");
        assert_eq!(kinds[3], "4:11 \"D\"");
    }

    #[test]
    fn items_of_a_list_are_objects() {
        assert_eq!(
            kinds("apiVersion: v1\nkind: List\nitems: [{kind: A}, {kind: B}]"),
            ["1:1 \"A\"", "1:1 \"B\""]
        );
    }

    #[test]
    fn a_marker_inside_a_word_is_no_marker() {
        assert_eq!(kinds("kind: A\nb: |\n  ---\n  x\nc: a---b\n"), ["1:1 \"A\""]);
        assert_eq!(kinds("kind: A\n----: b\n"), ["1:1 \"A\""]);
    }

    #[test]
    fn a_key_twice_is_refused() {
        assert!(kinds("kind: A\nkind: B\n")[0].contains("uplicate"), "{:?}", kinds("kind: A\nkind: B\n"));
    }
}
