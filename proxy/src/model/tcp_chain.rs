//! Opaque streams on a filter chain: a compiled `TcpProxy`.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;

use super::access_log::{self, AccessLog};
use super::headers::HeaderChanges;
use super::parse;
use super::route::{ClusterChoice, WeightedEntry};

/// Envoy's default of `idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A compiled TCP proxy.
#[derive(Debug)]
pub struct TcpChain {
    /// The name in metrics.
    pub stat_prefix: Arc<str>,
    /// Where connections go.
    pub cluster: ClusterChoice,
    /// Without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// Endpoints that are tried.
    pub max_connect_attempts: u32,
    /// Lines about connections.
    pub access_logs: Vec<Arc<AccessLog>>,
}

impl TcpChain {
    pub(super) fn from_proto(value: &pb::TcpProxy, path: &mut Path) -> Option<Self> {
        use pb::tcp_proxy::ClusterSpecifier;
        let stat_prefix = parse::required(&value.stat_prefix, "stat_prefix", path);
        let cluster = match &value.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => {
                parse::required(name, "cluster", path).map(ClusterChoice::One)
            }
            Some(ClusterSpecifier::WeightedClusters(clusters)) => path.field("weighted_clusters", |path| {
                let entries = clusters.clusters.iter().enumerate().filter_map(|(index, entry)| {
                    let name = path.item("clusters", index, |path| {
                        if entry.weight == 0 {
                            path.fault_at("weight", "must be at least 1");
                        }
                        parse::required(&entry.name, "name", path)
                    })?;
                    let request_headers = HeaderChanges::default();
                    let response_headers = HeaderChanges::default();
                    Some((entry.weight, WeightedEntry { cluster: name, request_headers, response_headers }))
                });
                let entries = entries.collect();
                ClusterChoice::weighted(entries, path)
            }),
            None => path.refuse("one of cluster and weighted_clusters is needed"),
        };
        if value.max_connect_attempts == Some(0) {
            path.fault_at("max_connect_attempts", "must be at least 1");
        }
        Some(Self {
            idle_timeout: parse::limit(value.idle_timeout.as_ref(), Some(IDLE_TIMEOUT), "idle_timeout", path),
            max_connect_attempts: value.max_connect_attempts.unwrap_or(1),
            access_logs: access_log::compile(&value.access_log, path),
            stat_prefix: stat_prefix?,
            cluster: cluster?,
        })
    }
}
