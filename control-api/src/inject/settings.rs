//! What is the same for every sidecar of a mesh.

use outrider_proto::Fault;

use super::tuning::{Quantity, Seconds};

/// How the connections of a pod come to its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Redirect {
    /// An init container with `NET_ADMIN` sets the rules.
    Init,
    /// A plugin of the node sets them; an init container without any capability sees that they work.
    Cni,
}

/// IP families of the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Families {
    /// Both.
    Dual,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Families {
    /// As `outrider-proxy redirect --ip-families` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dual => "dual",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// What is the same for every sidecar of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of proxy and init container.
    pub image: String,
    /// When it is pulled; the cluster's default when it is not said.
    pub pull_policy: Option<String>,
    /// Host and port of the control server.
    pub control: (String, u16),
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// The namespace of the control server; nothing in it is injected.
    pub root_namespace: String,
    /// The roots of the mesh (PEM).
    pub roots: String,
    /// How connections come to the sidecar.
    pub redirect: Redirect,
    /// IP families of the pods.
    pub families: Families,
    /// Whether the cluster knows native sidecars (Kubernetes 1.29 and later).
    pub native: bool,
    /// What a sidecar asks for and may use, unless annotations say otherwise.
    pub resources: Resources,
    /// How long a sidecar finishes what is under way, unless an annotation says otherwise.
    pub drain: Seconds,
    /// Worker threads of a sidecar.
    pub workers: u16,
}

/// What a container asks for, and may use at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// CPU asked for.
    pub cpu_request: Quantity,
    /// CPU at most; none is usual, because it throttles.
    pub cpu_limit: Option<Quantity>,
    /// Memory asked for.
    pub memory_request: Quantity,
    /// Memory at most.
    pub memory_limit: Option<Quantity>,
}

/// The service account of the control server, a part of its identity.
const CONTROL_ACCOUNT: &str = "outrider-control";
/// Longest image name, in bytes.
const MAX_IMAGE_BYTES: usize = 1024;

impl Settings {
    /// With what is usual.
    #[must_use]
    pub fn new(image: &str, control: (&str, u16), roots: &str) -> Self {
        Self {
            image: image.to_owned(),
            pull_policy: None,
            control: (control.0.to_owned(), control.1),
            trust_domain: "cluster.local".to_owned(),
            root_namespace: "outrider-system".to_owned(),
            roots: roots.to_owned(),
            redirect: Redirect::Init,
            families: Families::Dual,
            native: true,
            resources: Resources {
                cpu_request: Quantity::of("10m"),
                cpu_limit: None,
                memory_request: Quantity::of("16Mi"),
                memory_limit: Some(Quantity::of("256Mi")),
            },
            drain: Seconds(20),
            workers: 2,
        }
    }

    /// What cannot be right.
    ///
    /// # Errors
    /// Every fault, with the name of the setting.
    pub fn check(&self) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        let mut wrong = |name: &str, reason: &str| faults.push(Fault::new(name, reason));
        let image = &self.image;
        if image.is_empty() || image.len() > MAX_IMAGE_BYTES || image.contains(char::is_whitespace) {
            wrong("image", "is not the name of an image");
        }
        if !self.roots.contains("-----BEGIN CERTIFICATE-----") {
            wrong(
                "roots",
                "holds no certificate in PEM; it is the file ca.pem of the control server's state",
            );
        }
        if self.roots.contains("PRIVATE KEY") {
            wrong("roots", "holds a private key, and would be put into every pod");
        }
        if self.control.0.is_empty() || self.control.1 == 0 {
            wrong("control", "is not a host and a port");
        }
        if !crate::auth::check_trust_domain(&self.trust_domain) {
            wrong("trust domain", "is not one");
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The SPIFFE ID of the control server.
    #[must_use]
    pub fn control_identity(&self) -> String {
        format!("spiffe://{}/ns/{}/sa/{CONTROL_ACCOUNT}", self.trust_domain, self.root_namespace)
    }
}
