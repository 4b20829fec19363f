//! A proxy between hostile peers, and what must hold after every attack.

use crate::backend::Backend;
use crate::client::{self, Ask};
use crate::config::{self, TO_BE};
use crate::process::{Process, free_port};

/// Memory that hostile traffic may cost, in bytes.
const MAX_GROWTH_BYTES: u64 = 10 * 1024 * 1024;

/// What is special about a lab.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// Further fields of the connection manager.
    pub http: &'a str,
    /// Where `be` is, if it is not the backend.
    pub upstream: Option<u16>,
    /// Further fields of the cluster `be`.
    pub cluster: &'a str,
    /// The proxy's environment.
    pub env: &'a [(&'a str, &'a str)],
    /// Files that the proxy may have open.
    pub open_files: Option<u32>,
}

/// A proxy that denies `/admin`, sends `/well` to the backend and everything else to `be`.
#[derive(Debug)]
pub struct Lab {
    /// The proxy.
    pub proxy: Process,
    /// An upstream that means well.
    pub backend: Backend,
    /// Where the operator's endpoints are.
    pub admin: u16,
    /// Where the proxy listens.
    pub port: u16,
    rss_bytes: u64,
}

impl Lab {
    /// With the backend as its only upstream, and a second for a head to come in.
    pub async fn start() -> Self {
        Self::with(Setup { http: "request_headers_timeout: 1s", ..Setup::default() }).await
    }

    /// With `be` at this port, and with one worker, so that there is one pool of connections to it. `cluster` holds
    /// further fields of it.
    pub async fn before(upstream: u16, cluster: &str) -> Self {
        let env = &[("OUTRIDER_WORKERS", "1")];
        Self::with(Setup { upstream: Some(upstream), cluster, env, ..Setup::default() }).await
    }

    /// As it is set up.
    pub async fn with(setup: Setup<'_>) -> Self {
        let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
        let routes = [
            "{match: {prefix: /admin}, direct_response: {status: 403}}",
            "{match: {prefix: /well}, route: {cluster: well}}",
            TO_BE,
        ];
        let clusters = [
            config::cluster("be", setup.upstream.unwrap_or(backend.port), setup.cluster),
            config::cluster("well", backend.port, ""),
        ];
        let config = config::web(admin, port, setup.http, &routes, &clusters);
        let proxy = Process::outrider_limited(&config, admin, setup.env, setup.open_files);
        Self { rss_bytes: proxy.rss_bytes(), proxy, backend, admin, port }
    }

    /// Memory that the proxy has taken since its start, in bytes.
    #[must_use]
    pub fn growth_bytes(&self) -> u64 {
        self.proxy.rss_bytes().saturating_sub(self.rss_bytes)
    }

    /// What must hold after any attack: the proxy lives, serves the next clean request, and is no larger.
    ///
    /// # Panics
    /// When it does not hold.
    pub async fn is_well(&mut self) {
        assert!(self.proxy.is_running());
        let answer = client::h1(self.port, &Ask { path: "/well".into(), ..Ask::default() }).await;
        assert_eq!(answer.status, 200, "the next clean request is served: {answer:?}");
        let growth = self.growth_bytes();
        assert!(growth < MAX_GROWTH_BYTES, "grew by {growth} bytes");
    }

    /// A metric's value, summed over its labels; 0 when there is none.
    ///
    /// # Panics
    /// When the proxy does not answer.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let all = crate::process::admin_get(self.admin, "/metrics").expect("metrics");
        let of_it = all.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        });
        of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
