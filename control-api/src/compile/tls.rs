//! Mutual TLS inside the mesh: own certificate and roots by name, peers by SPIFFE ID, TLS 1.3 only.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrider_proto::envoy::r#type::matcher::v3::StringMatcher;

use super::{Settings, wire};

/// The name under which a proxy finds its own certificate.
pub(super) const OWN: &str = "default";
/// The name under which a proxy finds the roots of the mesh.
pub(super) const ROOTS: &str = "ROOTCA";
const SOCKET: &str = "envoy.transport_sockets.tls";

/// Towards endpoints, which must show one of these identities.
pub(super) fn upstream(identities: &BTreeSet<Arc<str>>, settings: &Settings) -> core::TransportSocket {
    let mut expected: Vec<StringMatcher> = identities.iter().map(|identity| wire::exact(identity)).collect();
    if expected.is_empty() {
        // Nobody is expected. An empty list would mean anybody; this identity is never given to anyone.
        expected.push(wire::exact(&format!("spiffe://{}/nobody", settings.trust_domain)));
    }
    let context = pb::UpstreamTlsContext { common_tls_context: Some(common(expected)), sni: String::new() };
    core::TransportSocket { name: SOCKET.to_owned(), typed_config: Some(wire::any(&context)) }
}

/// For clients, which must show an identity of the mesh.
pub(super) fn downstream(settings: &Settings) -> core::TransportSocket {
    let context = pb::DownstreamTlsContext {
        common_tls_context: Some(common(vec![wire::prefix(&settings.identities())])),
        require_client_certificate: Some(true),
    };
    core::TransportSocket { name: SOCKET.to_owned(), typed_config: Some(wire::any(&context)) }
}

fn common(expected: Vec<StringMatcher>) -> pb::CommonTlsContext {
    use pb::tls_parameters::TlsProtocol;
    let san = |matcher| pb::SubjectAltNameMatcher {
        san_type: pb::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(matcher),
    };
    let secret = |name: &str| pb::SdsSecretConfig { name: name.to_owned(), sds_config: None };
    pb::CommonTlsContext {
        tls_params: Some(pb::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        }),
        tls_certificates: Vec::new(),
        alpn_protocols: Vec::new(),
        tls_certificate_sds_secret_configs: vec![secret(OWN)],
        validation_context_type: Some(
            pb::common_tls_context::ValidationContextType::CombinedValidationContext(
                pb::common_tls_context::CombinedCertificateValidationContext {
                    default_validation_context: Some(pb::CertificateValidationContext {
                        match_typed_subject_alt_names: expected.into_iter().map(san).collect(),
                        ..Default::default()
                    }),
                    validation_context_sds_secret_config: Some(secret(ROOTS)),
                },
            ),
        ),
    }
}
