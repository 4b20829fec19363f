//! Changes to headers that routes ask for.

use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::http::h1::field::is_token;
use crate::http::headers::Headers;
use crate::observe::format::{Record, Template};

/// Most changes of one kind at one level.
const MAX_CHANGES: usize = 1000;

/// Fields that only the codecs may write.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What one level (route configuration, virtual host, route, cluster weight) does to headers.
#[derive(Clone, Debug, Default)]
pub struct HeaderChanges {
    add: Vec<Change>,
    remove: Vec<Box<[u8]>>,
}

#[derive(Clone, Debug)]
struct Change {
    name: Box<[u8]>,
    value: Template,
    action: Action,
    keep_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfPresent,
}

impl HeaderChanges {
    /// Compiles the two lists of a level; `kind` is `request` or `response`.
    pub(super) fn from_proto(
        add: &[core::HeaderValueOption],
        remove: &[String],
        kind: &str,
        path: &mut Path,
    ) -> Self {
        if add.len().max(remove.len()) > MAX_CHANGES {
            path.fault(format!("more than {MAX_CHANGES} {kind} header changes"));
        }
        let changes = add.iter().enumerate().filter_map(|(index, option)| {
            path.item(&format!("{kind}_headers_to_add"), index, |path| Change::from_proto(option, path))
        });
        let add = changes.collect();
        let names = remove.iter().enumerate().filter_map(|(index, name)| {
            path.item(&format!("{kind}_headers_to_remove"), index, |path| header_name(name, path))
        });
        Self { add, remove: names.collect() }
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// First removes what is to be removed.
    pub fn remove_from(&self, headers: &mut Headers) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// Then writes the values that depend on the request, all of them before any is added, as Envoy does. Values that
    /// are always the same cost nothing here.
    pub fn render(&self, record: &Record<'_>, values: &mut Values) {
        values.bytes.clear();
        values.ends.clear();
        for change in self.add.iter().filter(|change| change.value.as_literal().is_none()) {
            change.value.render_value(record, &mut values.bytes);
            values.ends.push(values.bytes.len());
        }
    }

    /// Then adds, with what [`Self::render`] wrote.
    pub fn add_to(&self, headers: &mut Headers, values: &Values) {
        let mut ends = values.ends.iter();
        let mut start = 0;
        for change in &self.add {
            let value = change.value.as_literal().unwrap_or_else(|| {
                let end = ends.next().copied().unwrap_or(start);
                let value = values.bytes.get(start..end).unwrap_or_default();
                start = end;
                value
            });
            change.add_to(headers, value);
        }
    }
}

/// The values of one level for one request; kept from level to level for its memory.
#[derive(Debug, Default)]
pub struct Values {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Change {
    fn from_proto(option: &core::HeaderValueOption, path: &mut Path) -> Option<Self> {
        let Some(header) = &option.header else {
            return path.field("header", |path| path.refuse("missing"));
        };
        let name = path.field("header.key", |path| header_name(&header.key, path))?;
        let value = path.field("header.value", |path| match Template::parse(&header.value) {
            Ok(value) => Some(value),
            Err(error) => path.refuse(error.to_string()),
        })?;
        if header.value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            path.fault_at("header.value", "holds a control character");
        }
        if option.append.is_some() && option.append_action != 0 {
            path.fault("append and append_action are both set");
        }
        let action = match (option.append, option.append_action()) {
            (Some(false), _) | (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Action::Overwrite,
            (Some(true), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => Action::Append,
            (None, HeaderAppendAction::AddIfAbsent) => Action::AddIfAbsent,
            (None, HeaderAppendAction::OverwriteIfExists) => Action::OverwriteIfPresent,
        };
        Some(Self { name, value, action, keep_empty: option.keep_empty_value })
    }

    fn add_to(&self, headers: &mut Headers, value: &[u8]) {
        if value.is_empty() && !self.keep_empty {
            return;
        }
        match self.action {
            Action::Append => headers.append(&self.name, value),
            Action::AddIfAbsent if !headers.contains(&self.name) => headers.append(&self.name, value),
            Action::Overwrite => headers.set(&self.name, value),
            Action::OverwriteIfPresent if headers.contains(&self.name) => headers.set(&self.name, value),
            Action::AddIfAbsent | Action::OverwriteIfPresent => {}
        }
    }
}

fn header_name(name: &str, path: &mut Path) -> Option<Box<[u8]>> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(':') || lower == "host" {
        return path
            .refuse(format!("\"{name}\" cannot be changed this way; use host_rewrite_literal for the host"));
    }
    if RESERVED.contains(&lower.as_str()) {
        return path.refuse(format!("\"{name}\" belongs to the connection and cannot be changed"));
    }
    if !is_token(lower.as_bytes()) {
        return path.refuse(format!("\"{name}\" is not a header name"));
    }
    Some(lower.into_bytes().into())
}

#[cfg(test)]
mod tests;
