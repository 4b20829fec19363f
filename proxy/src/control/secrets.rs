//! Certificates and roots: found by name, read from files, and put into the TLS contexts that want them.
//!
//! Runs on the control thread. A context whose material is broken or gone keeps what it had; one that never had any
//! refuses connections.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Fault;
use tokio::time::Instant;

use crate::identity::config::{self, Credential};
use crate::identity::live::{Live, Material};
use crate::identity::trust::Roots;
use crate::identity::{Revocations, Revoked, Trust};
use crate::model::bootstrap::StaticResources;
use crate::model::tls::{CertificateSource, Pem, Secret, SecretKind, TlsSettings, TrustSource};
use crate::model::{Cluster, Listener};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest PEM file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The proxy's own certificate, where no other secret has the name.
const OWN_CERTIFICATE: &str = "default";
/// The roots that came with it.
const OWN_ROOTS: &str = "ROOTCA";

/// The workload's own identity.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its certificate.
    pub credential: Credential,
    /// Whom it believes.
    pub trust: Trust,
}

/// All secrets but those that come over ADS.
#[derive(Debug, Default)]
pub struct Secrets {
    named: BTreeMap<Arc<str>, SecretKind>,
    own: Option<Own>,
    revocations: Revocations,
    files: HashMap<PathBuf, Seen>,
    looked: Option<Instant>,
    dirty: bool,
    /// How often roots went out of use.
    lost_roots: u64,
}

/// A file as it was last read.
#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    text: Result<Arc<[u8]>, String>,
}

/// What tells a file from the one that was there before, also when a symbolic link was swapped.
type Stamp = (u64, u64, u64, i64, i64);

/// Finds a secret that came over ADS.
type OverAds<'a> = &'a dyn Fn(&str) -> Option<SecretKind>;

/// What one round has worked out, so that contexts of the same certificate share it.
#[derive(Default)]
struct Round {
    credentials: HashMap<CertificateSource, Result<Credential, String>>,
    trusts: HashMap<TrustSource, Result<Arc<Trust>, String>>,
}

/// What is wrong with the certificates and roots that a start-up file names, by the resource that wants them. What
/// others are to bring is left out.
#[must_use]
pub fn check(resources: &StaticResources) -> Vec<Fault> {
    let mut secrets = Secrets::default();
    secrets.replace_static(resources.secrets.iter().cloned());
    let listeners = resources.listeners.iter().enumerate().flat_map(|(index, (_, listener))| {
        let contexts = listener.chains.all().filter_map(|chain| chain.tls.as_ref());
        contexts.map(move |tls| (format!("static_resources.listeners[{index}]"), &tls.settings))
    });
    let clusters = resources.clusters.iter().enumerate().filter_map(|(index, (_, cluster))| {
        Some((format!("static_resources.clusters[{index}]"), &cluster.tls.as_ref()?.settings))
    });
    let mut problems = |settings: &TlsSettings| {
        let (mut round, over_ads) = (Round::default(), |_: &str| None);
        let brought = |name: &str, ads: bool| ads || !secrets.named.contains_key(name);
        let certificate = settings.certificate.as_ref().filter(|source| match source {
            CertificateSource::Pem { .. } => true,
            CertificateSource::Named(name, ads) => !brought(name, *ads),
        });
        let trust = settings.trust.as_ref().filter(|source| match source {
            TrustSource::Pem(_) | TrustSource::Spiffe(_) => true,
            TrustSource::Named(name, ads) => !brought(name, *ads),
        });
        let certificate =
            certificate.and_then(|source| secrets.credential(source, &over_ads, &mut round).err());
        certificate
            .into_iter()
            .chain(trust.and_then(|source| secrets.trust(source, &over_ads, &mut round).err()))
    };
    let contexts: Vec<_> = listeners.chain(clusters).collect();
    let faults = contexts.into_iter().flat_map(|(path, settings)| {
        problems(settings)
            .map(move |problem| Fault::new(format!("{path}.transport_socket"), problem))
            .collect::<Vec<_>>()
    });
    faults.collect()
}

/// Whether every TLS context has what its files are to give it.
pub fn are_read<'a>(
    (mut listeners, mut clusters): (
        impl Iterator<Item = &'a Arc<Listener>>,
        impl Iterator<Item = &'a Arc<Cluster>>,
    ),
) -> bool {
    listeners.all(|listener| {
        let mut contexts = listener.chains.all().filter_map(|chain| chain.tls.as_ref());
        contexts.all(|tls| tls.settings.is_brought() || tls.live.material().is_some())
    }) && clusters.all(|cluster| {
        let tls = cluster.tls.as_ref();
        tls.is_none_or(|tls| tls.settings.is_brought() || tls.live.material().is_some())
    })
}

impl Secrets {
    /// Takes over the secrets of the start-up file.
    pub fn replace_static(&mut self, secrets: impl IntoIterator<Item = Secret>) {
        self.named = secrets.into_iter().map(|secret| (secret.name, secret.kind)).collect();
        self.dirty = true;
    }

    /// Takes over our own identity; `None` when it has ended.
    pub fn set_own(&mut self, own: Option<Own>) {
        self.own = own;
        self.dirty = true;
    }

    /// Cuts off whom the lists name, and nobody else.
    pub fn revoke(&self, revoked: Revoked) {
        self.revocations.replace(revoked);
    }

    /// Changes whenever a context no longer believes roots that it has believed.
    #[must_use]
    pub const fn lost_roots(&self) -> u64 {
        self.lost_roots
    }

    /// Something that contexts may name has changed.
    pub const fn changed(&mut self) {
        self.dirty = true;
    }

    /// Looks at the files, if it is time to; whether any has changed.
    pub fn look(&mut self, now: Instant) -> bool {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_EVERY) {
            return false;
        }
        self.looked = Some(now);
        for (path, seen) in &mut self.files {
            let stamp = stamp(path);
            if stamp != seen.stamp {
                *seen = Seen { stamp, text: read(path) };
                self.dirty = true;
            }
        }
        self.dirty
    }

    /// Puts into every context what it wants, if anything has changed, and into new ones in any case.
    pub fn fill<'a>(
        &mut self,
        listeners: impl Iterator<Item = &'a Arc<Listener>>,
        clusters: impl Iterator<Item = &'a Arc<Cluster>>,
        over_ads: OverAds<'_>,
    ) {
        let all = std::mem::take(&mut self.dirty);
        let mut round = Round::default();
        for listener in listeners {
            for tls in listener.chains.all().filter_map(|chain| chain.tls.as_ref()) {
                let what = ("listener", &*listener.name);
                self.fill_one(&tls.live, &tls.settings, all, what, (over_ads, &mut round));
            }
        }
        for cluster in clusters {
            if let Some(tls) = &cluster.tls {
                let what = ("cluster", &*cluster.name);
                self.fill_one(&tls.live, &tls.settings, all, what, (over_ads, &mut round));
            }
        }
    }

    fn fill_one<C>(
        &mut self,
        live: &Live<C>,
        settings: &TlsSettings,
        all: bool,
        (kind, name): (&str, &str),
        (over_ads, round): (OverAds<'_>, &mut Round),
    ) {
        if !all && live.is_tried() {
            return;
        }
        let material = self.material(settings, over_ads, round);
        let before = live.material().and_then(|material| material.trust.clone());
        let after = material.as_ref().ok().map(|material| material.trust.clone());
        if let (Some(before), Some(after)) = (before, after)
            && !after.is_some_and(|after| after.covers(&before))
        {
            self.lost_roots += 1;
        }
        let had_some = live.material().is_some();
        match live.replace(material) {
            Some(problem) if had_some => {
                tracing::warn!(
                    kind,
                    name,
                    problem,
                    "TLS material is not to be had; what was there before is kept"
                );
            }
            // It comes with the identity, or over ADS, and the start waits for it.
            Some(problem) if settings.is_brought() => {
                tracing::info!(kind, name, problem, "waiting for TLS material");
            }
            Some(problem) => tracing::error!(
                kind,
                name,
                problem,
                "TLS material is not to be had; connections are refused until it is"
            ),
            None => {}
        }
    }

    fn material(
        &mut self,
        settings: &TlsSettings,
        over_ads: OverAds<'_>,
        round: &mut Round,
    ) -> Result<Material, String> {
        let credential = match &settings.certificate {
            Some(source) => Some(self.credential(source, over_ads, round)?),
            None => None,
        };
        let trust = match &settings.trust {
            Some(source) => Some(self.trust(source, over_ads, round)?),
            None => None,
        };
        Ok(Material { credential, trust, revocations: self.revocations.clone() })
    }

    fn credential(
        &mut self,
        source: &CertificateSource,
        over_ads: OverAds<'_>,
        round: &mut Round,
    ) -> Result<Credential, String> {
        if let Some(known) = round.credentials.get(source) {
            return known.clone();
        }
        let found = match source {
            CertificateSource::Pem { chain, key } => self.pair(chain, key),
            CertificateSource::Named(name, ads) => match self.find(name, *ads, over_ads) {
                Some(SecretKind::Certificate(CertificateSource::Pem { chain, key })) => {
                    self.pair(&chain, &key)
                }
                Some(_) => Err(format!("secret \"{name}\" is no certificate")),
                None if &**name == OWN_CERTIFICATE && !ads => {
                    let own = self.own.as_ref().map(|own| own.credential.clone());
                    own.ok_or_else(|| "the workload has no identity yet, or no longer".to_owned())
                }
                None => Err(format!("secret \"{name}\" is not there")),
            },
        };
        round.credentials.insert(source.clone(), found.clone());
        found
    }

    fn trust(
        &mut self,
        source: &TrustSource,
        over_ads: OverAds<'_>,
        round: &mut Round,
    ) -> Result<Arc<Trust>, String> {
        if let Some(known) = round.trusts.get(source) {
            return known.clone();
        }
        let found = match source {
            TrustSource::Pem(_) | TrustSource::Spiffe(_) => self.roots_in(source).map(Arc::new),
            TrustSource::Named(name, ads) => match self.find(name, *ads, over_ads) {
                Some(SecretKind::Trust(source)) => self.roots_in(&source).map(Arc::new),
                Some(SecretKind::Certificate(_)) => Err(format!("secret \"{name}\" holds no roots")),
                None if &**name == OWN_ROOTS && !ads => {
                    let own = self.own.as_ref().map(|own| Arc::new(own.trust.clone()));
                    own.ok_or_else(|| "the workload has no identity yet, or no longer".to_owned())
                }
                None => Err(format!("secret \"{name}\" is not there")),
            },
        };
        round.trusts.insert(source.clone(), found.clone());
        found
    }

    fn find(&self, name: &str, ads: bool, over_ads: OverAds<'_>) -> Option<SecretKind> {
        if ads { over_ads(name) } else { self.named.get(name).cloned() }
    }

    fn pair(&mut self, chain: &Pem, key: &Pem) -> Result<Credential, String> {
        let (chain_text, key_text) = (self.text(chain)?, self.text(key)?);
        Credential::from_pem(&chain_text, &key_text).map_err(|error| format!("{chain:?}, {key:?}: {error}"))
    }

    fn roots_in(&mut self, source: &TrustSource) -> Result<Trust, String> {
        match source {
            TrustSource::Pem(pem) => self.roots(pem).map(Trust::Plain),
            TrustSource::Spiffe(domains) => {
                let domains: Result<Vec<(String, Roots)>, String> =
                    domains.iter().map(|(name, pem)| Ok((name.clone(), self.roots(pem)?))).collect();
                Trust::spiffe(domains?).map_err(|error| error.to_string())
            }
            TrustSource::Named(name, _) => Err(format!("secret \"{name}\" names another secret")),
        }
    }

    fn roots(&mut self, pem: &Pem) -> Result<Roots, String> {
        let text = self.text(pem)?;
        let certificates = config::certificates(&text).map_err(|error| format!("{pem:?}: {error}"))?;
        Roots::new(&certificates).map_err(|error| format!("{pem:?}: {error}"))
    }

    fn text(&mut self, pem: &Pem) -> Result<Arc<[u8]>, String> {
        match pem {
            Pem::Inline(text) => Ok(Arc::clone(text)),
            Pem::File(path) => {
                let seen = self
                    .files
                    .entry(path.clone())
                    .or_insert_with(|| Seen { stamp: stamp(path), text: read(path) });
                seen.text.clone()
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

fn read(path: &Path) -> Result<Arc<[u8]>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let data = std::fs::metadata(path).map_err(|error| named(&error))?;
    if !data.is_file() {
        return Err(named(&"not a regular file"));
    }
    if data.len() > MAX_FILE_BYTES {
        return Err(named(&format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read(path).map(Into::into).map_err(|error| named(&error))
}
