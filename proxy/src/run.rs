//! The proxy from start to end, on the control thread.

use std::net::SocketAddr;
use std::sync::Arc;

use outrider_proto::envoy::config::core::v3::Node;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval, sleep_until};

use crate::admin::{self, Admin, SharedState, State};
use crate::bootstrap::{self, Settings, StartError};
use crate::control::asks::{self, Asks};
use crate::control::secrets::Own;
use crate::control::starting::First;
use crate::control::{Control, Message, QUEUED_MESSAGES, TICK, overload};
use crate::limit::pressure::Pressure;
use crate::lockin::{self, Access, LockInError, Report, access};
use crate::model::bootstrap::Bootstrap;
use crate::observe::{logging, series};
use crate::policy::egress::Surroundings;
use crate::runtime::Workers;
use crate::runtime::signals::{Signals, Told};
use crate::runtime::workers::WorkerSettings;
use crate::{svid, xds};

/// How a control server knows that it need not tell everything.
const ON_DEMAND: &str = "outrider.on-demand";

/// How the proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing was under way any more, or the drain timeout was over.
    Drained,
    /// It was told to end at once.
    AtOnce,
}

/// Runs the proxy until it is told to end.
///
/// # Errors
/// Why it cannot start.
pub fn run(settings: &Settings, mut bootstrap: Bootstrap) -> Result<End, StartError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| StartError(vec![format!("{what}: {error}")]);
    // What has read the start-up file and what compiles it are not needed at the same time.
    crate::sys::release_code();
    let level =
        logging::start(&settings.log_level, settings.log_json).map_err(|error| failed("log", &error))?;
    log_panics();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| failed("metrics", &error))?;
    series::describe();
    let locked = lock_in(settings, &bootstrap).map_err(|error| failed("lock-in", &error))?;
    locked.tell();
    let pressure = Arc::new(Pressure::default());
    let (asks, asked) = mpsc::channel(asks::QUEUED);
    let own_cluster = bootstrap.local_cluster.as_ref().map(|local| Arc::from(&*local.name));
    let workers = Workers::start(&WorkerSettings {
        count: settings.workers,
        max_connections: settings.max_connections,
        names_reason: settings.names_reason,
        surroundings: surroundings(settings, &bootstrap.node),
        pressure: Arc::clone(&pressure),
        local_cluster: bootstrap.local_cluster.take().map(Arc::new),
        asks,
        drain_timeout: settings.drain_timeout,
    })
    .map_err(|error| failed("workers", &error))?;
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(|error| failed("event loop", &error))?;
    let fixed = fixed(&bootstrap);
    let (control, end) = LocalSet::new().block_on(&runtime, async {
        let (messages, inbox) = mpsc::channel(QUEUED_MESSAGES);
        if let Some(overload) = bootstrap.overload.take() {
            tokio::spawn(overload::watch(overload, pressure, workers.own_shard().clone()));
        }
        let mut control = Control::new(workers, settings.workers, messages.clone());
        if !settings.faults {
            control.opt_out_of_faults();
        }
        let loaded = control.load(std::mem::take(&mut bootstrap.resources));
        loaded.map_err(|faults| bootstrap::lines(&settings.config, &faults))?;
        let state = SharedState::default();
        if let Some(address) = settings.admin.or(bootstrap.admin) {
            let admin = Admin {
                control: messages.clone(),
                state: state.clone(),
                level,
                recorder,
                lock_in: locked.to_json(),
                changes: settings.admin_changes,
            };
            start_admin(address, admin).await?;
        }
        if let Some(source) = settings.identity.clone().or(bootstrap.identity.clone()) {
            control.await_first(First::Identity);
            tokio::spawn(follow_identity(svid::start(source), messages.clone()));
        }
        start_xds(bootstrap, own_cluster, &mut control, messages);
        outrider_proto::release_descriptors();
        crate::sys::release_code();
        crate::sys::release_free_memory();
        let end = serve(&mut control, (settings, &fixed), &state, (inbox, Asks::new(asked)))
            .await
            .map_err(|error| failed("signals", &error))?;
        Ok::<_, StartError>((control, end))
    })?;
    // What else is under way ends with the process.
    if end == End::Drained {
        control.join();
    }
    tracing::info!("ended");
    Ok(end)
}

async fn start_admin(address: SocketAddr, admin: Admin) -> Result<(), StartError> {
    let bound = admin::start(address, admin)
        .await
        .map_err(|error| StartError(vec![format!("admin: cannot listen on {address}: {error}")]))?;
    tracing::info!(address = %bound, "admin endpoints listen");
    Ok(())
}

/// What rules about destinations and events about them go by.
fn surroundings(settings: &Settings, node: &Node) -> Arc<Surroundings> {
    Arc::new(Surroundings { workload: node.id.as_str().into(), api_server: settings.api_server })
}

/// Gives up what is not needed from here on. Threads that come later inherit it, so there must be none before.
///
/// # Errors
/// When the kernel could and does not.
pub(crate) fn lock_in(settings: &Settings, bootstrap: &Bootstrap) -> Result<Report, LockInError> {
    let identity = settings.identity.as_ref();
    let mut access = Access::new(&settings.config, bootstrap, identity, &settings.lock_in_paths);
    access.low_ports |= settings.admin.is_some_and(access::is_low);
    lockin::lock(settings.lock_in, &access)
}

/// Tells the control thread of every new identity, and of its end.
async fn follow_identity(mut published: svid::Published, messages: mpsc::Sender<Message>) {
    loop {
        let own = published
            .borrow_and_update()
            .as_ref()
            .map(|svid| Box::new(Own { credential: svid.credential.clone(), trust: svid.trust.clone() }));
        if messages.send(Message::Identity(own)).await.is_err() || published.changed().await.is_err() {
            return;
        }
    }
}

/// Asks the control server, if there is one; on demand, if it says so.
fn start_xds(
    bootstrap: Bootstrap,
    own_cluster: Option<Arc<str>>,
    control: &mut Control,
    messages: mpsc::Sender<Message>,
) {
    let Bootstrap { ads, on_demand, mut node, .. } = bootstrap;
    let Some(source) = ads else { return };
    if let Some(idle_timeout) = on_demand {
        control.on_demand(idle_timeout, own_cluster);
    }
    // On demand nobody says what clusters there are.
    let told =
        [(First::Listeners, source.listeners), (First::Clusters, source.clusters && on_demand.is_none())];
    told.into_iter().filter(|(_, is_told)| *is_told).for_each(|(first, _)| control.await_first(first));
    node.user_agent_name = "outrider".to_owned();
    node.user_agent_version_type =
        Some(outrider_proto::envoy::config::core::v3::node::UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        ));
    node.client_features = vec!["xds.config.supports-resource-ttl".to_owned()];
    if on_demand.is_some() {
        node.client_features.push(ON_DEMAND.to_owned());
    }
    let server = source.cluster.clone();
    let session = xds::session::Session::new(node, source);
    tokio::spawn(xds::client::run(server, session, control.wanted(), messages));
}

/// Handles messages and signals until the workers have ended: as long as they serve anybody, certificates are renewed,
/// policies and revocations come in, and the admin port answers.
async fn serve(
    control: &mut Control,
    (settings, fixed): (&Settings, &Fixed),
    state: &SharedState,
    (mut inbox, mut asked): (mpsc::Receiver<Message>, Asks),
) -> std::io::Result<End> {
    let mut signals = Signals::new()?;
    let mut tick = interval(TICK);
    loop {
        state.set(match (control.is_draining(), control.is_ready()) {
            (true, _) => State::Draining,
            (false, true) => State::Live,
            (false, false) => State::Initializing,
        });
        let message = tokio::select! {
            Some(message) = inbox.recv() => message,
            addresses = asked.next() => Message::Destinations(addresses),
            told = signals.next() => match told {
                Told::Drain => Message::Drain,
                Told::Reload => Message::Reload,
                Told::EndAtOnce => {
                    tracing::warn!("told to end once more: what is under way is cut off");
                    return Ok(End::AtOnce);
                }
            },
            _ = tick.tick() => Message::Tick,
            () = until(control.due()) => Message::Publish,
            () = control.ended() => return Ok(End::Drained),
        };
        if matches!(message, Message::Reload) {
            reload(control, settings, fixed);
        } else {
            control.handle(message);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What a reload does not change, by the name of its field.
type Fixed = [(&'static str, String); 6];

fn fixed(bootstrap: &Bootstrap) -> Fixed {
    let Bootstrap { admin, ads, on_demand, identity, overload, local_cluster, .. } = bootstrap;
    [
        ("admin", format!("{admin:?}")),
        ("dynamic_resources", format!("{ads:?}")),
        ("outrider.on_demand", format!("{on_demand:?}")),
        ("outrider.identity", format!("{identity:?}")),
        ("overload_manager", format!("{overload:?}")),
        ("cluster_manager", format!("{:?}", local_cluster.as_ref().map(|local| &local.name))),
    ]
}

/// Reads the start-up file again. A wrong one changes nothing.
fn reload(control: &mut Control, settings: &Settings, before: &Fixed) {
    let read = bootstrap::read(&settings.config).and_then(|bootstrap| {
        let now = fixed(&bootstrap);
        for (field, _) in now.iter().zip(before).filter(|(now, before)| now != before).map(|(now, _)| now) {
            tracing::warn!("{field}: changed in the file, and taken up only by a new start");
        }
        control.load(bootstrap.resources).map_err(|faults| bootstrap::lines(&settings.config, &faults))
    });
    let outcome = match read {
        Ok(()) => {
            tracing::info!("start-up file read again");
            "ok"
        }
        Err(error) => {
            for line in error.0 {
                tracing::error!("not reloaded: {line}");
            }
            "refused"
        }
    };
    outrider_proto::release_descriptors();
    crate::sys::release_free_memory();
    metrics::counter!("outrider_reloads_total", "outcome" => outcome).increment(1);
}

/// Panics end a connection, not the process; they must be seen all the same.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "defect: a task panicked; only its connection ends");
    }));
}
