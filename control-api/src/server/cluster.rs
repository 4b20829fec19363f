//! The server's part in a Kubernetes cluster.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::arguments::Serve;
use super::{StartError, in_mesh};
use crate::engine::Engine;
use crate::kubernetes::connect;
use crate::kubernetes::counts::{self, Exchange};
use crate::kubernetes::lease::{Lease, Terms};
use crate::kubernetes::memory::Memory;
use crate::kubernetes::write::{self, Writer};
use crate::registry::Registry;
use crate::source::View;
use crate::source::kubernetes::{self, Pace};

/// What of the replicas one holds: the one who writes statuses.
const LEASE: &str = "outrider-control";
/// How often it is said what the start waits for.
const REPORT: Duration = Duration::from_secs(10);
/// To give the lease back at the end.
const GIVE_BACK: Duration = Duration::from_secs(3);
/// Where the kernel says what this machine, or this pod, is called.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The API server, if objects come from one.
pub(super) async fn client(serve: &Serve) -> Result<Option<Client>, StartError> {
    if !serve.kubernetes && serve.kubeconfig.is_none() {
        return Ok(None);
    }
    let flag = if serve.kubeconfig.is_some() { "--kubeconfig" } else { "--kubernetes" };
    let connected = connect(serve.kubeconfig.as_deref()).await;
    connected.map(Some).map_err(|error| StartError::of(flag)(&error))
}

/// The objects of a cluster, as soon as all are known.
pub(super) async fn source(client: &Client) -> Result<watch::Receiver<View>, StartError> {
    let (mut views, _task) = kubernetes::watch(client, Pace::default());
    loop {
        let complete = tokio::time::timeout(REPORT, views.wait_for(|view| view.complete));
        match complete.await {
            Ok(Ok(_)) => break,
            Ok(Err(_)) => return Err(StartError("the Kubernetes API is no longer followed".to_owned())),
            Err(_) => {}
        }
        for diagnostic in views.borrow().diagnostics.iter().filter(|one| one.object.is_none()) {
            tracing::warn!(%diagnostic, "waiting for the Kubernetes API");
        }
    }
    Ok(views)
}

/// Writes what is said about objects into their statuses, if this is the replica that holds the lease. The task ends when
/// the lease was given back.
pub(super) fn write(
    client: Client,
    serve: &Serve,
    (engine, registry): (Arc<Engine>, Arc<Registry>),
    ending: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (held, holds) = watch::channel(false);
    let memory = memory(client.clone(), serve);
    tokio::spawn(in_mesh::share(memory, Arc::clone(&engine), holds.clone()));
    let holder = holder();
    let exchange = Exchange::new(client.clone(), &serve.root_namespace, &holder, Arc::clone(&registry));
    let writer = Writer::new(client.clone(), engine, (registry, exchange.others()));
    tokio::spawn(exchange.run(counts::PAUSE));
    tokio::spawn(writer.run(holds, write::PAUSE));
    let lease = Lease::new(client, &serve.root_namespace, LEASE, holder, Terms::default());
    tokio::spawn(lease.run(held, ending))
}

/// What replicas know together of which services are in the mesh.
pub(super) fn memory(client: Client, serve: &Serve) -> Memory {
    Memory::new(client, &serve.root_namespace, in_mesh::SHARED)
}

/// Waits until the lease was given back, but not for long: it ends by itself.
pub(super) async fn written(lease: Option<JoinHandle<()>>) {
    if let Some(lease) = lease {
        drop(tokio::time::timeout(GIVE_BACK, lease).await);
    }
}

/// A name that no other replica has, nor this one had before it was started anew.
fn holder() -> String {
    let host = std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default();
    let mut random = [0; 4];
    // Without randomness the process' number must do.
    let random = match SystemRandom::new().fill(&mut random) {
        Ok(()) => u32::from_be_bytes(random),
        Err(_) => std::process::id(),
    };
    format!("{}_{random:08x}", host.trim())
}
