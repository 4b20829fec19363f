//! Certificates for a pair over mTLS: a CA and two leaves with SPIFFE IDs (ECDSA P-256), made by `openssl` for each start.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::drive::ClientTls;

/// The name by which the client side asks for the server.
pub(super) const SERVER_NAME: &str = "server.test";
/// The SPIFFE IDs of both sides.
pub(super) const SERVER_ID: &str = "spiffe://cluster.local/ns/default/sa/server";
/// The client's.
pub(super) const CLIENT_ID: &str = "spiffe://cluster.local/ns/default/sa/client";

/// Writes `ca.pem`, and for `server` and `client` each `.crt`, `.key` and both in `.pem`.
///
/// # Errors
/// When `openssl` (3.0 or later) is missing or fails.
pub(super) fn write(folder: &Path) -> Result<()> {
    let settings = format!(
        "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = bench\n\
         [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\nsubjectKeyIdentifier = hash\n\
         [server]\nbasicConstraints = CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth, clientAuth\nsubjectAltName = URI:{SERVER_ID}, DNS:{SERVER_NAME}\n\
         [client]\nbasicConstraints = CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth, clientAuth\nsubjectAltName = URI:{CLIENT_ID}\n"
    );
    fs::write(folder.join("openssl.cnf"), settings)?;
    certificate(folder, "ca", &[])?;
    fs::rename(folder.join("ca.crt"), folder.join("ca.pem"))?;
    for side in ["server", "client"] {
        certificate(folder, side, &["-CA", "ca.pem", "-CAkey", "ca.key"])?;
        let both =
            [fs::read(folder.join(format!("{side}.crt")))?, fs::read(folder.join(format!("{side}.key")))?];
        fs::write(folder.join(format!("{side}.pem")), both.concat())?;
    }
    Ok(())
}

/// What a client proves itself with, and verifies the server with.
pub(super) fn client(folder: &Path) -> ClientTls {
    ClientTls {
        server_name: SERVER_NAME.to_owned(),
        ca_file: folder.join("ca.pem"),
        identity: Some((folder.join("client.crt"), folder.join("client.key"))),
        post_quantum: false,
    }
}

fn certificate(folder: &Path, name: &str, signer: &[&str]) -> Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-noenc",
            "-days",
            "2",
        ])
        .args(["-config", "openssl.cnf", "-extensions", name])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")])
        .args(signer)
        .current_dir(folder)
        .output()
        .context("openssl, which makes the certificates, cannot be started")?;
    let reason = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "openssl: {}", reason.lines().next_back().unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_leaves_are_signed_by_the_ca() {
        let folder = std::env::temp_dir().join(format!("outrider-bench-certificates-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        write(&folder).unwrap();
        for side in ["server.crt", "client.crt"] {
            let verified = Command::new("openssl")
                .args(["verify", "-CAfile", "ca.pem", side])
                .current_dir(&folder)
                .output();
            assert!(verified.unwrap().status.success(), "{side}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
