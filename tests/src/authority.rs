//! A certificate authority of one trust domain, for every test that needs certificates.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// How far certificates are dated back, as real authorities do against clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(10);

/// A root, and an intermediate authority that issues.
#[derive(Debug)]
pub struct Authority {
    /// The name of the trust domain.
    pub trust_domain: String,
    root: rcgen::Certificate,
    intermediate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The certificate, then the intermediate.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: String,
    /// The chain as DER.
    pub chain_der: Vec<Vec<u8>>,
    /// The key as DER.
    pub key_der: Vec<u8>,
}

impl Authority {
    /// A new one.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let root_params = ca_params(&format!("root of {trust_domain}"));
        let root = root_params.self_signed(&root_key).expect("a root");
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().expect("a key");
        let params = ca_params(&format!("issuer of {trust_domain}"));
        let intermediate = params.signed_by(&key, &root_issuer).expect("an intermediate");
        let issuer = Issuer::new(params, key);
        Self { trust_domain: trust_domain.to_owned(), root, intermediate, issuer }
    }

    /// The root, as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// What issues, up to the root, and its key (PEM): for a control server that is to issue in its place.
    #[must_use]
    pub fn issuer_pem(&self) -> (String, String) {
        (self.intermediate.pem() + &self.root.pem(), self.issuer.key().serialize_pem())
    }

    /// The root, as DER.
    #[must_use]
    pub fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    /// What an SVID of this identity and life says.
    #[must_use]
    pub fn svid_params(spiffe_id: &str, ttl: Duration) -> CertificateParams {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().expect("ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + ttl).into();
        params
    }

    /// An SVID with a new key.
    #[must_use]
    pub fn svid(&self, spiffe_id: &str, ttl: Duration) -> Credentials {
        self.issue(&Self::svid_params(spiffe_id, ttl))
    }

    /// A certificate for a server, by DNS names and IP addresses.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Credentials {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        self.issue(&params)
    }

    /// Any certificate with a new key; good or bad is up to the caller.
    #[must_use]
    pub fn issue(&self, params: &CertificateParams) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        Credentials {
            chain_pem: leaf.pem() + &self.intermediate.pem(),
            key_pem: key.serialize_pem(),
            chain_der: vec![leaf.der().to_vec(), self.intermediate.der().to_vec()],
            key_der: key.serialize_der(),
        }
    }

    /// Signs the key of a certificate request; what else the request says does not count.
    ///
    /// # Errors
    /// When the request cannot be read, or is not signed with its key.
    pub fn sign(&self, csr_der: &[u8], params: CertificateParams) -> Result<Vec<Vec<u8>>, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_der(&csr_der.into())?;
        request.params = params;
        let leaf = request.signed_by(&self.issuer)?;
        Ok(vec![leaf.der().to_vec(), self.intermediate.der().to_vec()])
    }
}

/// The SPIFFE ID that a certificate request wishes for.
///
/// # Errors
/// When the request cannot be read.
pub fn wished(csr_der: &[u8]) -> Result<Option<String>, rcgen::Error> {
    let request = CertificateSigningRequestParams::from_der(&csr_der.into())?;
    Ok(request.params.subject_alt_names.iter().find_map(|name| match name {
        SanType::URI(uri) => Some(uri.to_string()),
        _ => None,
    }))
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
