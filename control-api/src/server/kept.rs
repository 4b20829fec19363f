//! Workloads that have registered themselves, kept over a restart: without that, the endpoints of a service would be gone
//! until each of its proxies has connected again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::auth;
use crate::ca::state::StateDir;
use crate::proxy_info::{ProxyInfo, WorkloadPort};
use crate::registry::{RegisteredWorkload, Workloads};

const FILE: &str = "workloads.json";
/// Changes in quick succession are written once.
const PAUSE: Duration = Duration::from_millis(200);

/// A workload in the file.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    id: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
    identity: Option<String>,
    service: Option<Arc<str>>,
    workload: Arc<str>,
    labels: BTreeMap<Arc<str>, Arc<str>>,
    address: Option<IpAddr>,
    ports: Vec<(Arc<str>, u16)>,
}

/// Takes over who was there. A file that cannot be read costs nothing but the wait for the proxies.
pub(super) fn restore(state: &StateDir, workloads: &Workloads) {
    let read = state.read(FILE).map_err(|error| error.to_string()).and_then(|content| {
        let Some(content) = content else { return Ok(Vec::new()) };
        serde_json::from_slice::<Vec<Kept>>(&content).map_err(|error| error.to_string())
    });
    match read {
        Ok(all) if all.is_empty() => {}
        Ok(all) => {
            tracing::info!(workloads = all.len(), "waiting for workloads of before the restart");
            workloads.restore(all.into_iter().filter_map(Kept::info).collect());
        }
        Err(error) => tracing::warn!(file = FILE, error, "workloads of before the restart are not known"),
    }
}

/// Keeps the file as the workloads are, until they are gone.
pub(super) async fn run(state: StateDir, mut workloads: watch::Receiver<Arc<Vec<RegisteredWorkload>>>) {
    while workloads.changed().await.is_ok() {
        tokio::time::sleep(PAUSE).await;
        let all = Arc::clone(&workloads.borrow_and_update());
        let kept: Vec<Kept> = all.iter().map(|one| Kept::new(&one.info)).collect();
        let state = state.clone();
        let written = tokio::task::spawn_blocking(move || {
            let content = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
            state.write(FILE, &content, 0o600).map_err(|error| error.to_string())
        });
        if let Ok(Err(error)) = written.await {
            tracing::error!(error, "the workloads cannot be written");
        }
    }
}

impl Kept {
    fn new(info: &ProxyInfo) -> Self {
        Self {
            id: Arc::clone(&info.id),
            namespace: Arc::clone(&info.namespace),
            service_account: Arc::clone(&info.service_account),
            identity: info.identity.as_ref().map(ToString::to_string),
            service: info.service.clone(),
            workload: Arc::clone(&info.workload),
            labels: info.labels.clone(),
            address: info.address,
            ports: info.ports.iter().map(|port| (Arc::clone(&port.name), port.number)).collect(),
        }
    }

    /// As it was; `None` for an identity that there cannot be.
    fn info(self) -> Option<ProxyInfo> {
        let identity = match self.identity {
            Some(identity) => Some(auth::parse(&identity)?),
            None => None,
        };
        Some(ProxyInfo {
            id: self.id,
            namespace: self.namespace,
            service_account: self.service_account,
            service: self.service,
            workload: self.workload,
            labels: self.labels,
            address: self.address,
            // It is kept because it was.
            is_there: true,
            ports: self.ports.into_iter().map(|(name, number)| WorkloadPort { name, number }).collect(),
            identity,
            ..ProxyInfo::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    #[test]
    fn a_workload_comes_back_as_it_was_and_nonsense_is_nobody() {
        let scratch = Scratch::new("kept");
        let state = StateDir::open(&scratch.path().join("state")).unwrap();
        let info = ProxyInfo {
            id: "a".into(),
            namespace: "shop".into(),
            workload: "a".into(),
            service: Some("web".into()),
            address: Some([10, 0, 0, 1].into()),
            is_there: true,
            ports: vec![WorkloadPort { name: "http".into(), number: 80 }],
            labels: BTreeMap::from([("app".into(), "web".into())]),
            identity: auth::parse("spiffe://a/ns/shop/sa/web"),
            ..ProxyInfo::default()
        };
        let content = serde_json::to_vec(&[Kept::new(&info)]).unwrap();
        let restored = |content: &[u8]| {
            state.write(FILE, content, 0o600).unwrap();
            let workloads = Workloads::default();
            restore(&state, &workloads);
            let all = Arc::clone(&workloads.watch().borrow());
            all.iter().map(|one| ProxyInfo::clone(&one.info)).collect::<Vec<_>>()
        };
        assert_eq!(restored(&content), [info]);
        assert_eq!(restored(b"{"), []);
        let foreign = String::from_utf8(content).unwrap().replace("spiffe://", "https://");
        assert_eq!(restored(foreign.as_bytes()), []);
    }
}
