//! Which ports are in the mesh, kept over a restart: without that, a service whose sidecars are all away at the time would be
//! spoken to in plaintext.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::ca::state::StateDir;
use crate::compile::model::InMesh;
use crate::engine::Engine;
use crate::object::{Key, ObjectKind};
use crate::snapshots::Snapshots as _;

const FILE: &str = "in-mesh.json";
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
    let all: Vec<String> = serde_json::from_slice(&content).map_err(|error| wrong(error.to_string()))?;
    all.iter().map(|text| parse(text).ok_or_else(|| wrong(format!("\"{text}\" is no port")))).collect()
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
