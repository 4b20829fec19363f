//! Which ports are in the mesh, kept over a restart: without that, a service whose sidecars are all away at the time would be
//! spoken to in plaintext.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::ca::state::StateDir;
use crate::compile::model::InMesh;
use crate::engine::Engine;
use crate::kubernetes::memory::Memory;
use crate::object::{Key, ObjectKind};
use crate::snapshots::Snapshots as _;

const FILE: &str = "in-mesh.json";
/// The object in which replicas keep it together, in the mesh's own namespace.
pub(super) const SHARED: &str = "outrider-control-in-mesh";
/// Before the API server is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// Changes in quick succession are written once.
const PAUSE: Duration = Duration::from_millis(200);

/// What was known before the restart; nothing before the first one.
///
/// # Errors
/// When the file cannot be read: to go on without it could mean plaintext.
pub(super) fn restore(state: &StateDir) -> Result<InMesh, String> {
    let Some(content) = state.read(FILE).map_err(|error| error.to_string())? else {
        return Ok(InMesh::new());
    };
    let wrong = |reason: String| {
        format!(
            "{FILE}: {reason}; it says which services are spoken to with mutual TLS only: put a good one in its place"
        )
    };
    read(&content).map_err(wrong)
}

/// What all replicas in a cluster know together. The API server is waited for; where it forbids to look, each replica has
/// only what its own state directory says.
///
/// # Errors
/// When what is kept cannot be read: to go on without it could mean plaintext.
pub(super) async fn restore_shared(memory: &Memory) -> Result<InMesh, String> {
    loop {
        match memory.read().await {
            Ok(Some(content)) if !content.is_empty() => {
                return read(content.as_bytes()).map_err(|reason| format!("ConfigMap {SHARED}: {reason}"));
            }
            Ok(_) => return Ok(InMesh::new()),
            Err(error) if error.code() == Some(403) => {
                tracing::warn!(%error, "which services are in the mesh is not known from other replicas");
                return Ok(InMesh::new());
            }
            Err(error) => {
                tracing::warn!(%error, "waiting to know which services are in the mesh");
                sleep(RETRY).await;
            }
        }
    }
}

/// Keeps what the replicas know together as it is here, for as long as the process lives, while this is the replica that
/// holds the lease.
pub(super) async fn share(memory: Memory, engine: Arc<Engine>, mut holds: watch::Receiver<bool>) {
    let mut changes = engine.changes();
    let mut written = None;
    while holds.wait_for(|holds| *holds).await.is_ok() {
        let all = engine.compiled().mesh.in_mesh();
        if written.as_ref() != Some(&all) {
            let content: Vec<String> = all.iter().map(shown).collect();
            match memory.write(&serde_json::json!(content).to_string()).await {
                Ok(()) => written = Some(all),
                Err(error) => {
                    tracing::warn!(%error, "which services are in the mesh cannot be kept for all replicas");
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            // Somebody else writes then, and what we have written may be overwritten.
            lost = holds.wait_for(|holds| !*holds) => {
                written = None;
                if lost.is_err() { return }
            }
        }
        sleep(PAUSE).await;
    }
}

fn read(content: &[u8]) -> Result<InMesh, String> {
    let all: Vec<String> = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    all.iter().map(|text| parse(text).ok_or_else(|| format!("\"{text}\" is no port"))).collect()
}

/// Keeps the file as the mesh is, for as long as the process lives.
pub(super) async fn run(state: StateDir, engine: Arc<Engine>) {
    let mut changes = engine.changes();
    let mut written = None;
    loop {
        let all = engine.compiled().mesh.in_mesh();
        if written.as_ref() != Some(&all) {
            let content: Vec<String> = all.iter().map(shown).collect();
            let state = state.clone();
            let done = tokio::task::spawn_blocking(move || {
                let content = serde_json::to_vec(&content).map_err(|error| error.to_string())?;
                state.write(FILE, &content, 0o600).map_err(|error| error.to_string())
            });
            match done.await {
                Ok(Ok(())) => written = Some(all),
                Ok(Err(error)) => tracing::error!(error, "which services are in the mesh cannot be written"),
                Err(error) => tracing::error!(%error, "which services are in the mesh cannot be written"),
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
        sleep(PAUSE).await;
    }
}

fn shown((service, port): &(Key, u16)) -> String {
    format!("{}/{}:{port}", service.namespace, service.name)
}

fn parse(text: &str) -> Option<(Key, u16)> {
    let (service, port) = text.rsplit_once(':')?;
    let (namespace, name) = service.split_once('/')?;
    Some((Key::new(ObjectKind::Service, namespace, name), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    #[test]
    fn what_was_written_is_known_again_and_nonsense_is_refused() {
        let scratch = Scratch::new("in-mesh");
        let state = StateDir::open(&scratch.path().join("state")).unwrap();
        assert_eq!(restore(&state), Ok(InMesh::new()));
        let port = (Key::new(ObjectKind::Service, "shop", "web"), 80);
        let content = serde_json::to_vec(&[shown(&port)]).unwrap();
        state.write(FILE, &content, 0o600).unwrap();
        assert_eq!(restore(&state), Ok(InMesh::from([port])));
        for bad in ["[", "[\"shop/web\"]", "[\"web:80\"]", "[\"shop/web:x\"]"] {
            state.write(FILE, bad.as_bytes(), 0o600).unwrap();
            assert!(restore(&state).is_err_and(|error| error.contains(FILE)), "{bad}");
        }
    }
}
