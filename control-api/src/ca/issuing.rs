//! What signs at present: an intermediate of our own under one of our roots, or the authority that the operator gave.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::roots::Root;
use super::state::{self, StateError};
use super::{BACKDATED, CaError, serial};

/// Most certificates between an SVID and its root; a chain may have 8.
const MAX_CHAIN: usize = 7;
/// Most roots of a bundle.
const MAX_ROOTS: usize = 32;

/// Files of an authority that somebody else has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenFiles {
    /// The issuing certificate, then those between it and the root.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8.
    pub key: PathBuf,
    /// The roots. Not needed when the issuing certificate is the root.
    pub roots: Option<PathBuf>,
}

/// What signs.
#[derive(Debug)]
pub(super) struct Issuing {
    issuer: Issuer<'static, KeyPair>,
    /// From the issuing certificate up to, and without, the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Whom to trust.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// From when to when.
    pub(super) made: SystemTime,
    pub(super) ends: SystemTime,
    /// What it was made of: the root, or the content of the files.
    pub(super) origin: Vec<u8>,
}

impl Issuing {
    /// A new intermediate under a root of ours.
    pub(super) fn under(
        root: &Root,
        roots: &[Arc<Root>],
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let root_issuer = Issuer::from_ca_cert_der(&root.der, root.key()?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let ends = now.checked_add(life).ok_or(CaError::Time)?.min(root.ends);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Outrider");
        let made_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        params.distinguished_name.push(DnType::CommonName, format!("issuer {made_s}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        params.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
        params.not_after = ends.into();
        let certificate = params.signed_by(&key, &root_issuer)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            chain: vec![certificate],
            roots: roots.iter().map(|root| root.der.clone()).collect(),
            made: now,
            ends,
            origin: root.der.to_vec(),
        })
    }

    /// The authority of these files.
    pub(super) fn given(files: &GivenFiles, now: SystemTime) -> Result<Self, CaError> {
        let mut origin = Vec::new();
        let mut read = |path: &PathBuf| -> Result<Vec<u8>, StateError> {
            let content = state::read(path)?.ok_or_else(|| StateError::new(path, "there is no such file"))?;
            origin.extend_from_slice(&content);
            Ok(content)
        };
        let about = |path: &PathBuf, reason: &str| StateError::new(path, reason);
        let mut chain = certificates(&files.certificate, &read(&files.certificate)?)?;
        let key_pem = read(&files.key)?;
        let key = std::str::from_utf8(&key_pem).ok().and_then(|text| KeyPair::from_pem(text).ok());
        let key = key.ok_or_else(|| about(&files.key, "no private key in PKCS#8"))?;
        let leaf = chain.first().cloned().ok_or_else(|| about(&files.certificate, "no certificate"))?;
        let (made, ends) =
            check_issuer(&leaf, &key, now).map_err(|reason| about(&files.certificate, &reason))?;
        let roots = match &files.roots {
            Some(path) => certificates(path, &read(path)?)?,
            None => vec![chain.last().cloned().unwrap_or(leaf.clone())],
        };
        if roots.len() > MAX_ROOTS || roots.iter().any(|root| !is_self_signed(root)) {
            let reason = format!("the roots must be 1 to {MAX_ROOTS} self-signed certificates");
            return Err(about(files.roots.as_ref().unwrap_or(&files.certificate), &reason).into());
        }
        chain.retain(|one| !is_self_signed(one));
        if chain.len() > MAX_CHAIN {
            return Err(about(&files.certificate, &format!("more than {MAX_CHAIN} certificates")).into());
        }
        Ok(Self { issuer: Issuer::from_ca_cert_der(&leaf, key)?, chain, roots, made, ends, origin })
    }

    /// Signs. No certificate outlives what signed it.
    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        (now, ends): (SystemTime, SystemTime),
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        if ends > self.ends {
            return Err(CaError::Ending);
        }
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        params.not_before = now.checked_sub(BACKDATED).unwrap_or(now).max(self.made).min(now).into();
        params.not_after = ends.into();
        let leaf = params.signed_by(key, &self.issuer)?.der().clone();
        Ok(std::iter::once(leaf).chain(self.chain.iter().cloned()).collect())
    }
}

fn certificates(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, StateError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let read = read.map_err(|error| StateError::new(path, format!("not PEM: {error}")))?;
    if read.is_empty() { Err(StateError::new(path, "no certificate in it")) } else { Ok(read) }
}

fn check_issuer(der: &[u8], key: &KeyPair, now: SystemTime) -> Result<(SystemTime, SystemTime), String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "cannot be read")?;
    if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err("the private key is not that of the first certificate".to_owned());
    }
    let signs = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if !certificate.is_ca() || !signs {
        return Err("the first certificate may not sign certificates".to_owned());
    }
    let time = |at: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let validity = certificate.validity();
    let (made, ends) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
    if made > now || ends <= now {
        return Err("the first certificate is not valid now".to_owned());
    }
    Ok((made, ends))
}

fn is_self_signed(der: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, one)| one.subject() == one.issuer() && one.verify_signature(None).is_ok())
}
