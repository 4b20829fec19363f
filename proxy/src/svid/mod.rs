//! Where the workload's own identity comes from, and how it is kept fresh.
//!
//! Runs on the control thread, never on a request's way. A source (the control server's authority, files, or a SPIFFE
//! Workload API) gets an X.509 SVID; it is checked, published, and replaced in time. What is published stays while
//! its successor cannot be had, until it ends: then there is no identity, which fails closed.

pub mod check;
pub mod connect;
pub mod control;
pub mod error;
pub mod fetch;
pub mod files;
pub mod keeper;
pub mod options;
pub mod output;
pub mod pem;
pub mod schedule;
pub mod workload_api;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::identity::config::Credential;
use crate::identity::{SpiffeId, Trust};
use crate::model::identity::IdentitySource;
use error::FetchError;
use keeper::{Clock, Keeper};

/// Roots by the name of the trust domain; each vouches for that domain only.
pub type Bundles = BTreeMap<String, Vec<CertificateDer<'static>>>;

/// A checked X.509 SVID with its key and those that it trusts.
#[derive(Debug)]
pub struct Svid {
    /// The one URI SAN of the certificate.
    pub spiffe_id: SpiffeId,
    /// The SVID, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the SVID: PKCS#8, or as the files have it.
    pub key: PrivateKeyDer<'static>,
    /// The same two as TLS configurations take them.
    pub credential: Credential,
    /// Roots, of the own trust domain at least.
    pub bundles: Bundles,
    /// The same as TLS configurations take them.
    pub trust: Trust,
    /// When the SVID's life begins.
    pub not_before: SystemTime,
    /// The first moment at which it is no longer valid.
    pub not_after: SystemTime,
    /// When it was got.
    pub obtained: SystemTime,
}

impl Svid {
    /// Whether there is nothing new in another one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.chain == other.chain && self.bundles == other.bundles
    }
}

/// The identity of now: `None` before the first has come, and after the last has ended.
pub type Published = watch::Receiver<Option<Arc<Svid>>>;

/// Starts getting an identity on the current runtime. Ends when nobody has the receiver any more.
#[must_use]
pub fn start(source: IdentitySource) -> Published {
    let (sender, published) = watch::channel(None);
    tokio::spawn(run(source, Keeper::new(sender, Clock::system())));
    published
}

/// Keeps the identity fresh as long as somebody wants it.
async fn run(source: IdentitySource, keeper: Keeper) {
    let fresh = async {
        match &source {
            IdentitySource::Control(source) => {
                keeper.keep_fresh(|| control::fetch(source, keeper.clock())).await;
            }
            IdentitySource::Files(source) => files::run(source, &keeper).await,
            IdentitySource::WorkloadApi(source) => workload_api::run(source, &keeper).await,
        }
    };
    tokio::select! {
        () = fresh => {}
        () = keeper.watch_life() => {}
        () = keeper.unwanted() => {}
    }
}

/// Gets an identity once.
///
/// # Errors
/// Why there is none.
pub async fn fetch_once(source: &IdentitySource, clock: &Clock) -> Result<Svid, FetchError> {
    match source {
        IdentitySource::Control(source) => control::fetch(source, clock).await,
        IdentitySource::Files(source) => files::read(source, clock),
        IdentitySource::WorkloadApi(source) => workload_api::fetch(source, clock).await,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
