//! The control thread: everything that is not on the way of a request.
//!
//! Resources come from the start-up file and over xDS, endpoints of names from DNS; together they become a
//! snapshot, which is published to the workers.

pub mod asks;
pub mod change;
pub mod dns;
pub mod health;
pub mod overload;
mod redact;
pub mod secrets;
mod show;
pub mod starting;
pub mod store;
pub mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Fault;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::identity::Revoked;
use crate::model::bootstrap::StaticResources;
use crate::model::{Cluster, Discovery, Listener};
use crate::observe::metrics;
use crate::runtime::{Published, Sockets, Workers};
use secrets::{Own, Secrets};
use starting::{First, Starting};
use store::{Change, Kind, Store, Wanted};

/// Shortest time between two publications of what comes over xDS: a burst of updates becomes a few snapshots.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Messages that may wait for the control thread.
pub const QUEUED_MESSAGES: usize = 64;

/// What others ask of the control thread.
#[derive(Debug)]
pub enum Message {
    /// The control server was asked for what there is.
    Asked,
    /// Resources of a kind came over xDS; the answer says which were refused.
    Apply(Option<Kind>, Vec<Change>, oneshot::Sender<Refused>),
    /// The workload's own identity has changed; `None` when it has ended.
    Identity(Option<Box<Own>>),
    /// A name was resolved.
    Resolved(dns::Resolved),
    /// Somebody wants a cluster as it is now; `None` when there is none.
    Cluster(String, oneshot::Sender<Option<Arc<Cluster>>>),
    /// The workload calls somebody of whom nothing may be known yet.
    Destinations(Vec<SocketAddr>),
    /// The operator wants to know something.
    Ask(Question, oneshot::Sender<String>),
    /// The proxy shall end.
    Drain,
    /// The start-up file shall be read again.
    Reload,
    /// Something may have run out of time.
    Tick,
    /// What has changed shall be published.
    Publish,
}

/// The resources that were refused, and why.
pub type Refused = Vec<(String, Vec<Fault>)>;

/// What an operator can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// All resources, as JSON.
    ConfigDump,
    /// Clusters and endpoints, as text.
    Clusters,
    /// Listeners and their addresses, as text.
    Listeners,
    /// All metrics.
    Metrics,
}

/// The state of the control thread.
#[derive(Debug)]
pub struct Control {
    store: Store,
    sockets: Sockets,
    workers: Workers,
    dns: dns::Resolver,
    secrets: Secrets,
    watch: watch::Watch,
    wanted: tokio::sync::watch::Sender<Wanted>,
    health: health::Health,
    /// Who is cut off, as the workers know it.
    revoked: Arc<Revoked>,
    revoked_changed: bool,
    version: u64,
    draining: bool,
    /// When the workers were told last, and when they are to be told next, if there is news.
    published: Option<Instant>,
    due: Option<Instant>,
    /// Something that is published has changed since then.
    stale: bool,
    starting: Starting,
    was_ready: bool,
}

impl Control {
    /// With running workers and nothing configured.
    #[must_use]
    pub fn new(workers: Workers, worker_count: usize, messages: mpsc::Sender<Message>) -> Self {
        Self {
            store: Store::default(),
            sockets: Sockets::new(worker_count),
            watch: watch::Watch::new(Arc::clone(workers.usage()), workers.own_shard().clone()),
            health: health::Health::new(Arc::clone(workers.usage()), workers.own_shard().clone()),
            workers,
            wanted: tokio::sync::watch::Sender::default(),
            dns: dns::Resolver::new(messages),
            secrets: Secrets::default(),
            revoked: Arc::default(),
            revoked_changed: false,
            version: 0,
            draining: false,
            published: None,
            due: None,
            stale: false,
            starting: Starting::new(Instant::now()),
            was_ready: false,
        }
    }

    /// What the workload calls is asked for, and let go of after this long without use; and so is the cluster that this
    /// proxy is an endpoint of.
    pub fn on_demand(&mut self, idle_timeout: Duration, own_cluster: Option<Arc<str>>) {
        self.store.on_demand(idle_timeout, own_cluster);
        self.store.follow_references();
        self.tell_wanted();
    }

    /// The proxy is not ready before this has come.
    pub fn await_first(&mut self, first: First) {
        self.starting.await_first(first);
    }

    /// The workload wants no faults, whatever comes.
    pub const fn opt_out_of_faults(&mut self) {
        self.store.opt_out_of_faults();
    }

    /// Takes over the resources of the start-up file. What came from it before and is not in it now is gone.
    ///
    /// # Errors
    /// What cannot be used; then nothing has changed.
    pub fn load(&mut self, resources: StaticResources) -> Result<(), Vec<Fault>> {
        let StaticResources { listeners, clusters, secrets } = resources;
        let mut faults: Vec<Fault> = Vec::new();
        let both = |field: &str, index: usize| {
            let path = format!("static_resources.{field}[{index}].name");
            Fault::new(path, "a resource of this name came over xDS")
        };
        for (index, (_, cluster)) in clusters.iter().enumerate() {
            if self.store.is_over_xds(Kind::Cluster, &cluster.name) {
                faults.push(both("clusters", index));
            }
        }
        for (index, (_, listener)) in listeners.iter().enumerate() {
            let before = listeners.iter().take(index).map(|(_, other)| other);
            let there = self.store.placed().map(|placed| &**placed);
            let stays = |old: &&Listener| match listeners.iter().find(|(_, new)| new.name == old.name) {
                // It may be waiting for its routes for a while, and its old version serves as long.
                Some((_, new)) => new.chains.named_routes().next().is_some(),
                None => self.store.is_over_xds(Kind::Listener, &old.name),
            };
            let others = before.chain(there.filter(|old| old.address == listener.address).filter(stays));
            if self.store.is_over_xds(Kind::Listener, &listener.name) {
                faults.push(both("listeners", index));
            } else if let Err(reason) = self.sockets.bind(listener, others) {
                faults.push(Fault::new(format!("static_resources.listeners[{index}]"), reason));
            }
        }
        if !faults.is_empty() {
            self.sockets.keep(self.store.placed());
            return Err(faults);
        }
        let listeners = listeners.into_iter().map(|(message, compiled)| Change::listener(message, compiled));
        let clusters = clusters.into_iter().map(|(message, compiled)| Change::cluster(message, compiled));
        self.secrets.replace_static(secrets);
        self.store.replace_static(listeners.chain(clusters).collect());
        self.publish();
        self.sockets.started();
        Ok(())
    }

    /// Applies what came over xDS. A listener whose address is taken is refused, the others are taken.
    pub fn apply(&mut self, changes: Vec<Change>) -> Refused {
        let mut refused = Refused::new();
        let mut secrets = false;
        for change in changes {
            let (kind, name) = (change.kind(), change.name().to_owned());
            let bound = change.bindable().map_or(Ok(()), |listener| self.place(listener));
            let stored =
                bound.map_err(|reason| vec![Fault::new("", reason)]).and_then(|()| self.store.apply(change));
            match stored {
                Ok(()) => {
                    secrets |= kind == Kind::Secret;
                    self.stale |= kind != Kind::Secret;
                    self.revoked_changed |= kind == Kind::Revocations;
                }
                Err(faults) => refused.push((name, faults)),
            }
        }
        if !refused.is_empty() {
            self.sockets.keep(self.store.placed());
        }
        self.store.follow_references();
        self.tell_wanted();
        if secrets {
            // Contexts follow their secrets without a new snapshot.
            self.secrets.changed();
            self.stale |= self.fill_secrets();
        }
        if self.stale {
            self.publish_soon();
        }
        refused
    }

    /// Sees to it that a listener has its address. What waits to be published may free it, so it goes first then.
    fn place(&mut self, listener: &Listener) -> Result<(), String> {
        if let Some(name) = listener.unknown_cluster(|name| self.store.has_cluster(name)) {
            return Err(unknown_cluster(name));
        }
        let bound = self.sockets.bind(listener, self.store.staying());
        if bound.is_err() && self.stale {
            self.publish();
            return self.sockets.bind(listener, self.store.staying());
        }
        bound
    }

    /// Publishes now, or with what else comes until [`PUBLISH_EVERY`] has passed since the last time.
    fn publish_soon(&mut self) {
        let now = Instant::now();
        match self.published.map(|last| last + PUBLISH_EVERY).filter(|due| *due > now) {
            Some(due) => self.due = Some(due),
            None => self.publish(),
        }
    }

    /// When [`Message::Publish`] is due, if it is.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Handles one message.
    pub fn handle(&mut self, message: Message) {
        match message {
            Message::Asked => self.starting.asked(Instant::now()),
            Message::Apply(kind, changes, answer) => {
                let refused = self.apply(changes);
                kind.into_iter().for_each(|kind| self.starting.told(kind));
                // Whoever asked may be gone.
                let _ = answer.send(refused);
            }
            Message::Resolved(resolved) => {
                if self.store.resolved(resolved) {
                    self.publish();
                }
            }
            Message::Cluster(name, answer) => {
                let found = self.store.compiled().1.find(|cluster| *cluster.name == *name).cloned();
                let _ = answer.send(found);
            }
            Message::Destinations(addresses) => {
                let now = Instant::now();
                if addresses.into_iter().filter(|address| self.store.ask(*address, now)).count() > 0 {
                    self.store.follow_references();
                    self.tell_wanted();
                }
            }
            Message::Ask(question, answer) => {
                let _ = answer.send(self.answer(question));
            }
            Message::Tick => {
                let now = Instant::now();
                self.starting.look(now);
                if self.secrets.look(now) && self.fill_secrets() {
                    self.publish();
                }
                let expired = self.store.expire(now);
                self.revoked_changed |= expired;
                if self.store.let_go(now) | expired {
                    self.publish();
                }
            }
            Message::Publish => self.publish(),
            Message::Identity(own) => {
                own.iter().for_each(|_| self.starting.came(First::Identity));
                self.secrets.set_own(own.map(|own| *own));
                if self.fill_secrets() {
                    self.publish();
                }
            }
            Message::Drain => self.drain(),
            Message::Reload => {}
        }
    }

    /// Stops accepting; workers end when their connections have, and follow what is published until then.
    fn drain(&mut self) {
        if !self.draining {
            tracing::info!("finishing what is under way");
            self.draining = true;
            self.sockets.close();
            self.publish();
        }
    }

    /// Whether the proxy is ending.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Completes when the workers have ended. Cancel-safe.
    pub async fn ended(&self) {
        self.workers.ended().await;
    }

    /// Waits for the threads of the workers.
    pub fn join(self) {
        self.workers.join();
    }

    /// Whether the proxy has had all that it was to have before it serves: what it waits for when it starts, what its
    /// listeners and clusters refer to, a first look at the health of endpoints, and the workers know of it. What comes
    /// later makes it unready no more: what is there goes on being served.
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        self.was_ready |= self.starting.is_over()
            && self.due.is_none()
            && self.store.is_settled()
            && secrets::are_read(self.store.compiled())
            && self.health.is_settled();
        self.was_ready
    }

    /// Gives TLS contexts what they want. Whether the workers are to hold established connections to it, because
    /// somebody may be trusted no longer.
    fn fill_secrets(&mut self) -> bool {
        let before = self.secrets.lost_roots();
        let (listeners, clusters) = self.store.compiled();
        self.secrets.fill(listeners, clusters, &|name| self.store.secret(name));
        self.secrets.lost_roots() != before
    }

    fn publish(&mut self) {
        self.revoke();
        self.fill_secrets();
        self.version += 1;
        let snapshot = Arc::new(self.store.assemble(self.version));
        self.tell_wanted();
        // The sockets of a listener that is waiting for its routes are kept for it.
        self.sockets.keep(self.store.placed());
        let names = self.store.by_name().filter_map(|cluster| match &cluster.discovery {
            Discovery::Dns { hosts, settings } => Some((&cluster.name, hosts, settings)),
            Discovery::Static(_) | Discovery::Eds(_) | Discovery::OriginalDst => None,
        });
        self.dns.follow(names);
        self.watch.follow(&snapshot);
        self.health.follow(&snapshot);
        self.published = Some(Instant::now());
        self.due = None;
        self.stale = false;
        self.workers.publish(Published {
            sockets: self.sockets.of(snapshot.listeners.values()),
            snapshot,
            revoked: Arc::clone(&self.revoked),
            trust: self.secrets.lost_roots(),
            draining: self.draining,
        });
    }

    /// Brings up to date who is cut off: handshakes look at it from here on, the workers hear of it with the
    /// publication.
    fn revoke(&mut self) {
        if !std::mem::take(&mut self.revoked_changed) {
            return;
        }
        let revoked = self.store.revoked();
        if *self.revoked != revoked {
            tracing::warn!(
                identities = revoked.identities.len(),
                certificates = revoked.serials.len(),
                "the lists of who is cut off have changed"
            );
            self.secrets.revoke(revoked.clone());
            self.revoked = Arc::new(revoked);
        }
    }

    fn answer(&self, question: Question) -> String {
        match question {
            Question::Metrics => {
                self.watch.record();
                self.health.record();
                metrics::render(self.workers.shards())
            }
            Question::ConfigDump => show::config_dump(&self.store, self.version),
            Question::Clusters => show::clusters(self.store.current(), self.workers.usage()),
            Question::Listeners => {
                let mut lines: Vec<String> = self
                    .sockets
                    .of(self.store.current().listeners.values())
                    .iter()
                    .map(|(name, bound)| format!("{name}::{}\n", bound.address))
                    .collect();
                lines.sort();
                lines.concat()
            }
        }
    }

    /// The names that are wanted of the control server, whatever they come to be wanted by.
    #[must_use]
    pub fn wanted(&self) -> tokio::sync::watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    fn tell_wanted(&self) {
        let now = self.store.wanted();
        self.wanted.send_if_modified(|known| {
            let news = known != now;
            if news {
                known.clone_from(now);
            }
            news
        });
    }
}

fn unknown_cluster(name: &str) -> String {
    format!("route_config.validate_clusters: cluster \"{name}\" does not exist")
}

/// How often the control thread looks for what ran out of time.
pub const TICK: Duration = Duration::from_millis(250);
