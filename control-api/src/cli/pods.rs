//! `outrider inject`, `outrider uninject` and `outrider audit`: what the webhooks do, to files.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::{FOUND, OK, cluster};
use crate::audit::{self, Exemption, Level, report};
use crate::compile::Settings;
use crate::inject::manifest::{self, Note};
use crate::inject::{Surroundings, flags, yaml};
use crate::segment;
use crate::source::files::Directory;
use crate::webhook::configuration::Registered;

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What `outrider inject` is told.
#[derive(Args, Debug)]
pub(super) struct Inject {
    /// A file with manifests; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The roots of the mesh (PEM): `ca.pem` in the state of the control server.
    #[arg(long, value_name = "FILE")]
    roots: PathBuf,
    /// The namespace of objects that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// The trust domain of the mesh.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// The namespace of the control server.
    #[arg(long, value_name = "NAME", default_value = "outrider-system")]
    root_namespace: String,
    #[command(flatten)]
    flags: flags::Flags,
}

/// What `outrider uninject` is told.
#[derive(Args, Debug)]
pub(super) struct Uninject {
    /// A file with manifests; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

/// What `outrider audit` is told.
#[derive(Args, Debug)]
pub(super) struct Audit {
    /// Files with manifests; `-` reads standard input, for example from `kubectl get pods -A -o yaml`.
    #[arg(value_name = "FILE", required_unless_present = "kube")]
    files: Vec<PathBuf>,
    /// The pods of a cluster, and what makes pods there: of the one that `--kubeconfig` or `KUBECONFIG` names, or of the
    /// one that this runs in.
    #[arg(long, conflicts_with = "files")]
    kube: bool,
    /// Where the cluster is.
    #[arg(long, value_name = "FILE", requires = "kube")]
    kubeconfig: Option<PathBuf>,
    /// Of one namespace only.
    #[arg(short, long, value_name = "NAME", requires = "kube")]
    namespace: Option<String>,
    /// How much is asked of pods.
    #[arg(long, value_enum, default_value_t = Level::Restricted)]
    level: Level,
    /// The form of the report.
    #[arg(short, long, value_enum, default_value_t = report::Form::Text)]
    output: report::Form,
    /// Rules that do not hold for the pods of a service account (`*`: of all in the namespace); may be repeated.
    #[arg(long, value_name = "NAMESPACE/ACCOUNT=RULE,RULE")]
    exempt: Vec<Exemption>,
    /// The image of the mesh's own init containers, whose `NET_ADMIN` is let pass: the one that pods were injected with.
    #[arg(long, value_name = "IMAGE", default_value = flags::SIDECAR_IMAGE)]
    sidecar_image: String,
}

pub(super) fn inject(asked: &Inject, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let roots = read(&asked.roots)?;
    let settings = asked.flags.settings((&asked.trust_domain, &asked.root_namespace), &roots);
    let settings = settings.map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        invalid(&faults.join("; "))
    })?;
    let around =
        Surroundings { namespace: asked.namespace.clone(), unless_said: true, ..Surroundings::default() };
    let done = manifest::inject_all(&read(&asked.file)?, &around, &settings);
    tell(done.map_err(|error| named(&asked.file, &error))?, out, err)
}

pub(super) fn uninject(asked: &Uninject, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let done = manifest::uninject_all(&read(&asked.file)?);
    tell(done.map_err(|error| named(&asked.file, &error))?, out, err)
}

pub(super) fn audit(asked: &Audit, out: &mut dyn Write) -> io::Result<u8> {
    let mut all = Vec::new();
    let given = (asked.level, asked.exempt.as_slice(), Some(asked.sidecar_image.as_str()));
    if asked.kube {
        let found = cluster::pods(asked.kubeconfig.as_deref(), asked.namespace.as_deref());
        for object in found.map_err(|error| invalid(&error.to_string()))? {
            all.extend(audit::audit_value(("kubernetes", 0), &object, given));
        }
    }
    for file in &asked.files {
        let audited = audit::audit_text(&file.display().to_string(), &read(file)?, given);
        all.extend(audited.map_err(|error| invalid(&error))?);
    }
    report::write(&all, asked.output, out)?;
    Ok(if all.iter().any(|audited| !audited.findings.is_empty()) { FOUND } else { OK })
}

/// What `outrider webhooks` is told.
#[derive(Args, Debug)]
pub(super) struct Webhooks {
    /// The roots that the webhook is verified with (PEM): `ca.pem` in the state of the control server. It puts them there
    /// itself when it runs with `--kubernetes`.
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The namespace of the control server.
    #[arg(long, value_name = "NAME", default_value = "outrider-system")]
    root_namespace: String,
    /// Pods come without a sidecar, and without the audit, while the control server does not answer.
    #[arg(long)]
    fail_open: bool,
}

pub(super) fn webhooks(asked: &Webhooks, out: &mut dyn Write) -> io::Result<u8> {
    let roots = asked.roots.as_deref().map(certificates).transpose()?;
    let registered = Registered {
        root_namespace: &asked.root_namespace,
        roots: roots.as_deref(),
        fail_closed: !asked.fail_open,
    };
    for object in registered.objects() {
        write!(out, "---\n{}", yaml::write(&object))?;
    }
    Ok(OK)
}

fn certificates(file: &Path) -> io::Result<String> {
    let roots = read(file)?;
    if !roots.contains("-----BEGIN CERTIFICATE-----") || roots.contains("PRIVATE KEY") {
        return Err(named(file, &"not certificates in PEM and nothing else"));
    }
    Ok(roots)
}

/// The manifests go where they can be piped on, what was done with them beside that.
fn tell((text, notes): (String, Vec<Note>), out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    out.write_all(text.as_bytes())?;
    for note in notes {
        writeln!(err, "{}: {}", note.object, note.done)?;
    }
    Ok(OK)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limited = |from: Box<dyn Read>, text: &mut String| from.take(MAX_FILE_BYTES + 1).read_to_string(text);
    let from: io::Result<Box<dyn Read>> = if file == Path::new("-") {
        Ok(Box::new(io::stdin()))
    } else {
        std::fs::File::open(file).map(|file| Box::new(file) as Box<dyn Read>)
    };
    let bytes = from
        .and_then(|from| limited(from, &mut text))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    if bytes as u64 > MAX_FILE_BYTES {
        return Err(invalid(&format!("{}: more than {MAX_FILE_BYTES} bytes", file.display())));
    }
    Ok(text)
}

fn named(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    invalid(&format!("{}: {error}", file.display()))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// What `outrider policy` is asked for.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Policy {
    /// The network policies that go with the mesh's own, for `kubectl apply -f -`: who may call whom, default deny in both
    /// directions.
    ///
    /// For each namespace a policy that lets its pods reach DNS and the control server, and nothing else; for each service
    /// who may call it, as the authorization policies say; for all who may call, where they may go; for each `EgressPolicy`
    /// the addresses that it opens. Where no authorization policy says who calls a service, its default holds: with
    /// `AllowMesh`, which is the default of defaults, every pod of the mesh may. Callers are known by namespace, and by the
    /// labels of the pods of a service account where DIR has the pods (`kubectl get pods -A -o yaml`). Routes open nothing:
    /// where a route leads to another service, that one's policies say who may come. Names in an `EgressPolicy` are not
    /// opened, and are told on standard error. Namespaces that DIR does not tell of are left alone.
    Network {
        /// The directory with the mesh's objects.
        dir: PathBuf,
        /// Only the policies in this namespace; may be repeated.
        #[arg(short, long, value_name = "NAME")]
        namespace: Vec<String>,
        /// The trust domain of the mesh.
        #[arg(long, value_name = "NAME", default_value = "cluster.local")]
        trust_domain: String,
        /// The namespace whose policies hold for the whole mesh.
        #[arg(long, value_name = "NAME", default_value = "outrider-system")]
        root_namespace: String,
    },
}

/// Nothing is written when an object cannot be read: a policy that is missing would let nobody, or everybody, in.
pub(super) fn policy(asked: &Policy, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let Policy::Network { dir, namespace, trust_domain, root_namespace } = asked;
    let view = Directory::new(dir).scan()?;
    if !view.diagnostics.is_empty() {
        for diagnostic in view.diagnostics.iter() {
            writeln!(err, "{diagnostic}")?;
        }
        return Ok(FOUND);
    }
    let settings = Settings {
        trust_domain: trust_domain.clone(),
        root_namespace: root_namespace.clone(),
        ..Settings::default()
    };
    let made = segment::network_policies(&view.objects, &settings);
    for note in made.notes {
        writeln!(err, "{note}")?;
    }
    for object in made.policies {
        let of = object.pointer("/metadata/namespace").and_then(Value::as_str);
        if namespace.is_empty() || namespace.iter().any(|wanted| Some(wanted.as_str()) == of) {
            write!(out, "---\n{}", yaml::write(&object))?;
        }
    }
    Ok(OK)
}
