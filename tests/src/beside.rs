//! The same configuration in our proxy and, where it is there, in Envoy.

use crate::client::{self, Answer, Ask};
use crate::config::web;
use crate::process::{Process, admin_get, envoy_binary, free_port};

/// One of the two.
#[derive(Debug)]
pub struct Beside {
    /// `ours` or `Envoy`.
    pub name: &'static str,
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub port: u16,
    /// Where its operator's endpoints are.
    pub admin: u16,
}

impl Beside {
    /// Ours, with further settings of the connection manager.
    #[must_use]
    pub fn ours(http: &str, routes: &[&str], clusters: &[String], env: &[(&str, &str)]) -> Self {
        let (admin, port) = (free_port(), free_port());
        let config = web(admin, port, http, routes, clusters);
        Self { name: "ours", process: Process::outrider_with(&config, admin, env), port, admin }
    }

    /// Envoy, if it is there.
    #[must_use]
    pub fn envoy(http: &str, routes: &[&str], clusters: &[String]) -> Option<Self> {
        let binary = envoy_binary()?;
        let (admin, port) = (free_port(), free_port());
        let config = web(admin, port, http, routes, clusters);
        Some(Self { name: "Envoy", process: Process::envoy(&binary, &config, admin), port, admin })
    }

    /// Both; ours with one worker, as Envoy has one here.
    #[must_use]
    pub fn both(http: &str, routes: &[&str], clusters: &[String]) -> Vec<Self> {
        let ours = Self::ours(http, routes, clusters, &[("OUTRIDER_WORKERS", "1")]);
        std::iter::once(ours).chain(Self::envoy(http, routes, clusters)).collect()
    }

    /// Asks for a path.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        client::h1(self.port, &Ask { path: path.to_owned(), headers, ..Ask::default() }).await
    }

    /// What an endpoint of the operator says.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn operator(&self, path: &str) -> String {
        admin_get(self.admin, path).expect("an answer")
    }
}
