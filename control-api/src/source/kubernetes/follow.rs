//! One kind of objects, followed: listed once, then watched from where the list ended. A watch that breaks goes on from
//! the last version that was heard of; only when the API server no longer knows that one (410), all is listed anew.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;

use super::backoff::Backoff;

use super::read::{Read, read};
use super::{Pace, SOURCE};
use crate::kubernetes::discovery::served;
use crate::kubernetes::{KubeError, call};
use crate::object::{Key, ObjectKind, Place, any};

/// Objects in one answer of a list.
const PAGE: u32 = 500;
/// Most pages of a list, so that it ends.
const MAX_PAGES: usize = 10_000;
/// How long the API server is asked to keep a watch open, in seconds.
const WATCH_S: u32 = 120;
/// A watch that is silent for longer than the API server was asked to keep it is dead.
const SILENCE: Duration = Duration::from_secs(WATCH_S as u64 + 10);
/// A watch that ends sooner, and has said nothing, is one that does not work.
const SHORT: Duration = Duration::from_secs(1);
/// How often in a row the API server must say that it does not know a kind that it knew before its objects are gone:
/// while it starts, it may not know yet.
const MISSING_LOOKS: usize = 3;

/// What is told of a kind.
#[derive(Debug)]
pub(super) enum Update {
    /// All of its objects.
    All(ObjectKind, Vec<Read>),
    /// One that is new, or has changed.
    One(Read),
    /// One that is gone.
    Gone(Key),
    /// There are none, because the API server does not serve the kind.
    NotServed(ObjectKind),
    /// What is known may be old, and why.
    Stale(ObjectKind, String),
    /// What is known is kept up to date again.
    Fresh(ObjectKind),
}

/// Follows one kind until nobody listens.
pub(super) struct Follower {
    client: Client,
    kind: ObjectKind,
    updates: mpsc::Sender<Update>,
    pace: Pace,
    backoff: Backoff,
    place: Place,
    /// Whether it was listed at least once.
    known: bool,
    /// Whether it was said that what is known may be old.
    stale: bool,
}

/// Why following does not go on as it did.
#[derive(Debug)]
enum Trouble {
    /// Nobody listens.
    Closed,
    /// The API server does not serve the kind in this version.
    NotServed,
    /// Try again, from this version if there is one.
    Broken(Option<String>, String),
}

impl From<mpsc::error::SendError<Update>> for Trouble {
    fn from(_: mpsc::error::SendError<Update>) -> Self {
        Self::Closed
    }
}

impl Follower {
    pub(super) fn new(client: Client, kind: ObjectKind, updates: mpsc::Sender<Update>, pace: Pace) -> Self {
        let place = Place { file: Arc::from(SOURCE), ..Place::default() };
        let backoff = Backoff::new(pace.first, pace.longest);
        Self { client, kind, updates, pace, backoff, place, known: false, stale: false }
    }

    pub(super) async fn run(mut self) {
        let mut missing = 0;
        loop {
            let looked = served(&self.client, self.kind).await;
            let trouble = match looked {
                Ok(Some(resource)) => {
                    let trouble = self.follow(&resource, &mut missing).await;
                    tracing::debug!(kind = %self.kind, ?trouble, "no longer followed in this version");
                    trouble
                }
                Ok(None) => Trouble::NotServed,
                Err(error) => Trouble::Broken(None, error.to_string()),
            };
            let told = match trouble {
                Trouble::Closed => return,
                Trouble::NotServed => {
                    missing += 1;
                    self.not_served(missing).await
                }
                Trouble::Broken(_, reason) => self.wait(reason).await,
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// Says that there are none, when that is certain, and waits for the next look.
    async fn not_served(&mut self, looks: usize) -> Result<(), Trouble> {
        if !self.known || looks == MISSING_LOOKS {
            self.known = true;
            self.stale = false;
            self.updates.send(Update::NotServed(self.kind)).await?;
        }
        self.pause(self.pace.discovery).await
    }

    /// Says that what is known may be old, and waits a little.
    async fn wait(&mut self, reason: String) -> Result<(), Trouble> {
        tracing::warn!(kind = %self.kind, reason, "not followed now; what is known stays in force");
        metrics::counter!("outrider_control_kubernetes_failures_total", "kind" => self.kind.as_str())
            .increment(1);
        self.stale = true;
        self.updates.send(Update::Stale(self.kind, reason)).await?;
        let pause = self.backoff.next();
        self.pause(pause).await
    }

    async fn pause(&self, pause: Duration) -> Result<(), Trouble> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.updates.closed() => Err(Trouble::Closed),
        }
    }

    /// Follows the kind in one version, through everything but its end.
    async fn follow(&mut self, resource: &ApiResource, missing: &mut usize) -> Trouble {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), resource);
        let mut from: Option<String> = None;
        loop {
            let started = Instant::now();
            let reached = match from.take() {
                None => self.list(&api, resource).await,
                Some(version) => self.watch(&api, resource, version).await,
            };
            if started.elapsed() > self.pace.longest {
                self.backoff.reset();
            }
            match reached {
                Ok(version) => {
                    *missing = 0;
                    from = Some(version);
                }
                Err(Trouble::Broken(version, reason)) => {
                    from = version;
                    if let Err(trouble) = self.wait(reason).await {
                        return trouble;
                    }
                }
                Err(trouble @ (Trouble::Closed | Trouble::NotServed)) => return trouble,
            }
        }
    }

    /// All objects; the version from which they are to be watched.
    async fn list(&mut self, api: &Api<DynamicObject>, resource: &ApiResource) -> Result<String, Trouble> {
        let (mut all, mut version) = (Vec::new(), String::new());
        let mut params = ListParams::default().limit(PAGE);
        for _ in 0..MAX_PAGES {
            let page = call(api.list(&params)).await.map_err(|error| trouble(None, &error))?;
            all.extend(page.items.into_iter().filter_map(|one| read(one, resource, self.kind, &self.place)));
            version = page.metadata.resource_version.unwrap_or(version);
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                break;
            }
        }
        if params.continue_token.is_some() {
            return Err(Trouble::Broken(None, format!("the list has more than {MAX_PAGES} pages")));
        }
        if version.is_empty() {
            return Err(Trouble::Broken(None, "the list has no version to watch from".to_owned()));
        }
        self.known = true;
        self.updates.send(Update::All(self.kind, all)).await?;
        self.fresh().await?;
        Ok(version)
    }

    /// Everything after a version; the last one that was heard of when the watch has ended.
    async fn watch(
        &mut self,
        api: &Api<DynamicObject>,
        resource: &ApiResource,
        mut version: String,
    ) -> Result<String, Trouble> {
        let started = Instant::now();
        let params = WatchParams::default().timeout(WATCH_S);
        let stream = call(api.watch(&params, &version)).await;
        let mut stream = pin!(stream.map_err(|error| trouble(Some(&version), &error))?);
        self.fresh().await?;
        let mut heard = false;
        loop {
            let next = tokio::select! {
                next = timeout(SILENCE, stream.next()) => next,
                () = self.updates.closed() => return Err(Trouble::Closed),
            };
            let Ok(next) = next else {
                let reason = format!("the watch was silent for {} s", SILENCE.as_secs());
                return Err(Trouble::Broken(Some(version), reason));
            };
            let event = match next {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Err(trouble(Some(&version), &error.into())),
                None => break,
            };
            heard = true;
            self.backoff.reset();
            if let Some(later) = self.event(event, resource, &version).await? {
                version = later;
            }
        }
        if !heard && started.elapsed() < SHORT {
            return Err(Trouble::Broken(Some(version), "the watch was ended at once".to_owned()));
        }
        Ok(version)
    }

    /// Tells of one event; its version.
    async fn event(
        &self,
        event: WatchEvent<DynamicObject>,
        resource: &ApiResource,
        version: &str,
    ) -> Result<Option<String>, Trouble> {
        let object = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => object,
            WatchEvent::Deleted(object) => {
                let later = object.metadata.resource_version.clone();
                if let Some(key) = self.key(&object) {
                    self.updates.send(Update::Gone(key)).await?;
                }
                return Ok(later);
            }
            WatchEvent::Bookmark(mark) => return Ok(Some(mark.metadata.resource_version)),
            WatchEvent::Error(status) => {
                return Err(trouble(Some(version), &kube::Error::Api(status).into()));
            }
        };
        let later = object.metadata.resource_version.clone();
        if let Some(read) = read(object, resource, self.kind, &self.place) {
            self.updates.send(Update::One(read)).await?;
        }
        Ok(later)
    }

    fn key(&self, object: &DynamicObject) -> Option<Key> {
        let name = object.metadata.name.as_deref()?;
        Some(any::key(self.kind, object.metadata.namespace.as_deref(), name))
    }

    async fn fresh(&mut self) -> Result<(), Trouble> {
        if std::mem::take(&mut self.stale) {
            self.updates.send(Update::Fresh(self.kind)).await?;
        }
        Ok(())
    }
}

/// What a refusal means for a watch from this version.
fn trouble(version: Option<&str>, error: &KubeError) -> Trouble {
    match error.code() {
        Some(404) => Trouble::NotServed,
        // Too old: everything has to be listed anew.
        Some(410) => Trouble::Broken(None, error.to_string()),
        Some(_) | None => Trouble::Broken(version.map(ToOwned::to_owned), error.to_string()),
    }
}
