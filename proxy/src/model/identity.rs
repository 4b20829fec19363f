//! `outrider.identity` of the start-up file, compiled: where the workload's own identity comes from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use outrider_proto::Path;
use outrider_proto::outrider::config::v1 as pb;

use super::parse;
use crate::identity::spiffe::{self, SpiffeId};

/// Shortest and longest life of an SVID that can be asked for.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most federated trust domains of the file source.
const MAX_FEDERATED: usize = 63;

/// Where the identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// The control server's certificate authority.
    Control(ControlSource),
    /// Files that somebody else keeps fresh.
    Files(FilesSource),
    /// A SPIFFE Workload API.
    WorkloadApi(WorkloadApiSource),
}

/// How the control server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSource {
    /// Name or IP address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub transport: ControlTransport,
    /// The file with the bearer token.
    pub token_file: PathBuf,
    /// The life to ask for.
    pub requested_ttl: Option<Duration>,
    /// The SPIFFE ID to ask for.
    pub spiffe_id: Option<String>,
}

/// How the control server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlTransport {
    /// Only ever to a loopback address.
    Plaintext,
    /// TLS 1.3.
    Tls {
        /// PEM file of the roots that the server is verified with.
        ca_file: PathBuf,
        /// The name that its certificate must have.
        server_name: String,
    },
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesSource {
    /// The SVID and its intermediates.
    pub certificate_chain: PathBuf,
    /// The SVID's key.
    pub private_key: PathBuf,
    /// Roots of the SVID's own trust domain.
    pub trust_bundle: PathBuf,
    /// Roots of others, by trust domain.
    pub federated: BTreeMap<String, PathBuf>,
}

/// A SPIFFE Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiSource {
    /// The path of its Unix socket.
    pub socket: PathBuf,
    /// Which of several identities; the first if not set.
    pub spiffe_id: Option<String>,
}

impl IdentitySource {
    /// Checks an `identity` block.
    ///
    /// Files need not be there yet: whoever writes them may start later than the proxy.
    pub fn from_proto(value: &pb::Identity, path: &mut Path) -> Option<Self> {
        match &value.source {
            Some(pb::identity::Source::Control(value)) => {
                path.field("control", |path| control(value, path)).map(Self::Control)
            }
            Some(pb::identity::Source::Files(value)) => {
                path.field("files", |path| files(value, path)).map(Self::Files)
            }
            Some(pb::identity::Source::WorkloadApi(value)) => {
                path.field("workload_api", |path| workload_api(value, path)).map(Self::WorkloadApi)
            }
            None => path.refuse("one of control, files, workload_api is needed"),
        }
    }
}

fn control(value: &pb::identity::Control, path: &mut Path) -> Option<ControlSource> {
    let address = path.field("address", |path| server(&value.address, path));
    let token_file = file(&value.token_file, "token_file", path);
    let requested_ttl = value.requested_ttl.as_ref().map(|ttl| {
        let asked = parse::duration(Some(ttl), MIN_TTL, "requested_ttl", path);
        if !(MIN_TTL..=MAX_TTL).contains(&asked) {
            path.fault_at("requested_ttl", "must be from one second to 30 days");
        }
        asked
    });
    let (secure, host, port) = address?;
    let transport = if secure {
        let ca_file = file(&value.ca_file, "ca_file", path)?;
        let server_name = Some(&value.server_name).filter(|name| !name.is_empty()).unwrap_or(&host).clone();
        ControlTransport::Tls { ca_file, server_name }
    } else {
        for (name, text) in [("ca_file", &value.ca_file), ("server_name", &value.server_name)] {
            if !text.is_empty() {
                path.fault_at(name, "is for https");
            }
        }
        if !is_loopback(&host) {
            path.fault_at("address", "the token would travel in plaintext; use https");
        }
        ControlTransport::Plaintext
    };
    let spiffe_id = spiffe_id(&value.spiffe_id, path);
    Some(ControlSource { host, port, transport, token_file: token_file?, requested_ttl, spiffe_id })
}

/// Whether TLS, the host without brackets, and the port.
fn server(address: &str, path: &mut Path) -> Option<(bool, String, u16)> {
    let form = "must be https://HOST:PORT, or http://HOST:PORT of a loopback address";
    let Ok(uri) = address.parse::<Uri>() else { return path.refuse(form) };
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return path.refuse(form),
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let port = uri.port_u16().filter(|port| *port > 0);
    let (Some(authority), Some(port), "/" | "", None) = (authority, port, uri.path(), uri.query()) else {
        return path.refuse(form);
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((secure, host, port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn files(value: &pb::identity::Files, path: &mut Path) -> Option<FilesSource> {
    let certificate_chain = file(&value.certificate_chain, "certificate_chain", path);
    let private_key = file(&value.private_key, "private_key", path);
    let trust_bundle = file(&value.trust_bundle, "trust_bundle", path);
    let mut federated = BTreeMap::new();
    path.field("federated_bundles", |path| {
        if value.federated_bundles.len() > MAX_FEDERATED {
            path.fault(format!("more than {MAX_FEDERATED} trust domains"));
        }
        for (domain, name) in &value.federated_bundles {
            path.key(domain, |path| {
                if let Err(error) = spiffe::check_trust_domain(domain) {
                    path.fault(format!("must be the name of a trust domain: {error}"));
                }
                if let Some(name) = file(name, "", path) {
                    federated.insert(domain.clone(), name);
                }
            });
        }
    });
    Some(FilesSource {
        certificate_chain: certificate_chain?,
        private_key: private_key?,
        trust_bundle: trust_bundle?,
        federated,
    })
}

fn workload_api(value: &pb::identity::WorkloadApi, path: &mut Path) -> Option<WorkloadApiSource> {
    let spiffe_id = spiffe_id(&value.spiffe_id, path);
    let socket = value.socket.strip_prefix("unix://").or_else(|| value.socket.strip_prefix("unix:"));
    match socket.filter(|socket| socket.starts_with('/')) {
        Some(socket) => Some(WorkloadApiSource { socket: socket.into(), spiffe_id }),
        None => path.field("socket", |path| path.refuse("must be unix:///PATH")),
    }
}

fn spiffe_id(text: &str, path: &mut Path) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if let Err(error) = SpiffeId::parse(text) {
        path.fault_at("spiffe_id", format!("must be spiffe://TRUST-DOMAIN/PATH: {error}"));
    }
    Some(text.to_owned())
}

fn file(name: &str, field: &str, path: &mut Path) -> Option<PathBuf> {
    if name.is_empty() {
        return path.field(field, |path| path.refuse("missing"));
    }
    Some(PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bootstrap::Bootstrap;
    use outrider_proto::envoy::config::bootstrap::v3 as envoy;
    use outrider_proto::json;

    fn read(identity: &str) -> Result<IdentitySource, String> {
        let join = |faults: Vec<outrider_proto::Fault>| {
            faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let yaml = format!("outrider: {{identity: {identity}}}");
        let message: envoy::Bootstrap = json::from_yaml(&yaml).map_err(join)?;
        Ok(Bootstrap::from_proto(message).map_err(join)?.identity.expect("an identity source"))
    }

    /// All fields set; each is seen in what is compiled.
    const FULL: [&str; 3] = [
        r#"{"control": {"address": "https://c.test:15012", "token_file": "/t", "ca_file": "/c", "server_name": "s",
            "requested_ttl": "60s", "spiffe_id": "spiffe://a/b"}}"#,
        r#"{"files": {"certificate_chain": "/c", "private_key": "/k", "trust_bundle": "/b",
            "federated_bundles": {"o.test": "/o"}}}"#,
        r#"{"workload_api": {"socket": "unix:///s", "spiffe_id": "spiffe://a/b"}}"#,
    ];

    #[test]
    fn sources_are_read() {
        assert_eq!(
            read(FULL[0]).unwrap(),
            IdentitySource::Control(ControlSource {
                host: "c.test".into(),
                port: 15012,
                transport: ControlTransport::Tls { ca_file: "/c".into(), server_name: "s".into() },
                token_file: "/t".into(),
                requested_ttl: Some(Duration::from_secs(60)),
                spiffe_id: Some("spiffe://a/b".into()),
            })
        );
        assert_eq!(
            read(FULL[1]).unwrap(),
            IdentitySource::Files(FilesSource {
                certificate_chain: "/c".into(),
                private_key: "/k".into(),
                trust_bundle: "/b".into(),
                federated: BTreeMap::from([("o.test".into(), "/o".into())]),
            })
        );
        let source = WorkloadApiSource { socket: "/s".into(), spiffe_id: Some("spiffe://a/b".into()) };
        assert_eq!(read(FULL[2]).unwrap(), IdentitySource::WorkloadApi(source));
    }

    #[test]
    fn no_field_can_be_taken_away_unnoticed() {
        for (text, kind) in FULL.iter().zip(["control", "files", "workload_api"]) {
            let whole = read(text);
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            for name in json[kind].as_object().unwrap().keys() {
                let mut without = json.clone();
                without[kind].as_object_mut().unwrap().remove(name);
                assert_ne!(read(&without.to_string()), whole, "{kind}.{name}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("{}", "outrider.identity: one of control, files, workload_api is needed"),
            (
                "{control: {address: 'http://10.0.0.1:1', token_file: /t}}",
                "outrider.identity.control.address: the token would travel in plaintext; use https",
            ),
            (
                "{control: {address: 'https://c:1', token_file: /t}}",
                "outrider.identity.control.ca_file: missing",
            ),
            (
                "{control: {address: 'http://[::1]:1', token_file: /t, ca_file: /c}}",
                "outrider.identity.control.ca_file: is for https",
            ),
            (
                "{control: {address: 'http://localhost:1', token_file: /t, requested_ttl: 0.5s}}",
                "outrider.identity.control.requested_ttl: must be from one second to 30 days",
            ),
            (
                "{control: {address: 'http://localhost:1', token_file: /t, spiffe_id: a}}",
                "outrider.identity.control.spiffe_id: must be spiffe://TRUST-DOMAIN/PATH: the scheme is not \"spiffe\"",
            ),
            (
                "{files: {certificate_chain: /c, private_key: /k}}",
                "outrider.identity.files.trust_bundle: missing",
            ),
            (
                "{workload_api: {socket: 'tcp://127.0.0.1:1'}}",
                "outrider.identity.workload_api.socket: must be unix:///PATH",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        }
        for address in [
            "",
            "c:1",
            "https://c",
            "https://c:0",
            "ftp://c:1",
            "https://u@c:1",
            "https://c:1/x",
            "https://c:1?q",
        ] {
            let text = format!("{{control: {{address: '{address}', token_file: /t, ca_file: /c}}}}");
            assert!(read(&text).unwrap_err().contains("must be https://HOST:PORT"), "{address}");
        }
        assert!(read("{control: {}, files: {}}").is_err(), "two sources");
        assert!(read("{control: {address: 'http://localhost:1', token_file: /t, x: 1}}").is_err());
    }
}
