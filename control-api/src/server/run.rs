//! The server from start to end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use super::arguments::Serve;
use super::{StartError, cluster, in_mesh, kept, webhook};
use crate::api::{self, Api};
use crate::auth::join::JoinKey;
use crate::auth::operator::OperatorToken;
use crate::auth::token_review::Reviews;
use crate::auth::{Access, Authenticator, Tokens, check_segment, check_trust_domain};
use crate::ca::state::StateDir;
use crate::ca::{Authority, GivenFiles, Lives, Origin};
use crate::compile::Settings;
use crate::compile::faults::Caps;
use crate::compile::model::InMesh;
use crate::compile::revocations::SERVICE_ACCOUNT;
use crate::compile::spans::Tracing;
use crate::engine::Engine;
use crate::experiments::Experiments;
use crate::proxy_info::Identity;
use crate::registry::{Registry, Workloads};
use crate::revoked::Revocations;
use crate::serve::ads::Ads;
use crate::serve::identity::Identities;
use crate::serve::listen::{self, Transport};
use crate::serve::status::ClientStatus;
use crate::serve::stream::Shared;
use crate::serve::tls::{Keeper, Names};
use crate::serve::{debounce, server};
use crate::snapshots::Snapshots as _;
use crate::source::{View, files};

/// How long identities may be valid: a day is usual, and a minute is for tests.
const SVID_LIVES_S: std::ops::RangeInclusive<u64> = 60..=90 * 24 * 3600;
/// Buckets of histograms, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// The public file with the roots, in the state directory.
const ROOTS_FILE: &str = "ca.pem";
/// The control server's own service account.
/// How often histograms are folded, so that they do not grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// What serving stands on.
struct Base {
    authority: Arc<Authority>,
    join: Arc<JoinKey>,
    state: StateDir,
    /// Held while the process lives.
    _lock: std::fs::File,
}

/// Runs the control server until it is told to end.
///
/// # Errors
/// Why it cannot start.
pub(super) fn run(serve: Serve) -> Result<(), StartError> {
    start_log(&serve)?;
    raise_open_files();
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| StartError::of("metrics")(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StartError::of("event loop")(&error))?;
    let served = runtime.block_on(start(serve, recorder));
    // What still reads files must not keep the process.
    runtime.shutdown_background();
    served
}

async fn start(serve: Serve, recorder: PrometheusHandle) -> Result<(), StartError> {
    let base = base(&serve)?;
    let (end, ending) = watch::channel(false);
    let signals = signals().map_err(|error| StartError::of("signals")(&error))?;
    let workloads = Arc::new(Workloads::new(Duration::from_secs(serve.grace_s)));
    kept::restore(&base.state, &workloads);
    let registry = Arc::new(Registry::new(Arc::clone(&workloads)));
    let client = cluster::client(&serve).await?;
    let mut signals = Box::pin(signals);
    let source = tokio::select! {
        source = source(&serve, client.as_ref()) => source?,
        // The API server may be away for long.
        () = &mut signals => return Ok(()),
    };
    let view = source.borrow().clone();
    for diagnostic in view.diagnostics.iter() {
        tracing::warn!(%diagnostic, "not in force");
    }
    let known = tokio::select! {
        known = known(&base, &serve, client.as_ref()) => known?,
        () = &mut signals => return Ok(()),
    };
    let failed = StartError::of("--state-dir");
    let experiments = Experiments::open(base.state.clone()).map_err(|error| failed(&error))?;
    let operator = OperatorToken::open(&base.state).map_err(|error| failed(&error))?;
    let (settings, experiments) = (settings(&serve), Arc::new(experiments));
    let engine = Arc::new(Engine::new(settings, &view, Arc::clone(&registry), &known, experiments));
    tokio::spawn(in_mesh::run(base.state.clone(), Arc::clone(&engine)));
    tokio::spawn(Arc::clone(&engine).run(source));
    tokio::spawn(kept::run(base.state.clone(), workloads.watch()));
    tokio::spawn(async move { workloads.run().await });
    tokio::spawn(upkeep(recorder.clone()));

    let api = Api { engine: Arc::clone(&engine), registry: Arc::clone(&registry), recorder, operator };
    let state = (Arc::clone(&engine), Arc::clone(&registry));
    let lease = client.clone().map(|client| cluster::write(client, &serve, state, ending.clone()));
    let revocations = engine.revocations();
    let changes = changes(&engine);
    let shared = Shared {
        identifier: format!("outrider-control/{}", env!("CARGO_PKG_VERSION")).into(),
        snapshots: engine,
        changes,
        registry,
        differ: Arc::default(),
        revocations: revocations.clone(),
        ending: ending.clone(),
    };
    let reviews = client.clone().map(|client| Reviews::new(client, &serve.common.trust_domain));
    let tokens: Arc<dyn Authenticator> = Arc::new(Tokens { join: Arc::clone(&base.join), reviews });
    let access = access(&serve, Arc::clone(&tokens), revocations.clone());
    let status = ClientStatus::service(Arc::clone(&shared.registry), access.clone(), &serve.root_namespace);
    let mut services = Routes::new(Ads::service(shared, access)).add_service(status);
    services = services.add_service(Identities::service(Arc::clone(&base.authority), tokens, revocations));
    let (listener, transport) = listener(&serve, &base)?;
    let address = listener.local_addr().map_err(|error| StartError::of("--address")(&error))?;
    let mesh = (serve.common.trust_domain.as_str(), serve.root_namespace.as_str());
    webhook::start(&serve.webhook, mesh, (Arc::clone(&base.authority), client), &transport, ending.clone())
        .await?;
    // Not before proxies can connect: who asks whether it is ready shall not be told too early.
    let api = api::start(serve.api_address, api, ending.clone());
    let api_address = api.await.map_err(|error| StartError::of("--api-address")(&error))?;
    tracing::info!(%address, tls = !serve.plaintext, %api_address, "control server is ready");
    tokio::spawn(async move {
        signals.await;
        tracing::info!("ending");
        end.send_replace(true);
    });
    let served = server::run(services, listener, transport, ending).await;
    cluster::written(lease).await;
    served.map_err(|error| StartError::of("--address")(&error))?;
    tracing::info!("ended");
    Ok(())
}

/// What streams are told of changes, and when.
fn changes(engine: &Engine) -> watch::Receiver<u64> {
    let (told, changes) = watch::channel(0);
    tokio::spawn(debounce::run(engine.changes(), engine.urgent(), told));
    changes
}

/// Which ports were in the mesh before, here or at other replicas.
async fn known(base: &Base, serve: &Serve, client: Option<&Client>) -> Result<InMesh, StartError> {
    let mut known = in_mesh::restore(&base.state).map_err(|error| StartError::of("--state-dir")(&error))?;
    if let Some(client) = client {
        let shared = in_mesh::restore_shared(&cluster::memory(client.clone(), serve)).await;
        known.extend(shared.map_err(|error| StartError::of("--kubernetes")(&error))?);
    }
    Ok(known)
}

/// Who is let in, and how far it is believed.
fn access(serve: &Serve, tokens: Arc<dyn Authenticator>, revocations: Revocations) -> Access {
    Access {
        tokens: Some(tokens),
        trust_plaintext: serve.plaintext,
        trust_addresses: serve.trust_workload_addresses,
        revocations,
    }
}

fn settings(serve: &Serve) -> Settings {
    Settings {
        trust_domain: serve.common.trust_domain.clone(),
        cluster_domain: serve.cluster_domain.clone(),
        root_namespace: serve.root_namespace.clone(),
        faults: Caps {
            max_workloads: serve.faults_max_workloads_percent,
            max_share: serve.faults_max_share_percent,
            max_active: serve.faults_max_active,
        },
        tracing: serve
            .tracing_collector
            .clone()
            .map(|collector| Tracing { collector, sampling: serve.tracing_sampling_percent }),
    }
}

/// What can be said of the arguments before anything is made.
fn check(serve: &Serve) -> Result<(), StartError> {
    let common = &serve.common;
    if let Some(directory) = &serve.config_dir {
        match std::fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(StartError(format!("--config-dir: {}: not a directory", directory.display())));
            }
            Err(error) => return Err(StartError(format!("--config-dir: {}: {error}", directory.display()))),
        }
    } else if !serve.kubernetes && serve.kubeconfig.is_none() {
        return Err(no_objects());
    }
    if !check_trust_domain(&common.trust_domain) {
        return Err(StartError(format!("--trust-domain: \"{}\" is not one", common.trust_domain)));
    }
    if !check_segment(&serve.root_namespace) {
        return Err(StartError(format!("--root-namespace: \"{}\" is not a name", serve.root_namespace)));
    }
    if !SVID_LIVES_S.contains(&serve.svid_ttl_s) {
        let (least, most) = (SVID_LIVES_S.start(), SVID_LIVES_S.end());
        return Err(StartError(format!("--svid-ttl-s: must be from {least} to {most}")));
    }
    Ok(())
}

fn no_objects() -> StartError {
    StartError("no objects; use --config-dir DIR, or --kubernetes".to_owned())
}

/// State, authority and join key.
fn base(serve: &Serve) -> Result<Base, StartError> {
    check(serve)?;
    let common = &serve.common;
    let failed = StartError::of("--state-dir");
    let state = StateDir::open(&common.state_dir).map_err(|error| failed(&error))?;
    let lock = state.lock().map_err(|error| failed(&error))?;
    let join = JoinKey::open(&state, &common.trust_domain).map_err(|error| failed(&error))?;
    let svid = Duration::from_secs(serve.svid_ttl_s);
    let usual = Lives::default();
    let lives = Lives { svid, issuer: usual.issuer.max(4 * svid), ..usual };
    let origin = match (&serve.ca_cert, &serve.ca_key) {
        (Some(certificate), Some(key)) => Origin::Given(GivenFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            roots: serve.ca_roots.clone(),
        }),
        _ => Origin::Own(state.clone()),
    };
    let authority = Authority::open(&common.trust_domain, origin, lives, SystemTime::now());
    let authority = Arc::new(authority.map_err(|error| StartError::of("authority")(&error))?);
    write_roots(&state, &authority);
    let written = super::token::remember(&state, &common.trust_domain);
    written.map_err(|error| failed(&error))?;
    Ok(Base { authority, join: Arc::new(join), state, _lock: lock })
}

async fn source(serve: &Serve, client: Option<&Client>) -> Result<watch::Receiver<View>, StartError> {
    if let Some(client) = client {
        return cluster::source(client).await;
    }
    let Some(directory) = &serve.config_dir else { return Err(no_objects()) };
    let shown = directory.display().to_string();
    let failed = |error: std::io::Error| match error.to_string() {
        // It may be about a directory below this one.
        error if error.starts_with(&shown) => StartError(format!("--config-dir: {error}")),
        error => StartError(format!("--config-dir: {shown}: {error}")),
    };
    let (view, _task) = files::watch(directory, files::INTERVAL).await.map_err(failed)?;
    Ok(view)
}

fn listener(serve: &Serve, base: &Base) -> Result<(TcpListener, Transport), StartError> {
    let authority = Arc::clone(&base.authority);
    tokio::spawn(async move { authority.run().await });
    tokio::spawn(follow_roots(base.state.clone(), Arc::clone(&base.authority)));
    let transport = if serve.plaintext {
        Transport::Plaintext
    } else {
        let names = names(serve);
        let keeper = Keeper::new(Arc::clone(&base.authority), names, SystemTime::now());
        let keeper = keeper.map_err(|error| StartError::of("--server-name")(&error))?;
        let tls = keeper.watch();
        tokio::spawn(keeper.run());
        Transport::Tls(tls)
    };
    let listener = listen::bind(serve.address, &transport);
    Ok((listener.map_err(|error| StartError::of("--address")(&error))?, transport))
}

/// What the control server's certificate is for.
fn names(serve: &Serve) -> Names {
    let mut dns = serve.server_name.clone();
    dns.push("localhost".to_owned());
    if serve.webhook.webhook_address.is_some() {
        dns.push(webhook::dns_name(&serve.root_namespace));
    }
    dns.sort();
    dns.dedup();
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let own = serve.address.ip();
    if !own.is_unspecified() && !own.is_loopback() {
        addresses.push(own);
    }
    let identity = Identity {
        trust_domain: serve.common.trust_domain.as_str().into(),
        namespace: serve.root_namespace.as_str().into(),
        service_account: SERVICE_ACCOUNT.into(),
    };
    Names { identity, dns, addresses }
}

/// Keeps the file with the roots as they are; workloads need it to know the control server.
async fn follow_roots(state: StateDir, authority: Arc<Authority>) {
    let mut changes = authority.changes();
    while changes.changed().await.is_ok() {
        write_roots(&state, &authority);
    }
}

fn write_roots(state: &StateDir, authority: &Authority) {
    let text = authority.roots_pem();
    if state.read(ROOTS_FILE).ok().flatten().is_some_and(|before| before == text.as_bytes()) {
        return;
    }
    if let Err(error) = state.write(ROOTS_FILE, text.as_bytes(), 0o644) {
        tracing::error!(%error, "the roots cannot be written");
    }
}

async fn upkeep(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder.run_upkeep();
    }
}

/// As many files as the system lets us have: each connection is one, and who has as many as its source may have is not to take
/// the last of them.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, open_files = limit.current, "the limit on open files cannot be raised");
    }
}

fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn start_log(serve: &Serve) -> Result<(), StartError> {
    let level: LevelFilter = serve
        .log_level
        .parse()
        .map_err(|_| StartError(format!("--log-level: \"{}\" is not known", serve.log_level)))?;
    // The audit log is not a matter of taste.
    let levels = Targets::new()
        .with_default(level)
        .with_target("outrider_control::audit", level.max(LevelFilter::INFO));
    let registry = tracing_subscriber::registry().with(levels);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    let started =
        if serve.log_json { registry.with(layer.json()).try_init() } else { registry.with(layer).try_init() };
    started.map_err(|error| StartError::of("log")(&error))
}
