//! The admission webhooks as a part of the control server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::StartError;
use crate::audit::Exemption;
use crate::ca::Authority;
use crate::inject::flags::Flags;
use crate::serve::listen::Transport;
use crate::webhook::certificates::Certificates;
use crate::webhook::{OnError, Policy, bundle, server};

/// The admission webhooks.
#[derive(Args, Clone, Debug)]
pub(super) struct Webhook {
    /// Where the API server asks the admission webhooks; there are none when it is not said.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) webhook_address: Option<SocketAddr>,
    /// Authorities (PEM): only clients are answered that show a certificate of one of them. Without it whoever can connect
    /// is. It is read again when it changes.
    #[arg(long, value_name = "FILE", requires = "webhook_address")]
    webhook_client_ca: Option<PathBuf>,
    /// What becomes of a pod that should have a sidecar and can have none that works.
    #[arg(long, value_enum, default_value_t = OnError::Deny)]
    webhook_on_error: OnError,
    /// Rules of the audit that do not hold for the pods of a service account (`*`: of all in the namespace); may be
    /// repeated.
    #[arg(long, value_name = "NAMESPACE/ACCOUNT=RULE,RULE")]
    audit_exempt: Vec<Exemption>,
    #[command(flatten)]
    flags: Flags,
}

/// By which name the API server calls the webhooks: that of their Service.
pub(super) fn dns_name(root_namespace: &str) -> String {
    format!("outrider-control.{root_namespace}.svc")
}

/// Listens, if that is asked for.
pub(super) async fn start(
    arguments: &Webhook,
    mesh: (&str, &str),
    (authority, client): (Arc<Authority>, Option<Client>),
    transport: &Transport,
    ending: watch::Receiver<bool>,
) -> Result<(), StartError> {
    let Some(address) = arguments.webhook_address else { return Ok(()) };
    let Transport::Tls(tls) = transport else {
        return Err(StartError(
            "--webhook-address: the API server asks over TLS; leave --plaintext off".to_owned(),
        ));
    };
    let certificates = match &arguments.webhook_client_ca {
        None => Certificates::new(tls.clone()),
        Some(file) => Certificates::with_clients(tls.clone(), file)
            .map_err(|error| StartError::of("--webhook-client-ca")(&error))?,
    };
    let (policy, policies) = watch::channel(Arc::new(policy(arguments, mesh, &authority)?));
    let failed = |error: std::io::Error| StartError(format!("--webhook-address: {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(address = %bound, "admission webhooks are ready");
    tokio::spawn(server::run(listener, policies, certificates, ending.clone()));
    if let Some(client) = client {
        tokio::spawn(bundle::run(client, Arc::clone(&authority), ending));
    }
    let (arguments, mesh) = (arguments.clone(), (mesh.0.to_owned(), mesh.1.to_owned()));
    tokio::spawn(async move {
        let mut changes = authority.changes();
        while changes.changed().await.is_ok() {
            // New pods are told of new roots.
            match self::policy(&arguments, (&mesh.0, &mesh.1), &authority) {
                Ok(next) => drop(policy.send_replace(Arc::new(next))),
                Err(error) => tracing::error!(%error, "new roots cannot be given to sidecars"),
            }
        }
    });
    Ok(())
}

fn policy(arguments: &Webhook, mesh: (&str, &str), authority: &Authority) -> Result<Policy, StartError> {
    let settings = arguments.flags.settings(mesh, &authority.roots_pem()).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(|fault| format!("--sidecar-*: {fault}")).collect();
        StartError(faults.join("; "))
    })?;
    let exemptions = arguments.audit_exempt.clone();
    Ok(Policy { settings, exemptions, on_error: arguments.webhook_on_error })
}
