//! No field of the subset is accepted and ignored: `docs/xds-fields.md` says where each is enforced, and this test
//! keeps it true.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use outrider_proto::fields::all_fields;

/// Fields that nothing has to read, each with the reason.
const NO_EFFECT: &[(&str, &str, &str)] = &[
    (
        "envoy.config.core.v3.ControlPlane",
        "identifier",
        "of the wire only: how a control server names itself",
    ),
    (
        "envoy.config.core.v3.ApiConfigSource",
        "api_type",
        "GRPC and DELTA_GRPC both mean delta ADS, the only transport",
    ),
    ("envoy.config.core.v3.ApiConfigSource", "set_node_on_first_message_only", "always so"),
    ("envoy.config.core.v3.ConfigSource", "resource_api_version", "only version 3 exists in the subset"),
    ("envoy.config.core.v3.SocketAddress", "protocol", "TCP is its only value"),
    ("envoy.type.matcher.v3.RegexMatcher", "google_re2", "the one engine there is"),
    ("envoy.config.core.v3.Node", "cluster", "told to the control server as it is"),
    ("envoy.config.core.v3.Node", "metadata", "told to the control server as it is"),
    ("envoy.config.core.v3.Node", "id", "told to the control server as it is"),
    (
        "envoy.config.accesslog.v3.AccessLog",
        "name",
        "for people, and may be missing as in Envoy; the type of typed_config decides",
    ),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources that read messages.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![top().join("proxy/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top()).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                let reads = ["/model/", "/control/", "/xds/", "/bootstrap/", "/run.rs"];
                // It reads our own part of the start-up file only, whose fields a test beside it looks after.
                let own = name.ends_with("/model/identity.rs");
                if !own && reads.iter().any(|part| name.contains(part)) {
                    found.push((name, code));
                }
            }
        }
    }
    found.sort();
    found
}

fn camel(name: &str) -> String {
    name.split('_').map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

/// Whether code reads a field: as a member, through its getter, or as a variant of its choice.
fn reads(code: &str, field: &str) -> bool {
    let raw = if matches!(field, "type" | "match") { format!(".r#{field}") } else { format!(".{field}") };
    let ends = |at: usize, len: usize| {
        !code[at + len..].starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
    };
    let member = code.match_indices(&raw).any(|(at, _)| ends(at, raw.len()));
    let variant = format!("::{}(", camel(field));
    member || code.contains(&variant) || code.contains(&format!("{field}:"))
}

#[test]
fn every_field_is_enforced_somewhere() {
    let sources = sources();
    let mut by_message: BTreeMap<String, Vec<(String, u32, String)>> = BTreeMap::new();
    let mut ignored = Vec::new();
    for field in all_fields() {
        if field.message.starts_with("envoy.service.discovery.") {
            continue;
        }
        let excuse =
            NO_EFFECT.iter().find(|(message, name, _)| *message == field.message && *name == field.field);
        let files: Vec<&str> = sources
            .iter()
            .filter(|(_, code)| reads(code, &field.field))
            .map(|(name, _)| name.as_str())
            .collect();
        let place = match excuse {
            Some((_, _, why)) => format!("no effect: {why}"),
            None if files.is_empty() => {
                ignored.push(format!("{}.{}", field.message, field.field));
                continue;
            }
            None => files.iter().map(|file| format!("`{file}`")).collect::<Vec<_>>().join(", "),
        };
        by_message.entry(field.message).or_default().push((field.field, field.number, place));
    }
    assert!(ignored.is_empty(), "accepted and ignored: {ignored:#?}");
    let mut page = String::from(
        "# The xDS subset\n\nEvery message and field that is accepted, and where it is enforced. What is not here is refused \
         by name. Made from the descriptors by `tests/tests/fields.rs`; `UPDATE_DOCS=1 cargo test -p outrider-tests --test \
         fields` writes it anew.\n",
    );
    for (message, mut fields) in by_message {
        fields.sort_by_key(|(_, number, _)| *number);
        let _ = writeln!(page, "\n## {message}\n\n| field | number | where |\n|---|---|---|");
        for (field, number, place) in fields {
            let _ = writeln!(page, "| `{field}` | {number} | {place} |");
        }
    }
    let file = top().join("docs/xds-fields.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &page).unwrap();
    }
    assert!(fs::read_to_string(&file).unwrap_or_default() == page, "stale: run with UPDATE_DOCS=1");
}
