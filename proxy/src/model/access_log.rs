//! Where the lines of an access log go and what is in them.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::envoy::config::accesslog::v3 as pb;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use outrider_proto::envoy::extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log};
use outrider_proto::unpack;

use crate::observe::format::{LineFormat, Template};

/// Longest format string, in bytes.
const MAX_FORMAT_BYTES: usize = 16 * 1024;

/// A compiled access log.
#[derive(Debug)]
pub struct AccessLog {
    /// A path; `/dev/stdout` for standard output.
    pub destination: Arc<str>,
    /// The form of a line.
    pub format: LineFormat,
}

/// Compiles a list of access logs.
pub(super) fn compile(logs: &[pb::AccessLog], path: &mut Path) -> Vec<Arc<AccessLog>> {
    let compiled = logs.iter().enumerate().filter_map(|(index, log)| {
        path.item("access_log", index, |path| {
            let Some(pb::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
                return path.field("typed_config", |path| path.refuse("missing"));
            };
            path.field("typed_config", |path| one(any, path)).map(Arc::new)
        })
    });
    compiled.collect()
}

fn one(any: &prost_types::Any, path: &mut Path) -> Option<AccessLog> {
    if let Some(log) = unpack::<FileAccessLog>(any) {
        let destination = super::parse::required(&log.path, "path", path)?;
        let format = log.access_log_format.map(|file_access_log::AccessLogFormat::LogFormat(format)| format);
        return Some(AccessLog { destination, format: line_format(format.as_ref(), path)? });
    }
    if let Some(log) = unpack::<StdoutAccessLog>(any) {
        let format =
            log.access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
        return Some(AccessLog {
            destination: "/dev/stdout".into(),
            format: line_format(format.as_ref(), path)?,
        });
    }
    path.refuse(format!("\"{}\" is not an access log", any.type_url))
}

fn line_format(format: Option<&core::SubstitutionFormatString>, path: &mut Path) -> Option<LineFormat> {
    use core::substitution_format_string::Format;
    path.field("log_format", |path| match format.and_then(|format| format.format.as_ref()) {
        None => Some(LineFormat::envoy_default()),
        Some(Format::TextFormat(text)) => template(text, path).map(LineFormat::Text),
        Some(Format::TextFormatSource(source)) => {
            let bytes = super::parse::data_source(source, MAX_FORMAT_BYTES, path)?;
            match String::from_utf8(bytes) {
                Ok(text) => template(&text, path).map(LineFormat::Text),
                Err(_) => path.refuse("not UTF-8"),
            }
        }
        Some(Format::JsonFormat(fields)) => {
            let fields = fields.fields.iter().filter_map(|(key, value)| {
                path.field(&format!("json_format.{key}"), |path| match &value.kind {
                    Some(prost_types::value::Kind::StringValue(text)) => {
                        template(text, path).map(|template| (key.clone(), template))
                    }
                    _ => path.refuse("only strings are supported"),
                })
            });
            Some(LineFormat::Json(fields.collect()))
        }
    })
}

fn template(text: &str, path: &mut Path) -> Option<Template> {
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(error) => path.refuse(error.to_string()),
    }
}
