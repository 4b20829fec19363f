//! PEM files, read with bounds and written.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::FetchError;

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Characters of a line (RFC 7468, section 2).
const LINE_CHARS: usize = 64;

/// All certificates of a file, at least one.
///
/// # Errors
/// When the file cannot be read, or anything in it is not a certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    parse_certificates(&read(path)?).map_err(|reason| FetchError::file(path, reason))
}

/// The private key of a file: PKCS#8, SEC1 or PKCS#1.
///
/// # Errors
/// When the file cannot be read or has no key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FetchError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| FetchError::file(path, error))
}

/// A file of bounded size.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read(path: &Path) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| FetchError::file(path, error))?;
    // A file may grow while it is read, so the bound is on what is read.
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| FetchError::file(path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(FetchError::file(path, format!("more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// All certificates of a text, at least one.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in it".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("not PEM: {error}")),
    }
}

/// Certificates as text.
#[must_use]
pub fn write_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| block("CERTIFICATE", certificate)).collect()
}

/// A private key as text, under the label of its form.
#[must_use]
pub fn write_key(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        // The enum is open for future forms.
        PrivateKeyDer::Pkcs8(_) | _ => "PRIVATE KEY",
    };
    block(label, key.secret_der())
}

fn block(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, letter) in encoded.chars().enumerate() {
        if index > 0 && index % LINE_CHARS == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
