//! `outrider validate`: reads and compiles a directory as the server would, and keeps nothing but what is wrong.

use std::io;
use std::path::Path;

use outrider_proto::Fault;

use crate::compile::revocations::OTHER_TRUST_DOMAIN;
use crate::compile::status::{Condition, ConditionKind};
use crate::compile::{Mesh, Settings};
use crate::object::{Key, ObjectKind};
use crate::source::files::Directory;
use crate::source::{Diagnostic, InForce, Severity};

/// What was found.
#[derive(Debug)]
pub(super) struct Report {
    /// How many objects are good in themselves.
    pub(super) objects: usize,
    /// What is wrong, in the order of files and lines.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// How many errors there are, warnings not counted.
    pub(super) fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|one| one.severity == Severity::Error).count()
    }
}

/// Looks at a directory.
///
/// # Errors
/// When it cannot be read at all.
pub(super) fn run(dir: &Path, settings: Settings) -> io::Result<Report> {
    let view = Directory::new(dir).scan()?;
    let objects = view.objects.len() - view.denials;
    let mesh = Mesh::with_settings(view.objects, settings);
    let mut diagnostics = Vec::clone(&view.diagnostics);
    for (key, status) in mesh.statuses().iter() {
        diagnostics
            .extend(status.problems().filter_map(|(parent, one)| of_condition(&mesh, key, parent, one)));
    }
    diagnostics.sort_by(|left, right| left.place.cmp(&right.place));
    Ok(Report { objects, diagnostics })
}

fn of_condition(mesh: &Mesh, key: &Key, parent: &str, condition: &Condition) -> Option<Diagnostic> {
    let (severity, rule) = match condition.kind {
        ConditionKind::Accepted => (Severity::Error, "not-accepted"),
        ConditionKind::ResolvedRefs => (Severity::Error, "unresolved-reference"),
        // Of a service: it works, but not for all of its endpoints; of workloads in one place one does. A trust domain may
        // be known to some proxies. Of others: what was asked for is not there.
        ConditionKind::PartiallyInvalid
            if matches!(key.kind, ObjectKind::Service | ObjectKind::Workload)
                || condition.reason == OTHER_TRUST_DOMAIN =>
        {
            (Severity::Warning, "partly-without-effect")
        }
        ConditionKind::PartiallyInvalid => (Severity::Error, "partly-without-effect"),
    };
    let of_parent = if parent.is_empty() { String::new() } else { format!(" (for {parent})") };
    Some(Diagnostic {
        place: mesh.objects().object(key)?.place().clone(),
        object: Some(key.clone()),
        fault: Fault::new("", format!("{}: {}{of_parent}", condition.reason, condition.message)),
        severity,
        in_force: InForce::Nothing,
        rule,
    })
}
