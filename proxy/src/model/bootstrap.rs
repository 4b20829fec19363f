//! The start-up file, compiled.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use outrider_proto::envoy::config::bootstrap::v3 as pb;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::outrider::config::v1 as own;
use outrider_proto::{Fault, Path};

use super::cluster::Cluster;
use super::endpoint::{LocalCluster, Locality};
use super::files::NamedFiles;
use super::identity::IdentitySource;
use super::listener::Listener;
use super::overload::Overload;
use super::parse;
use super::tls::Secret;

/// How long a destination is kept that nobody uses, where nothing is said, and at least.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// The resources of the start-up file, as they came and compiled by the same code as what comes over xDS.
#[derive(Debug, Default)]
pub struct StaticResources {
    /// Listeners.
    pub listeners: Vec<(outrider_proto::envoy::config::listener::v3::Listener, Listener)>,
    /// Clusters.
    pub clusters: Vec<(outrider_proto::envoy::config::cluster::v3::Cluster, Cluster)>,
    /// Secrets.
    pub secrets: Vec<Secret>,
}

/// A checked bootstrap.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: core::Node,
    /// Where the operator's endpoints listen.
    pub admin: Option<SocketAddr>,
    /// Resources of the file.
    pub resources: StaticResources,
    /// What comes over ADS, if anything.
    pub ads: Option<AdsSource>,
    /// How long a destination is kept that nobody uses, where they are asked for; `None` where all is told at once.
    pub on_demand: Option<Duration>,
    /// Where the workload's identity comes from, if it has one.
    pub identity: Option<IdentitySource>,
    /// What is done when the process runs short of something.
    pub overload: Option<Overload>,
    /// The cluster that this proxy is an endpoint of, if it says so.
    pub local_cluster: Option<LocalCluster>,
    /// The files that the file names, if that was looked for.
    pub files: NamedFiles,
}

/// Which resources come over ADS, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdsSource {
    /// The static cluster of the control server.
    pub cluster: String,
    /// Listeners come over it.
    pub listeners: bool,
    /// Clusters come over it.
    pub clusters: bool,
    /// Clusters are asked for by name, and destinations when the workload calls them.
    pub on_demand: bool,
}

impl Bootstrap {
    /// Checks a bootstrap, every resource in it included.
    ///
    /// # Errors
    /// All faults, with the paths of the fields.
    pub fn from_proto(value: pb::Bootstrap) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let mut faults = Vec::new();
        let messages = value.static_resources.unwrap_or_default();
        check_unique(&messages, &mut path);
        let mut ads = value
            .dynamic_resources
            .as_ref()
            .and_then(|dynamic| path.field("dynamic_resources", |path| ads(dynamic, &messages, path)));
        let local_cluster = value.cluster_manager.as_ref().and_then(|manager| {
            let name =
                path.field("cluster_manager", |path| local_cluster(manager, &messages, ads.as_ref(), path))?;
            let node = value.node.as_ref().and_then(|node| node.locality.as_ref());
            Some(LocalCluster { name, locality: Locality::of(node) })
        });
        let resources = StaticResources::compile(messages, &mut faults);
        let admin = value.admin.as_ref().and_then(|admin| {
            path.field("admin", |path| {
                parse::plain_address(admin.address.as_ref(), path);
                parse::socket_address(admin.address.as_ref(), path)
            })
        });
        let identity = value.outrider.as_ref().and_then(|own| own.identity.as_ref()).and_then(|identity| {
            path.field("outrider.identity", |path| IdentitySource::from_proto(identity, path))
        });
        let on_demand = value.outrider.as_ref().and_then(|own| own.on_demand.as_ref());
        let on_demand = on_demand
            .map(|own| path.field("outrider.on_demand", |path| idle_timeout(own, ads.as_mut(), path)));
        let overload = value
            .overload_manager
            .as_ref()
            .map(|overload| path.field("overload_manager", |path| Overload::from_proto(overload, path)));
        let (node, files) = (value.node.unwrap_or_default(), NamedFiles::default());
        let bootstrap =
            Self { node, admin, resources, ads, on_demand, identity, overload, local_cluster, files };
        match path.finish(Some(bootstrap)) {
            Ok(bootstrap) if faults.is_empty() => Ok(bootstrap),
            Ok(_) => Err(faults),
            Err(own) => Err(faults.into_iter().chain(own).collect()),
        }
    }
}

impl StaticResources {
    fn compile(messages: pb::bootstrap::StaticResources, faults: &mut Vec<Fault>) -> Self {
        let mut collect = |name: String, found: Vec<Fault>| {
            faults.extend(found.into_iter().map(|fault| {
                let inner = if fault.path.is_empty() { String::new() } else { format!(".{}", fault.path) };
                Fault::new(format!("static_resources.{name}{inner}"), fault.reason)
            }));
        };
        let names: HashSet<String> = messages.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        let mut resources = Self::default();
        for (index, message) in messages.listeners.into_iter().enumerate() {
            let checked = Listener::of_start_up(&message).and_then(|listener| {
                match listener.unknown_cluster(|name| names.contains(name)) {
                    Some(name) => Err(vec![Fault::new(
                        "route_config.validate_clusters",
                        format!("cluster \"{name}\" does not exist"),
                    )]),
                    None => Ok(listener),
                }
            });
            match checked {
                Ok(listener) => resources.listeners.push((message, listener)),
                Err(found) => collect(format!("listeners[{index}]"), found),
            }
        }
        for (index, message) in messages.clusters.into_iter().enumerate() {
            match Cluster::from_proto(&message) {
                Ok(cluster) => resources.clusters.push((message, cluster)),
                Err(found) => collect(format!("clusters[{index}]"), found),
            }
        }
        for (index, message) in messages.secrets.iter().enumerate() {
            match Secret::from_proto(message) {
                Ok(secret) => resources.secrets.push(secret),
                Err(found) => collect(format!("secrets[{index}]"), found),
            }
        }
        resources
    }
}

/// How long a destination is kept that nobody uses. Listeners and clusters must come over ADS.
fn idle_timeout(value: &own::OnDemand, ads: Option<&mut AdsSource>, path: &mut Path) -> Duration {
    match ads.filter(|ads| ads.listeners && ads.clusters) {
        Some(ads) => ads.on_demand = true,
        None => path.fault("needs lds_config and cds_config over ADS"),
    }
    let timeout = parse::duration(value.idle_timeout.as_ref(), IDLE_TIMEOUT, "idle_timeout", path);
    if timeout < LEAST_IDLE {
        path.fault_at("idle_timeout", "must be 1 s at least");
    }
    timeout
}

/// Its name, which must be that of a cluster that there is or may come.
fn local_cluster(
    value: &pb::ClusterManager,
    resources: &pb::bootstrap::StaticResources,
    ads: Option<&AdsSource>,
    path: &mut Path,
) -> Option<Box<str>> {
    let name = value.local_cluster_name.as_str();
    let known = resources.clusters.iter().any(|cluster| cluster.name == name);
    if !name.is_empty() && !known && !ads.is_some_and(|ads| ads.clusters) {
        path.fault_at("local_cluster_name", format!("no cluster \"{name}\""));
    }
    (!name.is_empty()).then(|| name.into())
}

fn check_unique(resources: &pb::bootstrap::StaticResources, path: &mut Path) {
    let mut names = HashSet::new();
    for (index, cluster) in resources.clusters.iter().enumerate() {
        if !names.insert(&cluster.name) {
            path.item("static_resources.clusters", index, |path| {
                path.fault(format!("\"{}\" is there twice", cluster.name))
            });
        }
    }
    let mut names = HashSet::new();
    for (index, secret) in resources.secrets.iter().enumerate() {
        if !names.insert(&secret.name) {
            path.item("static_resources.secrets", index, |path| {
                path.fault(format!("\"{}\" is there twice", secret.name))
            });
        }
    }
    let mut addresses = HashSet::new();
    let mut names = HashSet::new();
    for (index, listener) in resources.listeners.iter().enumerate() {
        path.item("static_resources.listeners", index, |path| {
            if !listener.name.is_empty() && !names.insert(&listener.name) {
                path.fault_at("name", format!("\"{}\" is there twice", listener.name));
            }
            // Port 0 is a port of its own every time.
            let address = parse::socket_address(listener.address.as_ref(), &mut Path::root());
            if address.is_some_and(|address| address.port() != 0 && !addresses.insert(address)) {
                path.fault_at("address", "another listener has the same");
            }
        });
    }
}

fn ads(
    value: &pb::bootstrap::DynamicResources,
    resources: &pb::bootstrap::StaticResources,
    path: &mut Path,
) -> Option<AdsSource> {
    let over_ads = |source: &Option<core::ConfigSource>, name: &str, path: &mut Path| {
        if source.is_some() {
            parse::over_ads(source.as_ref(), name, path);
        }
        source.is_some()
    };
    let listeners = over_ads(&value.lds_config, "lds_config", path);
    let clusters = over_ads(&value.cds_config, "cds_config", path);
    let config = match &value.ads_config {
        Some(config) => config,
        None if listeners || clusters => return path.field("ads_config", |path| path.refuse("missing")),
        None => return None,
    };
    path.field("ads_config", |path| {
        let [service] = config.grpc_services.as_slice() else {
            return path.field("grpc_services", |path| path.refuse("exactly one is needed"));
        };
        let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
            return path.field("grpc_services[0].envoy_grpc", |path| path.refuse("missing"));
        };
        if service.timeout.is_some() {
            path.fault_at("grpc_services[0].timeout", "not supported: the stream has no end");
        }
        if !resources.clusters.iter().any(|cluster| cluster.name == target.cluster_name) {
            return path.field("grpc_services[0].envoy_grpc.cluster_name", |path| {
                path.refuse(format!("no static cluster \"{}\"", target.cluster_name))
            });
        }
        if config.transport_api_version == core::ApiVersion::Auto as i32 {
            path.fault_at("transport_api_version", "must be V3");
        }
        Some(AdsSource { cluster: target.cluster_name.clone(), listeners, clusters, on_demand: false })
    })
}
