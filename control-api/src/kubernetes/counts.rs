//! How proxies stand with objects, counted over all replicas: each replica says in one `ConfigMap` what its own proxies have
//! answered, and whoever writes statuses adds it up.
//!
//! No clocks are compared: what a replica says is believed as long as it changes, by the clock of who reads it. A proxy that
//! moves from one replica to another may count twice, or not at all, for some seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::{KubeError, call};
use crate::object::ObjectKind;
use crate::registry::{ObjectStatus, Registry, Rejection};

/// The object, in the mesh's own namespace.
pub const NAME: &str = "outrider-control-counts";
/// Between two rounds.
pub const PAUSE: Duration = Duration::from_secs(3);
/// What has not changed is said again after so many rounds, to show that it still holds.
const BEAT_ROUNDS: u64 = 4;
/// What a replica says is believed for as long after it has changed; then it is gone, and its words are removed.
const LIFE: Duration = Duration::from_secs(30);
/// The longest that one replica says, in bytes. Several must have room in one object, of a mebibyte or so.
const MAX_BYTES: usize = 128 * 1024;

/// What one replica says.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Words {
    /// Counts up, so that what is still true changes.
    beat: u64,
    objects: BTreeMap<Arc<str>, Count>,
}

/// Of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Count {
    proxies: usize,
    acknowledged: usize,
    refused: usize,
    /// An older replica does not say it.
    #[serde(default)]
    lapsed: usize,
    /// Proxies and their words.
    rejections: Vec<(Arc<str>, Arc<str>)>,
}

type Counts = BTreeMap<Arc<str>, Count>;

/// What the other replicas say.
#[derive(Clone, Debug, Default)]
pub struct Others(Arc<Mutex<BTreeMap<String, Counts>>>);

impl Others {
    /// Adds it to what the proxies of this replica say.
    pub fn add_to(&self, own: &mut BTreeMap<Arc<str>, ObjectStatus>) {
        let others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (object, count) in others.values().flatten() {
            let status = own.entry(Arc::clone(object)).or_default();
            status.proxies = status.proxies.saturating_add(count.proxies);
            status.acknowledged = status.acknowledged.saturating_add(count.acknowledged);
            status.refused = status.refused.saturating_add(count.refused);
            status.lapsed = status.lapsed.saturating_add(count.lapsed);
            let rejections = count.rejections.iter().cloned();
            status.rejections.extend(rejections.map(|(proxy, detail)| Rejection { proxy, detail }));
            status.rejections.truncate(crate::registry::MAX_REJECTIONS);
        }
    }
}

/// Says how the proxies of this replica stand, and hears of those of the others.
#[derive(Debug)]
pub struct Exchange {
    api: Api<ConfigMap>,
    own: String,
    registry: Arc<Registry>,
    others: Others,
    /// What each of the others was heard to say last, and since when.
    heard: BTreeMap<String, (String, Instant)>,
    said: Words,
    rounds: u64,
}

impl Exchange {
    /// As a replica of this name, which no other one has.
    #[must_use]
    pub fn new(client: Client, namespace: &str, own: &str, registry: Arc<Registry>) -> Self {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        Self {
            api: Api::namespaced(client, namespace),
            own: own.chars().map(letter).collect(),
            registry,
            others: Others::default(),
            heard: BTreeMap::new(),
            said: Words::default(),
            rounds: 0,
        }
    }

    /// What the others say, as it is at any time.
    #[must_use]
    pub fn others(&self) -> Others {
        self.others.clone()
    }

    /// Goes on for as long as the process lives.
    pub async fn run(mut self, pause: Duration) {
        loop {
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "proxies cannot be counted over all replicas");
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&mut self) -> Result<(), KubeError> {
        let registry = Arc::clone(&self.registry);
        let counted = tokio::task::spawn_blocking(move || counts(&registry)).await.unwrap_or_default();
        self.rounds += 1;
        let changed = counted != self.said.objects;
        let mut say = BTreeMap::new();
        if changed || self.rounds % BEAT_ROUNDS == 1 {
            let words = Words { beat: self.said.beat + 1, objects: counted };
            let text = serde_json::to_string(&words).unwrap_or_default();
            if text.len() <= MAX_BYTES {
                say.insert(self.own.clone(), Some(text));
            } else if changed {
                tracing::warn!(bytes = text.len(), "too many objects to be counted over all replicas");
                say.insert(self.own.clone(), None);
            }
            self.said = words;
        }
        let kept = call(self.api.get_opt(NAME)).await?;
        let is_there = kept.is_some();
        let data = kept.and_then(|kept| kept.data).unwrap_or_default();
        say.extend(self.hear(data).into_iter().map(|gone| (gone, None)));
        if say.is_empty() {
            return Ok(());
        }
        if !is_there {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let empty = ConfigMap { metadata, ..ConfigMap::default() };
            match call(self.api.create(&PostParams::default(), &empty)).await {
                Ok(_) => {}
                // Another replica was faster.
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error),
            }
        }
        // A merge: what others say stays.
        let patch = Patch::Merge(json!({ "data": say }));
        call(self.api.patch(NAME, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Takes note of what the others say; who of them has said nothing new for too long.
    fn hear(&mut self, data: BTreeMap<String, String>) -> Vec<String> {
        let now = Instant::now();
        self.heard.retain(|name, _| data.contains_key(name));
        for (name, text) in data.into_iter().filter(|(name, _)| *name != self.own) {
            match self.heard.get(&name) {
                Some((before, _)) if *before == text => {}
                Some(_) | None => {
                    self.heard.insert(name, (text, now));
                }
            }
        }
        let (fresh, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.heard.iter().partition(|(_, (_, since))| now.duration_since(*since) < LIFE);
        let read = fresh.into_iter().map(|(name, (text, _))| {
            let words: Words = serde_json::from_str(text).unwrap_or_default();
            (name.clone(), words.objects)
        });
        *self.others.0.lock().unwrap_or_else(PoisonError::into_inner) = read.collect();
        gone.into_keys().cloned().collect()
    }
}

/// How the proxies of this replica stand with the objects whose statuses are written.
fn counts(registry: &Registry) -> Counts {
    let has_status = |object: &str| {
        let kind = object.split('/').next().unwrap_or_default();
        ObjectKind::ALL.into_iter().any(|one| one.as_str() == kind && one.has_status())
    };
    let all = registry.objects().into_iter().filter(|(object, _)| has_status(object));
    let each = all.map(|(object, status)| {
        let rejections = status.rejections.into_iter().map(|one| (one.proxy, one.detail)).collect();
        let ObjectStatus { proxies, acknowledged, refused, lapsed, .. } = status;
        (object, Count { proxies, acknowledged, refused, lapsed, rejections })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::stand_in::StandIn;

    const PATH: &str = "/api/v1/namespaces/mesh/configmaps/outrider-control-counts";

    fn exchange(server: &StandIn, name: &str) -> Exchange {
        Exchange::new(server.client(), "mesh", name, Arc::default())
    }

    fn status(proxies: usize, refused: &[&str]) -> ObjectStatus {
        let rejections = refused.iter().map(|one| Rejection { proxy: (*one).into(), detail: "no".into() });
        ObjectStatus {
            proxies,
            acknowledged: proxies - refused.len(),
            refused: refused.len(),
            lapsed: 0,
            rejections: rejections.collect(),
        }
    }

    #[tokio::test]
    async fn what_others_say_is_added_as_long_as_it_goes_on() {
        let server = StandIn::start().await;
        let (mut one, mut two) = (exchange(&server, "one_1"), exchange(&server, "two_2"));
        one.round().await.unwrap();
        two.round().await.unwrap();
        let data = || server.object(PATH).unwrap()["data"].clone();
        assert_eq!(data().as_object().unwrap().len(), 2, "{}", data());

        let objects = Counts::from([(
            "HTTPRoute/shop/web".into(),
            Count {
                proxies: 7,
                acknowledged: 6,
                refused: 1,
                lapsed: 0,
                rejections: vec![("x".into(), "no".into())],
            },
        )]);
        let text = serde_json::to_string(&Words { beat: 9, objects }).unwrap();
        let mut before = server.object(PATH).unwrap();
        before["data"]["two-2"] = text.into();
        server.put(PATH, before);
        one.round().await.unwrap();
        let mut own = BTreeMap::from([("HTTPRoute/shop/web".into(), status(6, &["y"]))]);
        one.others().add_to(&mut own);
        assert_eq!(own["HTTPRoute/shop/web"], status(13, &["y", "x"]));

        // It says nothing new for too long.
        let long_ago = Instant::now().checked_sub(LIFE).unwrap();
        one.heard.get_mut("two-2").unwrap().1 = long_ago;
        one.round().await.unwrap();
        let mut own = BTreeMap::new();
        one.others().add_to(&mut own);
        assert!(own.is_empty() && data()["two-2"].is_null(), "{own:?} {}", data());
    }
}
