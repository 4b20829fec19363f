//! The peer of an open connection, and for how long the connection may stand on its certificate.
//!
//! A certificate proves who somebody is until it ends, and as long as the roots behind it are believed; the handshake
//! looks at both once. What lasts longer is held to them here.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use super::peer::PeerIdentity;
use super::refusal::Refusal;
use super::trust::Trust;
use super::verify::Verifier;

/// How long before the end of a certificate no more requests are begun on a connection that stands on it, in seconds,
/// and at most what part of the time that is left when it is opened.
///
/// Whoever opened a connection leaves it first: what the other side closes may have a request on its way.
const CLIENT_LEAVES_S: (u64, u64) = (60, 2);
const SERVER_LEAVES_S: (u64, u64) = (30, 4);

/// How long after the end of our own certificate a connection is closed that the peer has not closed by then, in seconds:
/// whose certificate it is stands in the peer's log.
const OWN_IS_OVER_AFTER_S: u64 = 2;

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We opened it.
    Client,
    /// It was opened to us.
    Server,
}

/// How a connection stands to the certificates that it was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// They hold.
    Good,
    /// One of the two ends soon.
    Retiring,
    /// One of them has ended.
    Over,
}

/// A peer that was verified.
#[derive(Debug)]
pub struct Vouched {
    /// Who it is.
    pub peer: Rc<PeerIdentity>,
    /// The cluster or the listener that it was verified for.
    pub context: Arc<str>,
    side: Side,
    chain: Box<[CertificateDer<'static>]>,
    /// The roots it was verified with last.
    under: RefCell<Arc<Trust>>,
    /// In seconds since 1970, as what follows.
    retires_s: u64,
    over_s: u64,
}

impl Vouched {
    /// A peer whose chain, leaf first, was just found to be good under these roots.
    #[must_use]
    pub fn new(
        (peer, chain): (Rc<PeerIdentity>, &[CertificateDer<'static>]),
        under: Arc<Trust>,
        own: Option<&PeerIdentity>,
        (side, context): (Side, Arc<str>),
        now: UnixTime,
    ) -> Self {
        let end = own.map_or(peer.not_after, |own| own.not_after.min(peer.not_after));
        let left = end.saturating_sub(now.as_secs());
        let (most, part) = match side {
            Side::Client => CLIENT_LEAVES_S,
            Side::Server => SERVER_LEAVES_S,
        };
        let retires_s = end.saturating_sub(most.min(left / part));
        let own_s = own.map_or(u64::MAX, |own| own.not_after.saturating_add(OWN_IS_OVER_AFTER_S));
        let over_s = own_s.min(peer.not_after);
        Self { peer, context, side, chain: chain.into(), under: RefCell::new(under), retires_s, over_s }
    }

    /// How the connection stands at this time.
    #[must_use]
    pub fn stage(&self, now: UnixTime) -> Stage {
        match now.as_secs() {
            now if now > self.over_s => Stage::Over,
            now if now >= self.retires_s => Stage::Retiring,
            _ => Stage::Good,
        }
    }

    /// Asks again whether its chain is good. It is verified anew only where roots are gone that it may have stood on:
    /// that costs a signature check for each certificate.
    ///
    /// # Errors
    /// Why the peer is no longer to be trusted.
    pub fn recheck(&self, verifier: &Verifier, now: UnixTime) -> Result<(), Refusal> {
        if verifier.trust.covers(&self.under.borrow()) {
            return Ok(());
        }
        let usage = match self.side {
            Side::Client => KeyUsage::server_auth(),
            Side::Server => KeyUsage::client_auth(),
        };
        let (leaf, rest) = self.chain.split_first().ok_or(Refusal::NoCertificate)?;
        verifier.verify(leaf, rest, now, usage)?;
        *self.under.borrow_mut() = Arc::clone(&verifier.trust);
        Ok(())
    }
}
