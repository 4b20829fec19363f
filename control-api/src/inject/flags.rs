//! What a command line says of sidecars: the same for `outrider inject` and for the control server.

use clap::Args;
use outrider_proto::Fault;

use super::settings::{Families, Redirect, Settings};
use super::tuning::{Quantity, Seconds};

/// The image of sidecars where no other is named.
pub const SIDECAR_IMAGE: &str = concat!("outrider-proxy:", env!("CARGO_PKG_VERSION"));

/// How sidecars are made.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// The image of the sidecar and of its init container.
    #[arg(long, value_name = "IMAGE", default_value = SIDECAR_IMAGE)]
    pub sidecar_image: String,
    /// When the image is pulled; the cluster decides when it is not said.
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub sidecar_pull_policy: Option<String>,
    /// Where sidecars find the control server, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "outrider-control.outrider-system.svc:15012")]
    pub sidecar_control: String,
    /// How a pod's connections come to its sidecar.
    #[arg(long, value_enum, default_value_t = Redirect::Init)]
    pub sidecar_redirect: Redirect,
    /// IP families of the pods.
    #[arg(long, value_enum, default_value_t = Families::Dual)]
    pub sidecar_ip_families: Families,
    /// Sidecars as usual containers, for clusters before Kubernetes 1.29.
    #[arg(long)]
    pub sidecar_classic: bool,
    /// What a sidecar asks for.
    #[arg(long, value_name = "AMOUNT", default_value = "10m")]
    pub sidecar_cpu_request: Quantity,
    /// What a sidecar asks for.
    #[arg(long, value_name = "AMOUNT", default_value = "16Mi")]
    pub sidecar_memory_request: Quantity,
    /// What a sidecar may use at most.
    #[arg(long, value_name = "AMOUNT", default_value = "256Mi")]
    pub sidecar_memory_limit: Quantity,
    /// How long a sidecar finishes what is under way.
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    pub sidecar_drain: Seconds,
    /// Worker threads of a sidecar.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub sidecar_workers: u16,
}

impl Flags {
    /// The settings that come of them.
    ///
    /// # Errors
    /// What cannot be right.
    pub fn settings(&self, mesh: (&str, &str), roots: &str) -> Result<Settings, Vec<Fault>> {
        let (host, port) = self.sidecar_control.rsplit_once(':').unwrap_or((&self.sidecar_control, "0"));
        let control = (host.trim_matches(['[', ']']), port.parse().unwrap_or(0));
        let mut settings = Settings::new(&self.sidecar_image, control, roots);
        settings.pull_policy.clone_from(&self.sidecar_pull_policy);
        (settings.trust_domain, settings.root_namespace) = (mesh.0.to_owned(), mesh.1.to_owned());
        settings.redirect = self.sidecar_redirect;
        settings.families = self.sidecar_ip_families;
        settings.native = !self.sidecar_classic;
        settings.resources.cpu_request = self.sidecar_cpu_request.clone();
        settings.resources.memory_request = self.sidecar_memory_request.clone();
        settings.resources.memory_limit = Some(self.sidecar_memory_limit.clone());
        settings.drain = self.sidecar_drain;
        settings.workers = self.sidecar_workers;
        settings.check()?;
        Ok(settings)
    }
}
