//! A mesh of two workloads with certificates in files, and TLS contexts that name them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::authority::{Authority, Credentials};
use crate::process::scratch;

/// How long certificates of tests are valid.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// The package of TLS contexts.
pub const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
/// The workload that asks.
pub const CLIENT: &str = "spiffe://mesh.test/ns/shop/sa/client";
/// The workload that answers.
pub const SERVER: &str = "spiffe://mesh.test/ns/shop/sa/server";

/// Certificates of a mesh, as files.
#[derive(Debug)]
pub struct Mesh {
    /// Who issues them.
    pub authority: Authority,
    /// Where they are.
    pub folder: PathBuf,
}

impl Mesh {
    /// With a certificate for each of the two.
    ///
    /// # Panics
    /// When files cannot be written.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (authority, folder) = (Authority::new("mesh.test"), scratch(name));
        fs::write(folder.join("ca.pem"), authority.root_pem()).expect("works");
        let mesh = Self { authority, folder };
        mesh.write("client", &mesh.authority.svid(CLIENT, DAY));
        mesh.write("server", &mesh.authority.svid(SERVER, DAY));
        mesh
    }

    /// Gives somebody other credentials.
    ///
    /// # Panics
    /// When files cannot be written.
    pub fn write(&self, who: &str, credentials: &Credentials) {
        fs::write(self.file(who, "pem"), &credentials.chain_pem).expect("works");
        fs::write(self.file(who, "key"), &credentials.key_pem).expect("works");
    }

    /// A file of somebody's: `pem` or `key`.
    #[must_use]
    pub fn file(&self, who: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{who}.{kind}"))
    }

    /// A common TLS context: this certificate, and a peer of this identity.
    #[must_use]
    pub fn context(&self, who: &str, peer: &str, alpn: &str) -> String {
        let file = |path: &Path| format!("{{filename: {}}}", path.display());
        let names = match peer {
            "" => String::new(),
            peer => format!(
                ", match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]"
            ),
        };
        format!(
            "common_tls_context: {{tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
             tls_certificates: [{{certificate_chain: {}, private_key: {}}}], alpn_protocols: [{alpn}], \
             validation_context: {{trusted_ca: {}{names}}}}}",
            file(&self.file(who, "pem")),
            file(&self.file(who, "key")),
            file(&self.folder.join("ca.pem")),
        )
    }

    /// What the client's sidecar says to the server's.
    #[must_use]
    pub fn upstream(&self, alpn: &str) -> String {
        format!(
            "transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.UpstreamTlsContext, sni: server.shop, {}}}}}",
            self.context("client", SERVER, alpn)
        )
    }

    /// What the server's sidecar wants of the client's.
    #[must_use]
    pub fn downstream(&self) -> String {
        self.downstream_of(CLIENT)
    }

    /// The same of a client of this identity; of any in the mesh when it is empty.
    #[must_use]
    pub fn downstream_of(&self, client: &str) -> String {
        format!(
            "transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.DownstreamTlsContext, \
             require_client_certificate: true, {}}}}}",
            self.context("server", client, "h2, http/1.1")
        )
    }

    /// Arguments for curl.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn curl(&self, more: &[&str]) -> std::process::Output {
        Command::new("curl")
            .args(["-sS", "-k", "--max-time", "10", "-w", "%{http_code} %{http_version}", "-o", "/dev/null"])
            .args(more)
            .output()
            .expect("works")
    }
}
