//! The authority's own roots. There is one most of the time, and two while one follows the other: the next is made
//! early, is in every bundle for a while, and only then signs.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::state::{StateDir, StateError};
use super::{BACKDATED, CaError, serial};

const PREFIX: &str = "root-";
const SUFFIX: &str = ".pem";
/// A root makes room for the next when this part of its life is left.
const LAST_PART: u32 = 5;
/// Most roots at a time; a bundle may have 32.
const MAX_ROOTS: usize = 16;

/// A root.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) made: SystemTime,
    pub(super) ends: SystemTime,
    pub(super) der: CertificateDer<'static>,
    /// PKCS#8, as PEM.
    key_pem: String,
    name: String,
}

impl Root {
    pub(super) fn key(&self) -> Result<KeyPair, CaError> {
        Ok(KeyPair::from_pem(&self.key_pem)?)
    }
}

/// The roots that hold at this time, oldest first. The first one, or the next one, is made if it is time for it;
/// those that are over are removed.
pub(super) fn keep(
    state: &StateDir,
    trust_domain: &str,
    life: Duration,
    now: SystemTime,
) -> Result<Vec<Arc<Root>>, CaError> {
    let mut roots = Vec::new();
    for name in state.names()?.into_iter().filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
        let Some(content) = state.read(&name)? else { continue };
        let failed = |reason: &str| StateError::new(&state.file(&name), reason);
        let root = read(&name, &content, trust_domain).map_err(|reason| failed(&reason))?;
        if root.ends > now {
            roots.push(Arc::new(root));
        } else {
            tracing::info!(root = name, "a root is over and is removed");
            state.remove(&name)?;
        }
    }
    roots.sort_by_key(|root| root.made);
    let newest = roots.last();
    let late = newest.is_none_or(|root| {
        let life = root.ends.duration_since(root.made).unwrap_or_default();
        root.ends.checked_sub(life / LAST_PART).is_none_or(|time| time <= now)
    });
    if late && roots.len() < MAX_ROOTS {
        let root = make(state, trust_domain, life, now)?;
        tracing::info!(root = root.name, trust_domain, "a root was made");
        roots.push(Arc::new(root));
    }
    Ok(roots)
}

/// The root that signs: the newest one that everybody has heard of, which takes `overlap`; else the oldest.
pub(super) fn signing(roots: &[Arc<Root>], overlap: Duration, now: SystemTime) -> Option<&Arc<Root>> {
    let known = |root: &&Arc<Root>| root.made.checked_add(overlap).is_some_and(|time| time <= now);
    roots.iter().rev().find(known).or_else(|| roots.first())
}

fn make(state: &StateDir, trust_domain: &str, life: Duration, now: SystemTime) -> Result<Root, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let made_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Outrider");
    params.distinguished_name.push(DnType::CommonName, format!("root of {trust_domain} {made_s}"));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    params.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
    params.not_after = now.checked_add(life).ok_or(CaError::Time)?.into();
    let text = params.self_signed(&key)?.pem() + &key.serialize_pem();
    // Certificate and key are one file, so that no moment has one without the other.
    let name = format!("{PREFIX}{made_s:012}{SUFFIX}");
    state.write(&name, text.as_bytes(), 0o600)?;
    let root = read(&name, text.as_bytes(), trust_domain);
    Ok(root.map_err(|reason| StateError::new(&state.file(&name), reason))?)
}

fn read(name: &str, content: &[u8], trust_domain: &str) -> Result<Root, String> {
    let der = CertificateDer::from_pem_slice(content).map_err(|error| format!("no certificate: {error}"))?;
    let text = std::str::from_utf8(content).map_err(|_| "not text")?;
    let key_pem =
        text.get(text.find("-----BEGIN PRIVATE KEY").ok_or("no private key")?..).unwrap_or_default();
    let key = KeyPair::from_pem(key_pem).map_err(|error| format!("private key: {error}"))?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| "the certificate cannot be read")?;
    if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err("the private key is not that of the certificate".to_owned());
    }
    let own = format!("spiffe://{trust_domain}");
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let is_own = names.into_iter().any(|name| matches!(name, GeneralName::URI(uri) if *uri == own));
    if !is_own {
        return Err(format!(
            "not a root of the trust domain \"{trust_domain}\"; use its own state directory"
        ));
    }
    let time = |at: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let made = time(certificate.validity().not_before.timestamp()) + BACKDATED;
    let ends = time(certificate.validity().not_after.timestamp());
    Ok(Root { made, ends, der: der.into_owned(), key_pem: key_pem.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_root_is_followed_by_the_next_which_signs_when_everybody_knows_it() {
        let scratch = Scratch::new("roots");
        let state = StateDir::open(&scratch.path().join("ca")).unwrap();
        let start = UNIX_EPOCH + 20_000 * DAY;
        let at = |day: u32| {
            let now = start + day * DAY;
            let roots = keep(&state, "a", 100 * DAY, now).unwrap();
            let made = signing(&roots, 2 * DAY, now).unwrap().made;
            (roots.len(), made.duration_since(start).unwrap().as_secs() / DAY.as_secs())
        };
        let days = [
            (0, (1, 0)),
            (1, (1, 0)),
            (79, (1, 0)),
            (80, (2, 0)),
            (81, (2, 0)),
            (82, (2, 80)),
            (99, (2, 80)),
        ];
        for (day, expected) in days.into_iter().chain([(101, (1, 80)), (161, (2, 80)), (163, (2, 161))]) {
            assert_eq!(at(day), expected, "day {day}");
        }
        assert_eq!(state.names().unwrap().len(), 2, "the first is removed");
    }

    #[test]
    fn a_root_that_cannot_be_used_is_never_replaced() {
        let scratch = Scratch::new("roots");
        let state = StateDir::open(&scratch.path().join("ca")).unwrap();
        let now = SystemTime::now();
        keep(&state, "a", DAY, now).unwrap();
        let error = keep(&state, "b", DAY, now).unwrap_err().to_string();
        assert!(error.contains("trust domain \"b\""), "{error}");
        let name = state.names().unwrap().remove(0);
        let content = String::from_utf8(state.read(&name).unwrap().unwrap()).unwrap();
        let other = KeyPair::generate().unwrap().serialize_pem();
        let certificate = content.split("-----BEGIN PRIVATE").next().unwrap();
        for (bad, reason) in [
            (certificate.to_owned(), "no private key"),
            (format!("{certificate}{other}"), "not that of the certificate"),
            (other, "no certificate"),
        ] {
            state.write(&name, bad.as_bytes(), 0o600).unwrap();
            let error = keep(&state, "a", DAY, now).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(&name), "{error}");
        }
    }
}
