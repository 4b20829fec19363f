//! Opaque streams on a filter chain: a compiled `TcpProxy`.

use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;

use super::access_log::{self, AccessLog};
use super::headers::HeaderChanges;
use super::overrides::FilterOverrides;
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
                        let name = parse::required(&entry.name, "name", path);
                        if entry.weight == 0 {
                            return path.field("weight", |path| path.refuse("must be at least 1"));
                        }
                        name
                    })?;
                    Some((
                        entry.weight,
                        WeightedEntry {
                            cluster: name,
                            subset: None,
                            request_headers: HeaderChanges::default(),
                            response_headers: HeaderChanges::default(),
                            filters: FilterOverrides::default(),
                        },
                    ))
                });
                let entries: Vec<_> = entries.collect();
                if clusters.clusters.is_empty() {
                    return path.field("clusters", |path| path.refuse("missing"));
                }
                // One that is left out has had its fault.
                if entries.len() < clusters.clusters.len() {
                    return None;
                }
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

#[cfg(test)]
mod tests {
    use outrider_proto::json;

    use super::*;

    fn compile(yaml: &str) -> Result<TcpChain, Vec<String>> {
        let value: pb::TcpProxy = json::from_yaml(yaml).unwrap();
        let mut path = Path::root();
        let chain = TcpChain::from_proto(&value, &mut path);
        path.finish(chain).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_those_of_envoy() {
        let chain = compile("{stat_prefix: s, cluster: c}").unwrap();
        assert_eq!((chain.idle_timeout, chain.max_connect_attempts), (Some(Duration::from_secs(3600)), 1));
        assert_eq!(&**chain.cluster.pick(7).0, "c");
        let chain =
            compile("{stat_prefix: s, cluster: c, idle_timeout: 0s, max_connect_attempts: 3}").unwrap();
        assert_eq!((chain.idle_timeout, chain.max_connect_attempts), (None, 3));
    }

    #[test]
    fn weights_are_shares() {
        let yaml =
            "{stat_prefix: s, weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 2}]}}";
        let chain = compile(yaml).unwrap();
        let drawn: Vec<&str> = (0..3).map(|random| &**chain.cluster.pick(random).0).collect();
        assert_eq!(drawn, ["a", "b", "b"]);
    }

    #[test]
    fn faults_name_their_fields() {
        for (yaml, expected) in [
            ("{cluster: c}", "stat_prefix: missing"),
            ("{stat_prefix: s}", "one of cluster and weighted_clusters is needed"),
            ("{stat_prefix: s, cluster: ''}", "cluster: missing"),
            (
                "{stat_prefix: s, cluster: c, max_connect_attempts: 0}",
                "max_connect_attempts: must be at least 1",
            ),
            ("{stat_prefix: s, cluster: c, idle_timeout: -1s}", "idle_timeout: must not be negative"),
            ("{stat_prefix: s, weighted_clusters: {}}", "weighted_clusters.clusters: missing"),
            (
                "{stat_prefix: s, weighted_clusters: {clusters: [{name: a, weight: 0}]}}",
                "weighted_clusters.clusters[0].weight: must be at least 1",
            ),
            (
                "{stat_prefix: s, weighted_clusters: {clusters: [{weight: 1}]}}",
                "weighted_clusters.clusters[0].name: missing",
            ),
        ] {
            assert_eq!(compile(yaml).unwrap_err(), [expected], "{yaml}");
        }
    }
}
