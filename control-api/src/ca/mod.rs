//! The certificate authority: identities for those who have proved them.
//!
//! The root is made on first start in the state directory, or the operator gives an authority of their own in files.
//! What signs with our own root is an intermediate that lives in memory only and is made anew at half its life.

mod issuing;
mod request;
mod roots;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use issuing::GivenFiles;
pub use request::{MAX_REQUEST_BYTES, Request, RequestError};

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::proxy_info::Identity;
use issuing::Issuing;
use state::{StateDir, StateError};

/// How far certificates are dated back, against clocks that are behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(60);
/// How often it is looked whether something is to be made anew.
const LOOK: Duration = Duration::from_secs(30);
/// Bytes of a serial number (RFC 5280, section 4.1.2.2 allows 20).
const SERIAL_BYTES: usize = 16;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error(transparent)]
    State(#[from] StateError),
    /// What signs ends before what is to be signed.
    #[error("the issuing certificate ends too soon")]
    Ending,
    /// Out of the calendar.
    #[error("a time that there is not")]
    Time,
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// A certificate cannot be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// How long things are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// SVIDs, when nothing else is asked for; and at most.
    pub svid: Duration,
    /// Our own intermediates.
    pub issuer: Duration,
    /// Our own roots.
    pub root: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self { svid: DAY, issuer: 7 * DAY, root: 3650 * DAY }
    }
}

/// Where the authority comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Our own, kept here.
    Own(StateDir),
    /// Somebody else's.
    Given(GivenFiles),
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, and those between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the trust domain.
    pub roots: Vec<CertificateDer<'static>>,
    /// When it ends, in whole seconds.
    pub not_after: SystemTime,
}

/// The authority of one trust domain.
#[derive(Debug)]
pub struct Authority {
    trust_domain: Arc<str>,
    origin: Origin,
    lives: Lives,
    current: RwLock<Arc<Issuing>>,
    changes: watch::Sender<u64>,
}

impl Authority {
    /// Opens it, and makes it if it is to be our own and is not there.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(trust_domain: &str, origin: Origin, lives: Lives, now: SystemTime) -> Result<Self, CaError> {
        let current = RwLock::new(make(trust_domain, &origin, lives, (None, now))?);
        Ok(Self { trust_domain: trust_domain.into(), origin, lives, current, changes: watch::channel(0).0 })
    }

    /// The name of the trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }

    /// The roots that vouch for this trust domain.
    #[must_use]
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.current().roots.clone()
    }

    /// The same, as PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        self.current().roots.iter().map(|root| pem("CERTIFICATE", root)).collect()
    }

    /// A number that grows when what signs, or the roots, have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Makes anew what it is time for, and reads files again.
    ///
    /// # Errors
    /// Why not; what signed before goes on.
    pub fn refresh(&self, now: SystemTime) -> Result<(), CaError> {
        let before = self.current();
        let next = make(&self.trust_domain, &self.origin, self.lives, (Some(&before), now))?;
        if Arc::ptr_eq(&next, &before) {
            return Ok(());
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.changes.send_modify(|number| *number += 1);
        Ok(())
    }

    /// Refreshes from time to time; never ends.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.refresh(SystemTime::now()) {
                tracing::error!(%error, "the authority cannot be renewed; what there is goes on");
            }
        }
    }

    /// Certifies that the holder of a key has an identity. `ttl`: how long, at most what is usual.
    ///
    /// # Errors
    /// When nothing can be signed now.
    pub fn svid(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let mut params = leaf();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        self.issue(params, key, ttl.unwrap_or(self.lives.svid).min(self.lives.svid), now)
    }

    /// A certificate with a new key (PKCS#8, DER) for the control server itself: an SVID that also has its names.
    ///
    /// # Errors
    /// When nothing can be signed now.
    pub fn server(
        &self,
        identity: &Identity,
        (names, addresses): (&[String], &[IpAddr]),
        now: SystemTime,
    ) -> Result<(Issued, Vec<u8>), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = leaf();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        Ok((self.issue(params, &key, self.lives.svid, now)?, key.serialize_der()))
    }

    fn issue(
        &self,
        params: CertificateParams,
        key: &impl PublicKeyData,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let current = self.current();
        // Certificates know whole seconds.
        let whole = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).map_err(|_| CaError::Time)?;
            Ok::<_, CaError>(UNIX_EPOCH + Duration::from_secs(since.as_secs()))
        };
        let not_after = whole(now.checked_add(ttl).ok_or(CaError::Time)?)?.min(whole(current.ends)?);
        if not_after <= now {
            return Err(CaError::Ending);
        }
        let chain = current.sign(params, key, (now, not_after))?;
        Ok(Issued { chain, roots: current.roots.clone(), not_after })
    }

    fn current(&self) -> Arc<Issuing> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is to sign at this time: what signed before, while it is good.
fn make(
    trust_domain: &str,
    origin: &Origin,
    lives: Lives,
    (before, now): (Option<&Arc<Issuing>>, SystemTime),
) -> Result<Arc<Issuing>, CaError> {
    let state = match origin {
        Origin::Given(files) => {
            let next = Issuing::given(files, now)?;
            let before = before.filter(|before| before.origin == next.origin);
            return Ok(before.cloned().unwrap_or_else(|| Arc::new(next)));
        }
        Origin::Own(state) => state,
    };
    let roots = roots::keep(state, trust_domain, lives.root, now)?;
    // A client renews its SVID, and with it the bundle, within the life of one.
    let root = roots::signing(&roots, 2 * lives.svid, now).ok_or(CaError::Ending)?;
    let good = |before: &&Arc<Issuing>| {
        let half = before.ends.duration_since(before.made).unwrap_or_default() / 2;
        before.made <= now
            && before.made.checked_add(half).is_some_and(|time| time > now)
            && before.origin == root.der.as_ref()
            && before.roots.iter().eq(roots.iter().map(|root| &root.der))
    };
    match before.filter(good) {
        Some(before) => Ok(Arc::clone(before)),
        None => Ok(Arc::new(Issuing::under(root, &roots, lives.issuer, now)?)),
    }
}

/// What all certificates of ends say.
fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A block of PEM (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    /// Characters of a line.
    const LINE: usize = 64;
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, letter) in STANDARD.encode(der).chars().enumerate() {
        if index > 0 && index % LINE == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + "\n-----END " + label + "-----\n"
}

/// A serial number that nobody can foretell.
pub(crate) fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    // Positive and of full length.
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}
