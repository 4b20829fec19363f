//! Certificates of ours whose time is over, for a fault that shows one.
//!
//! Best is one that was really in use: whoever verifies it finds a trusted root and then that it has expired. Where
//! there is none yet, one is made with the same names, which nobody trusts: peers that look at the time first (rustls,
//! Go) say that it has expired, those that look for the issuer first (OpenSSL, BoringSSL) that they do not know it.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::config::Credential;

/// How long ago the life of a made certificate began, and ended.
const BEGAN: Duration = Duration::from_secs(2 * 3600);
const ENDED: Duration = Duration::from_secs(3600);

/// What was shown before. At most two certificates, and one that was made.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The one before the present one; it may still be valid.
    last: Option<Credential>,
    /// An older one that has expired.
    spent: Option<Credential>,
    made: Option<Credential>,
}

impl Past {
    /// Takes note of a certificate that is not in use any more.
    pub fn add(&mut self, credential: Credential) {
        if let Some(last) = self.last.replace(credential).filter(Credential::is_over) {
            self.spent = Some(last);
        }
        self.made = None;
    }

    /// A certificate whose time is over; `None` where none could be made either.
    #[must_use]
    pub fn spent(&mut self, present: &Credential) -> Option<Credential> {
        let real = [Some(present), self.last.as_ref(), self.spent.as_ref()];
        if let Some(real) = real.into_iter().flatten().find(|one| one.is_over()) {
            return Some(real.clone());
        }
        if self.made.is_none() {
            self.made = make(present);
        }
        self.made.clone()
    }
}

/// Makes one with the names of another, under an authority whose key is thrown away.
fn make(like: &Credential) -> Option<Credential> {
    let (key, authority) = (generate()?, generate()?);
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uris = like.leaf.uris.iter().filter_map(|uri| uri.as_str().try_into().ok().map(SanType::URI));
    let names = like.leaf.dns.iter().filter_map(|name| name.as_str().try_into().ok().map(SanType::DnsName));
    params.subject_alt_names = uris.chain(names).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = now.checked_sub(BEGAN)?.into();
    params.not_after = now.checked_sub(ENDED)?.into();
    let issuer = Issuer::new(CertificateParams::default(), authority);
    let leaf = params.signed_by(&key, &issuer).ok()?.der().clone();
    Credential::from_der(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der()).into()).ok()
}

fn generate() -> Option<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "spiffe://mesh.test/ns/shop/sa/cart";

    /// A certificate whose life begins and ends so many seconds from now.
    fn credential(begins_s: i64, ends_s: i64) -> Credential {
        let key = generate().unwrap();
        let at = |offset: i64| {
            let offset = u64::try_from(1_000_000 + offset).unwrap();
            SystemTime::now() - Duration::from_secs(1_000_000) + Duration::from_secs(offset)
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        params.not_before = at(begins_s).into();
        params.not_after = at(ends_s).into();
        let leaf = params.self_signed(&key).unwrap().der().clone();
        Credential::from_der(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap()
    }

    #[test]
    fn a_real_one_goes_before_a_made_one_and_all_have_expired() {
        let present = credential(-10, 1000);
        let mut past = Past::default();
        let made = past.spent(&present).unwrap();
        assert!(made.is_over() && !present.is_over());
        assert_eq!(made.leaf.uris, [ID]);
        assert_eq!(past.spent(&present).unwrap().leaf, made.leaf, "it is made once");

        let (old, valid) = (credential(-100, -50), credential(-50, 500));
        past.add(old.clone());
        assert_eq!(past.spent(&present).unwrap().leaf, old.leaf);
        past.add(valid);
        assert_eq!(past.spent(&present).unwrap().leaf, old.leaf, "what is still valid is not shown");
        let over = credential(-50, -1);
        assert_eq!(past.spent(&over).unwrap().leaf, over.leaf);
    }
}
