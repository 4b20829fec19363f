//! The control thread: everything that is not on the way of a request.
//!
//! Resources come from the start-up file and over xDS, endpoints of names from DNS; together they become a
//! snapshot, which is published to the workers.

pub mod change;
pub mod dns;
pub mod health;
pub mod overload;
mod redact;
pub mod secrets;
mod show;
pub mod store;
pub mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::{Fault, json};
use serde_json::json as object;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::identity::Revoked;
use crate::model::bootstrap::StaticResources;
use crate::model::{Cluster, Discovery, Listener};
use crate::observe::metrics;
use crate::runtime::{Published, Sockets, Workers};
use secrets::{Own, Secrets};
use store::{Change, Kind, Store};

/// Shortest time between two publications of what comes over xDS: a burst of updates becomes a few snapshots.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// Messages that may wait for the control thread.
pub const QUEUED_MESSAGES: usize = 64;

/// What others ask of the control thread.
#[derive(Debug)]
pub enum Message {
    /// Resources came over xDS; the answer says which were refused, and what is wanted now.
    Apply(Vec<Change>, oneshot::Sender<Applied>),
    /// The workload's own identity has changed; `None` when it has ended.
    Identity(Option<Box<Own>>),
    /// A name was resolved.
    Resolved(dns::Resolved),
    /// Somebody wants a cluster as it is now; `None` when there is none.
    Cluster(String, oneshot::Sender<Option<Arc<Cluster>>>),
    /// The workload calls somebody of whom nothing is known yet.
    Destination(SocketAddr),
    /// Somebody wants to know what is wanted of the control server.
    Wanted(oneshot::Sender<Wanted>),
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

/// What became of changes.
#[derive(Debug, Default)]
pub struct Applied {
    /// The resources that were refused.
    pub refused: Vec<(String, Vec<Fault>)>,
    /// The resources that are wanted now.
    pub wanted: Wanted,
}

/// Names of resources that others refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of load assignments.
    pub endpoints: BTreeSet<Arc<str>>,
    /// Of route configurations.
    pub routes: BTreeSet<Arc<str>>,
    /// Of certificates and roots.
    pub secrets: BTreeSet<Arc<str>>,
    /// Of clusters, where they are asked for by name.
    pub clusters: BTreeSet<Arc<str>>,
    /// Of destinations, likewise.
    pub destinations: BTreeSet<Arc<str>>,
}

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
    health: health::Health,
    /// Who is cut off, as the workers know it.
    revoked: Arc<Revoked>,
    revoked_changed: bool,
    version: u64,
    draining: bool,
    /// When the workers were told last, and when they are to be told next, if there is news.
    published: Option<Instant>,
    due: Option<Instant>,
    was_ready: bool,
    /// Where what the workload calls is asked for: told when something else is wanted than before.
    wanting: Option<(Arc<Notify>, Wanted)>,
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
            dns: dns::Resolver::new(messages),
            secrets: Secrets::default(),
            revoked: Arc::default(),
            revoked_changed: false,
            version: 0,
            draining: false,
            published: None,
            due: None,
            was_ready: false,
            wanting: None,
        }
    }

    /// What the workload calls is asked for, and let go of after this long without use; and so is the cluster that this
    /// proxy is an endpoint of. Whoever asks the control server
    /// is told over this that something else is wanted.
    pub fn on_demand(&mut self, idle_timeout: Duration, own_cluster: Option<Arc<str>>) -> Arc<Notify> {
        self.store.on_demand(idle_timeout, own_cluster);
        let notify = Arc::new(Notify::new());
        self.wanting = Some((Arc::clone(&notify), self.store.wanted()));
        notify
    }

    /// Tells who asks the control server if something else is wanted than before.
    fn look_what_is_wanted(&mut self) {
        if let Some((notify, before)) = &mut self.wanting {
            let wanted = self.store.wanted();
            if *before != wanted {
                *before = wanted;
                notify.notify_one();
            }
        }
    }

    /// The workload wants no faults, whatever comes.
    pub const fn opt_out_of_faults(&mut self) {
        self.store.opt_out_of_faults();
    }

    /// Takes over the resources of the start-up file. What came from it before and is not in it now is gone.
    ///
    /// # Errors
    /// What cannot be used; then nothing has changed but the sockets that could be bound.
    pub fn load(&mut self, resources: StaticResources) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        let mut changes = Vec::new();
        for (index, (message, compiled)) in resources.listeners.into_iter().enumerate() {
            match self.sockets.bind(&compiled) {
                Ok(_) => changes.push(Change::listener(message, compiled)),
                Err(reason) => {
                    faults.push(Fault::new(format!("static_resources.listeners[{index}]"), reason))
                }
            }
        }
        if !faults.is_empty() {
            self.publish();
            return Err(faults);
        }
        changes.extend(
            resources.clusters.into_iter().map(|(message, compiled)| Change::cluster(message, compiled)),
        );
        self.secrets.replace_static(resources.secrets);
        self.store.replace_static(changes);
        self.publish();
        Ok(())
    }

    /// Applies what came over xDS. A listener whose address is taken is refused, the others are taken.
    pub fn apply(&mut self, changes: Vec<Change>) -> Applied {
        let mut refused = Vec::new();
        let (mut secrets, mut others) = (false, false);
        for change in changes {
            secrets |= change.kind() == Kind::Secret;
            others |= change.kind() != Kind::Secret;
            self.revoked_changed |= change.kind() == Kind::Revocations;
            let name = change.name().to_owned();
            let bound = match change.bindable() {
                Some(listener) => match listener.unknown_cluster(|name| self.store.has_cluster(name)) {
                    Some(name) => Err(unknown_cluster(name)),
                    None => self.bind(listener),
                },
                None => Ok(()),
            };
            let stored =
                bound.map_err(|reason| vec![Fault::new("", reason)]).and_then(|()| self.store.apply(change));
            if let Err(faults) = stored {
                refused.push((name, faults));
            }
        }
        let wanted = self.store.wanted();
        self.store.note_missing(&wanted);
        if secrets {
            // Contexts follow their secrets without a new snapshot.
            self.secrets.changed();
            others |= self.fill_secrets();
        }
        if others {
            self.publish_soon();
        }
        Applied { refused, wanted }
    }

    /// Binds a listener's address. What waits to be published may free the address, so it goes first then.
    fn bind(&mut self, listener: &Listener) -> Result<(), String> {
        let mut bound = self.sockets.bind(listener);
        if bound.is_err() && self.due.is_some() {
            self.publish();
            bound = self.sockets.bind(listener);
        }
        bound.map(|_| ())
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

    /// Handles one message; `false` when the proxy shall end.
    pub fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Apply(changes, answer) => {
                let applied = self.apply(changes);
                // Whoever asked may be gone.
                let _ = answer.send(applied);
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
            Message::Destination(address) => {
                if self.store.ask(address, Instant::now()) {
                    self.look_what_is_wanted();
                }
            }
            Message::Wanted(answer) => {
                let _ = answer.send(self.store.wanted());
            }
            Message::Ask(question, answer) => {
                let _ = answer.send(self.answer(question));
            }
            Message::Tick => {
                let now = Instant::now();
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
                self.secrets.set_own(own.map(|own| *own));
                if self.fill_secrets() {
                    self.publish();
                }
            }
            Message::Drain => {
                self.drain();
                return false;
            }
            Message::Reload => {}
        }
        true
    }

    /// Stops accepting; workers end when their connections have.
    pub fn drain(&mut self) {
        self.draining = true;
        self.publish();
    }

    /// Waits for the workers to end.
    pub fn join(self) {
        self.workers.join();
    }

    /// Whether all that the listeners want has come, so that traffic can be served.
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        // For the first time only when the workers know it too.
        let known = || self.due.is_none() && self.health.is_settled();
        let ready = self.store.is_settled() && (self.was_ready || known());
        self.was_ready |= ready;
        ready && !self.draining
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
        // The sockets of a listener that is waiting for its routes are kept for it.
        self.sockets.keep(|name| snapshot.listeners.contains_key(name) || self.store.has_listener(name));
        let names = self.store.by_name().filter_map(|cluster| match &cluster.discovery {
            Discovery::Dns { hosts, settings } => Some((&cluster.name, hosts, settings)),
            Discovery::Static(_) | Discovery::Eds(_) | Discovery::OriginalDst => None,
        });
        self.dns.follow(names);
        self.watch.follow(&snapshot);
        self.health.follow(&snapshot);
        self.published = Some(Instant::now());
        self.due = None;
        self.workers.publish(Published {
            snapshot,
            sockets: self.sockets.all(),
            revoked: Arc::clone(&self.revoked),
            trust: self.secrets.lost_roots(),
            draining: self.draining,
        });
        self.look_what_is_wanted();
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
            Question::ConfigDump => self.config_dump(),
            Question::Clusters => show::clusters(self.store.current(), self.workers.usage()),
            Question::Listeners => {
                let mut lines: Vec<String> = self
                    .sockets
                    .all()
                    .iter()
                    .map(|(name, bound)| format!("{name}::{}\n", bound.address))
                    .collect();
                lines.sort();
                lines.concat()
            }
        }
    }

    fn config_dump(&self) -> String {
        let resources = |messages: Vec<Result<serde_json::Value, Fault>>| {
            serde_json::Value::Array(messages.into_iter().filter_map(Result::ok).collect())
        };
        let mut dump = object!({
            "version": self.version,
            "listeners": resources(self.store.listeners().map(|message| json::to_json(&message)).collect()),
            "clusters": resources(self.store.clusters().map(|message| json::to_json(&message)).collect()),
            "routes": resources(self.store.routes().map(|message| json::to_json(&message)).collect()),
            "destinations": resources(self.store.told_destinations().map(|message| json::to_json(&message)).collect()),
            "endpoints": resources(self.store.endpoints().map(|message| json::to_json(&message)).collect()),
        });
        redact::private_keys(&mut dump);
        serde_json::to_string_pretty(&dump).unwrap_or_default()
    }

    /// The names that are wanted of the control server.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.store.wanted()
    }
}

fn unknown_cluster(name: &str) -> String {
    format!("route_config.validate_clusters: cluster \"{name}\" does not exist")
}

/// How often the control thread looks for what ran out of time.
pub const TICK: Duration = Duration::from_millis(250);
