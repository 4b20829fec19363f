//! Where certificates and roots come from, and what is expected of a peer's names.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrider_proto::{Fault, Path, unpack};
use pb::common_tls_context::ValidationContextType;
use pb::subject_alt_name_matcher::SanType;

use crate::identity::PeerIdentity;
use crate::identity::config::{self, Credential};
use crate::identity::spiffe::check_trust_domain;
use crate::identity::trust::Roots;
use crate::model::matcher::StringMatcher;
use crate::model::parse;

/// Largest PEM text, in bytes.
pub(super) const MAX_PEM_BYTES: usize = 1024 * 1024;

/// PEM text, or the file that it is in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Pem {
    /// The text.
    Inline(Arc<[u8]>),
    /// The file; read again when it changes.
    File(PathBuf),
}

impl fmt::Debug for Pem {
    /// It may be a private key, so its text is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(text) => write!(f, "<{} bytes>", text.len()),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where a certificate and its key come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// PEM texts.
    Pem {
        /// The chain, leaf first.
        chain: Pem,
        /// The leaf's key.
        key: Pem,
    },
    /// A secret of this name; over ADS if that is said.
    Named(Arc<str>, bool),
}

/// Where roots come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TrustSource {
    /// Roots that vouch for any name.
    Pem(Pem),
    /// Roots by trust domain.
    Spiffe(Vec<(String, Pem)>),
    /// A secret of this name; over ADS if that is said.
    Named(Arc<str>, bool),
}

/// What one of a peer's names must be.
#[derive(Clone, Debug)]
pub struct SanMatch {
    uri: bool,
    matcher: StringMatcher,
}

impl SanMatch {
    /// Whether a name of this peer fits. Of URI names only the one SPIFFE ID counts.
    #[must_use]
    pub fn matches(&self, peer: &PeerIdentity) -> bool {
        if self.uri {
            peer.spiffe.as_ref().is_some_and(|id| self.matcher.matches(id.as_str().as_bytes()))
        } else {
            peer.dns.iter().any(|name| self.matcher.matches(name.as_bytes()))
        }
    }
}

/// A secret that contexts name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: SecretKind,
}

/// What a secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(CertificateSource),
    /// Roots.
    Trust(TrustSource),
}

impl Secret {
    /// Compiles a secret.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: &pb::Secret) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let secret = Self::compile(value, &mut path);
        path.finish(secret)
    }

    fn compile(value: &pb::Secret, path: &mut Path) -> Option<Self> {
        let name = parse::required(&value.name, "name", path);
        let kind = match &value.r#type {
            Some(pb::secret::Type::TlsCertificate(certificate)) => path.field("tls_certificate", |path| {
                CertificateSource::from_proto(certificate, path).map(SecretKind::Certificate)
            }),
            Some(pb::secret::Type::ValidationContext(context)) => path.field("validation_context", |path| {
                if !context.match_typed_subject_alt_names.is_empty() {
                    path.fault_at(
                        "match_typed_subject_alt_names",
                        "belongs into the default_validation_context of a combined_validation_context",
                    );
                }
                match trust(context, path)? {
                    Some(trust) => Some(SecretKind::Trust(trust)),
                    None => path.refuse("trusted_ca or custom_validator_config is needed"),
                }
            }),
            None => path.refuse("one of tls_certificate and validation_context is needed"),
        };
        Some(Self { name: name?, kind: kind? })
    }
}

impl CertificateSource {
    pub(super) fn from_proto(value: &pb::TlsCertificate, path: &mut Path) -> Option<Self> {
        let chain = pem(value.certificate_chain.as_ref(), "certificate_chain", path);
        let key = pem(value.private_key.as_ref(), "private_key", path);
        let (chain, key) = (chain?, key?);
        if let (Pem::Inline(chain), Pem::Inline(key)) = (&chain, &key)
            && let Err(error) = Credential::from_pem(chain, key)
        {
            return path.refuse(error.to_string());
        }
        Some(Self::Pem { chain, key })
    }
}

/// The name of a secret, and whether it comes over ADS.
pub(super) fn named(value: &pb::SdsSecretConfig, path: &mut Path) -> Option<(Arc<str>, bool)> {
    let name = parse::required(&value.name, "name", path);
    if value.sds_config.is_some() {
        parse::over_ads(value.sds_config.as_ref(), "sds_config", path);
    }
    name.map(|name| (name, value.sds_config.is_some()))
}

/// Roots and expectations.
pub(super) fn validation(
    value: Option<&ValidationContextType>,
    path: &mut Path,
) -> Option<(Option<TrustSource>, Vec<SanMatch>)> {
    match value {
        None => Some((None, Vec::new())),
        Some(ValidationContextType::ValidationContext(context)) => path.field("validation_context", |path| {
            let trust = trust(context, path)?;
            if trust.is_none() {
                return path.refuse("trusted_ca or custom_validator_config is needed");
            }
            Some((trust, expected(context, path)))
        }),
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => path
            .field("validation_context_sds_secret_config", |path| {
                named(config, path).map(|(name, ads)| (Some(TrustSource::Named(name, ads)), Vec::new()))
            }),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            path.field("combined_validation_context", |path| {
                let default = combined.default_validation_context.clone().unwrap_or_default();
                let expected = path.field("default_validation_context", |path| {
                    if trust(&default, path)?.is_some() {
                        path.fault("the roots come from the secret; remove them here");
                    }
                    Some(expected(&default, path))
                });
                let Some(config) = &combined.validation_context_sds_secret_config else {
                    return path.field("validation_context_sds_secret_config", |path| path.refuse("missing"));
                };
                let (name, ads) =
                    path.field("validation_context_sds_secret_config", |path| named(config, path))?;
                Some((Some(TrustSource::Named(name, ads)), expected?))
            })
        }
    }
}

fn trust(context: &pb::CertificateValidationContext, path: &mut Path) -> Option<Option<TrustSource>> {
    match (&context.trusted_ca, &context.custom_validator_config) {
        (None, None) => Some(None),
        (Some(_), None) => {
            let roots = roots(context.trusted_ca.as_ref(), "trusted_ca", path)?;
            Some(Some(TrustSource::Pem(roots)))
        }
        (None, Some(custom)) => path.field("custom_validator_config", |path| {
            parse::required(&custom.name, "name", path);
            path.field("typed_config", |path| spiffe(custom, path))
        }),
        (Some(_), Some(_)) => path.refuse("one of trusted_ca and custom_validator_config, not both"),
    }
}

fn spiffe(custom: &core::TypedExtensionConfig, path: &mut Path) -> Option<Option<TrustSource>> {
    let Some(spiffe) = custom.typed_config.as_ref().and_then(unpack::<pb::SpiffeCertValidatorConfig>) else {
        return path.refuse("must be a SPIFFECertValidatorConfig");
    };
    if spiffe.trust_domains.is_empty() {
        return path.field("trust_domains", |path| path.refuse("at least one is needed"));
    }
    let mut domains: Vec<(String, Pem)> = Vec::new();
    for (index, domain) in spiffe.trust_domains.iter().enumerate() {
        path.item("trust_domains", index, |path| {
            if let Err(error) = check_trust_domain(&domain.name) {
                path.fault_at("name", error.to_string());
            }
            if domains.iter().any(|(known, _)| *known == domain.name) {
                path.fault_at("name", "is there twice");
            }
            if let Some(roots) = roots(domain.trust_bundle.as_ref(), "trust_bundle", path) {
                domains.push((domain.name.clone(), roots));
            }
        });
    }
    Some(Some(TrustSource::Spiffe(domains)))
}

fn expected(context: &pb::CertificateValidationContext, path: &mut Path) -> Vec<SanMatch> {
    let all = context.match_typed_subject_alt_names.iter().enumerate();
    all.filter_map(|(index, one)| {
        path.item("match_typed_subject_alt_names", index, |path| {
            let uri = match one.san_type() {
                SanType::Uri => true,
                SanType::Dns => false,
                SanType::Unspecified => {
                    return path.field("san_type", |path| path.refuse("must be URI or DNS"));
                }
            };
            path.field("matcher", |path| match &one.matcher {
                Some(matcher) => {
                    StringMatcher::from_proto(matcher, path).map(|matcher| SanMatch { uri, matcher })
                }
                None => path.refuse("missing"),
            })
        })
    })
    .collect()
}

fn roots(source: Option<&core::DataSource>, name: &str, path: &mut Path) -> Option<Pem> {
    let found = pem(source, name, path)?;
    if let Pem::Inline(text) = &found {
        let checked = config::certificates(text)
            .and_then(|roots| Roots::new(&roots).map(|_| ()).map_err(|error| error.to_string()));
        if let Err(error) = checked {
            return path.field(name, |path| path.refuse(error));
        }
    }
    Some(found)
}

fn pem(source: Option<&core::DataSource>, name: &str, path: &mut Path) -> Option<Pem> {
    use core::data_source::Specifier;
    path.field(name, |path| match source {
        Some(core::DataSource { specifier: Some(Specifier::Filename(file)) }) => {
            if file.is_empty() {
                return path.field("filename", |path| path.refuse("missing"));
            }
            Some(Pem::File(file.into()))
        }
        Some(source) => parse::data_source(source, MAX_PEM_BYTES, path).map(|text| Pem::Inline(text.into())),
        None => path.refuse("missing"),
    })
}
