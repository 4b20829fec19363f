//! TLS contexts: what is shown, who is believed and who is expected, on either side.
//!
//! A context names its certificate and its roots; what they are at the moment is put into it by the control thread
//! ([`crate::identity::live`]), so that a rotation replaces neither listener nor cluster.

mod source;

use std::sync::Arc;

use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrider_proto::{Path, unpack};
use pb::tls_parameters::TlsProtocol;
use rustls::client::Resumption;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

pub use source::{CertificateSource, Pem, SanMatch, Secret, SecretKind, TrustSource};

use crate::identity::config::{self, Tickets};
use crate::identity::live::{Current, Live, Material};
use crate::identity::verify::{Expected, Verifier};
use crate::identity::{PeerIdentity, Refusal, Vouched};
use crate::model::parse;

/// Application protocols of one context.
const MAX_PROTOCOLS: usize = 16;

/// What both sides have.
#[derive(Debug)]
pub struct TlsSettings {
    /// Our own certificate.
    pub certificate: Option<CertificateSource>,
    /// Whom to believe.
    pub trust: Option<TrustSource>,
    /// One of them must match, if there are any.
    pub expected: Arc<[SanMatch]>,
    /// The one preferred first.
    pub protocols: Vec<Vec<u8>>,
}

/// TLS for clients of a filter chain.
#[derive(Debug)]
pub struct DownstreamTls {
    /// What both sides have.
    pub settings: TlsSettings,
    /// Whether a client must show a certificate.
    pub require_client_certificate: bool,
    /// What is used now.
    pub live: Live<ServerConfig>,
}

/// TLS towards the endpoints of a cluster.
#[derive(Debug)]
pub struct UpstreamTls {
    /// What both sides have.
    pub settings: TlsSettings,
    /// The server's name that is asked for.
    pub server_name: Option<ServerName<'static>>,
    /// Whether TLS 1.2 will do.
    pub allows_12: bool,
    /// Whether its application protocols are offered without being named, so that requests can agree on a version.
    pub offers_unasked: bool,
    /// What is used now.
    pub live: Live<ClientConfig>,
}

impl DownstreamTls {
    /// From a filter chain's transport socket.
    pub(super) fn from_proto(socket: &core::TransportSocket, path: &mut Path) -> Option<Self> {
        parse::required(&socket.name, "name", path);
        path.field("typed_config", |path| {
            let Some(context) = socket.typed_config.as_ref().and_then(unpack::<pb::DownstreamTlsContext>)
            else {
                return path.refuse("must be a DownstreamTlsContext");
            };
            let required = context.require_client_certificate.unwrap_or(false);
            let common = context.common_tls_context.unwrap_or_default();
            let settings = path.field("common_tls_context", |path| {
                if versions(&common, path).0 != TlsProtocol::TlSv13 {
                    path.fault_at("tls_params", "clients get TLS 1.3 and nothing older; remove tls_params");
                }
                TlsSettings::from_proto(&common, path)
            })?;
            if settings.certificate.is_none() {
                return path.field("common_tls_context", |path| path.refuse("a server needs a certificate"));
            }
            if required && settings.trust.is_none() {
                path.fault_at(
                    "require_client_certificate",
                    "needs a validation context to verify clients with",
                );
            }
            Some(Self { settings, require_client_certificate: required, live: Live::default() })
        })
    }

    /// Asks again whether a client is to be let in.
    ///
    /// # Errors
    /// Why it is no longer to be trusted.
    pub fn still_trusts(&self, client: &Vouched) -> Result<(), Refusal> {
        self.settings.still_trusts(self.live.material().as_deref(), client)
    }

    /// What a handshake with a client needs now.
    ///
    /// # Errors
    /// [`Refusal::NotReady`].
    pub fn current(&self) -> Result<Current<ServerConfig>, Refusal> {
        self.live.current(|material, tickets| {
            let credential = material.credential.as_ref().ok_or_else(missing)?;
            let kept = Tickets::under(material.trust.as_deref(), &credential.leaf, tickets.as_ref())?;
            let verifier = self.settings.verifier(material, !self.require_client_certificate);
            let built = config::server(credential, verifier, &self.settings.protocols, Some(&kept));
            *tickets = Some(kept);
            built
        })
    }

    /// What a handshake needs that shows a client an expired certificate of ours.
    ///
    /// # Errors
    /// [`Refusal::NotReady`].
    pub fn expired(&self) -> Result<Current<ServerConfig>, Refusal> {
        self.live.expired(|material| {
            let credential = material.credential.as_ref().ok_or_else(missing)?;
            let verifier = self.settings.verifier(material, !self.require_client_certificate);
            config::server(credential, verifier, &self.settings.protocols, None)
        })
    }
}

impl UpstreamTls {
    /// From a cluster's transport socket.
    pub(super) fn from_proto(socket: &core::TransportSocket, path: &mut Path) -> Option<Self> {
        parse::required(&socket.name, "name", path);
        path.field("typed_config", |path| {
            let Some(context) = socket.typed_config.as_ref().and_then(unpack::<pb::UpstreamTlsContext>)
            else {
                return path.refuse("must be an UpstreamTlsContext");
            };
            let server_name = match context.sni.as_str() {
                "" => None,
                name => match ServerName::try_from(name.to_owned()) {
                    Ok(name) => Some(name),
                    Err(_) => return path.field("sni", |path| path.refuse("not a DNS name")),
                },
            };
            let common = context.common_tls_context.unwrap_or_default();
            let (settings, lowest) = path.field("common_tls_context", |path| {
                let (lowest, highest) = versions(&common, path);
                if highest != TlsProtocol::TlSv13 {
                    path.fault_at("tls_params.tls_maximum_protocol_version", "must leave TLS 1.3 possible");
                }
                TlsSettings::from_proto(&common, path).map(|settings| (settings, lowest))
            })?;
            match &settings.trust {
                None => {
                    return path.field("common_tls_context", |path| {
                        path.refuse(
                            "a server that is not verified could be anybody: a validation context is needed",
                        )
                    });
                }
                Some(TrustSource::Pem(_)) if settings.expected.is_empty() && server_name.is_none() => {
                    path.fault_at(
                        "common_tls_context",
                        "any certificate of these roots would do: set sni or match_typed_subject_alt_names",
                    );
                }
                Some(_) => {}
            }
            let allows_12 = lowest == TlsProtocol::TlSv12;
            Some(Self { settings, server_name, allows_12, offers_unasked: false, live: Live::default() })
        })
    }

    /// Asks again whether an endpoint is to be believed.
    ///
    /// # Errors
    /// Why it is no longer to be trusted.
    pub fn still_trusts(&self, endpoint: &Vouched) -> Result<(), Refusal> {
        self.settings.still_trusts(self.live.material().as_deref(), endpoint)
    }

    /// Offers HTTP/2 and HTTP/1.1 where nothing is said and the version is to be agreed on, as Envoy does.
    #[must_use]
    pub(super) fn offering(mut self, both: bool) -> Self {
        if both && self.settings.protocols.is_empty() {
            self.settings.protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            self.offers_unasked = true;
        }
        self
    }

    /// What a handshake with an endpoint needs now.
    ///
    /// # Errors
    /// [`Refusal::NotReady`].
    pub fn current(&self) -> Result<Current<ClientConfig>, Refusal> {
        self.live.current(|material, _| self.build(material))
    }

    /// What a handshake needs that shows an endpoint an expired certificate of ours.
    ///
    /// # Errors
    /// [`Refusal::NotReady`], also when this cluster never shows a certificate.
    pub fn expired(&self) -> Result<Current<ClientConfig>, Refusal> {
        self.live.expired(|material| {
            let mut config = Arc::unwrap_or_clone(self.build(material)?);
            // In a session that is resumed no certificate is shown.
            config.resumption = Resumption::disabled();
            Ok(Arc::new(config))
        })
    }

    fn build(&self, material: &Material) -> Result<Arc<ClientConfig>, rustls::Error> {
        let verifier = self.settings.verifier(material, false).ok_or_else(missing)?;
        let versions: &[&'static SupportedProtocolVersion] = if self.allows_12 {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        } else {
            &[&rustls::version::TLS13]
        };
        config::client(material.credential.as_ref(), verifier, &self.settings.protocols, versions)
    }
}

fn missing() -> rustls::Error {
    rustls::Error::General("certificate or roots are missing".to_owned())
}

impl TlsSettings {
    /// Whether something of it is brought by others: the workload's identity, or a secret.
    #[must_use]
    pub const fn is_brought(&self) -> bool {
        matches!(self.certificate, Some(CertificateSource::Named(..)))
            || matches!(self.trust, Some(TrustSource::Named(..)))
    }

    fn from_proto(common: &pb::CommonTlsContext, path: &mut Path) -> Option<Self> {
        let certificate = match (
            common.tls_certificates.as_slice(),
            common.tls_certificate_sds_secret_configs.as_slice(),
        ) {
            ([], []) => None,
            ([one], []) => {
                Some(path.item("tls_certificates", 0, |path| CertificateSource::from_proto(one, path))?)
            }
            ([], [one]) => Some(path.item("tls_certificate_sds_secret_configs", 0, |path| {
                source::named(one, path).map(|(name, ads)| CertificateSource::Named(name, ads))
            })?),
            _ => return path.field("tls_certificates", |path| path.refuse("one certificate at most")),
        };
        let (trust, expected) = source::validation(common.validation_context_type.as_ref(), path)?;
        let mut protocols = Vec::new();
        for (index, name) in common.alpn_protocols.iter().enumerate() {
            if name.is_empty() || name.len() > 255 || index >= MAX_PROTOCOLS {
                path.item("alpn_protocols", index, |path| {
                    path.fault(format!("from 1 to 255 bytes, and {MAX_PROTOCOLS} protocols at most"));
                });
            }
            protocols.push(name.as_bytes().to_vec());
        }
        Some(Self { certificate, trust, expected: expected.into(), protocols })
    }

    /// Whether a peer that is trusted is one of those that are expected.
    #[must_use]
    pub fn expects(&self, peer: &PeerIdentity) -> bool {
        self.expected.is_empty() || self.expected.iter().any(|one| one.matches(peer))
    }

    fn still_trusts(&self, material: Option<&Material>, vouched: &Vouched) -> Result<(), Refusal> {
        if self.trust.is_none() || !self.expects(&vouched.peer) {
            return Err(Refusal::NotExpected);
        }
        // Roots that have not come yet speak against nobody; when they have, this is asked again.
        let verifier = material.and_then(|material| self.verifier(material, false));
        verifier.map_or(Ok(()), |verifier| vouched.recheck(&verifier, UnixTime::now()))
    }

    fn verifier(&self, material: &Material, anonymous_clients: bool) -> Option<Verifier> {
        let matches = Arc::clone(&self.expected);
        let expected: Option<Expected> = (!matches.is_empty()).then(|| -> Expected {
            Arc::new(move |peer: &PeerIdentity| matches.iter().any(|one| one.matches(peer)))
        });
        material.trust.as_ref().map(|trust| Verifier {
            trust: Arc::clone(trust),
            expected,
            revocations: material.revocations.clone(),
            anonymous_clients,
            provider: Arc::clone(config::provider()),
        })
    }
}

/// The lowest and the highest version that may be used.
fn versions(common: &pb::CommonTlsContext, path: &mut Path) -> (TlsProtocol, TlsProtocol) {
    let params = common.tls_params.unwrap_or_default();
    let or_13 =
        |version: TlsProtocol| if version == TlsProtocol::TlsAuto { TlsProtocol::TlSv13 } else { version };
    let lowest = or_13(params.tls_minimum_protocol_version());
    let highest = or_13(params.tls_maximum_protocol_version());
    if lowest as i32 > highest as i32 {
        path.fault_at("tls_params", "the minimum is above the maximum");
    }
    (lowest, highest)
}

#[cfg(test)]
mod tests;
