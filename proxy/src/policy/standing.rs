//! Whether an established connection may stay: it is held to the policies and the trust of today, not to those that
//! let it in.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use rustls::pki_types::UnixTime;
use tokio::time::Instant;

use super::egress::{Destination, Mode, Passage, Surroundings};
use super::rule::Subject;
use crate::fault::FaultSet;
use crate::identity::vouched::Stage;
use crate::identity::{PeerIdentity, Revoked};
use crate::model::destination::{Destination as ToldDestination, InUse};
use crate::model::filter_chain::ChainQuery;
use crate::model::{ChainProtocol, FilterChain, HttpChain, Listener};
use crate::observe::Reason;
use crate::transport::Cutoff;

/// A connection from downstream, as far as decisions about it go.
#[derive(Debug)]
pub struct Standing {
    /// What is known of it.
    pub facts: Facts,
    cutoff: Rc<Cutoff>,
    chain: RefCell<Arc<FilterChain>>,
    /// Counts the changes that may concern requests under way.
    changes: Cell<u32>,
    waiting: RefCell<Vec<Place>>,
    ended: Cell<Option<Reason>>,
    /// Its number among the connections that faults were looked for; 0 as long as it has none.
    number: Cell<u64>,
    /// Where an opaque connection has led.
    reached: Cell<Option<Destination>>,
}

/// Where a request waits for changes.
#[derive(Debug, Default)]
struct Place {
    taken: bool,
    waker: Option<Waker>,
}

/// What is known of a connection from downstream.
#[derive(Debug)]
pub struct Facts {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The listener as it was when it let the connection in.
    pub came_by: Arc<Listener>,
    /// Where it was going.
    pub destination: SocketAddr,
    /// Whether it was going elsewhere when it was led here.
    pub redirected: bool,
    /// No leased fault strikes it.
    pub spared: bool,
    /// Who opened it.
    pub remote: SocketAddr,
    /// `tls`, or `raw_buffer`.
    pub transport_protocol: &'static str,
    /// By ALPN, or by looking.
    pub protocols: Vec<String>,
    /// By SNI.
    pub server_name: Option<Arc<str>>,
    /// Whether it is encrypted.
    pub secure: bool,
    /// Who the client is, as its certificate has proven.
    pub peer: Option<Rc<PeerIdentity>>,
    /// Keeps what was asked for because of it.
    pub in_use: Option<InUse>,
}

impl Facts {
    /// What decides about the filter chain.
    #[must_use]
    pub fn query(&self) -> ChainQuery<'_> {
        ChainQuery {
            destination: self.destination,
            transport_protocol: self.transport_protocol,
            application_protocols: &self.protocols,
            server_name: self.server_name.as_deref(),
        }
    }

    /// The chain of its destination, where one was told on demand, or else of its listener.
    #[must_use]
    pub fn chain<'a>(
        &self,
        told: Option<&'a ToldDestination>,
        listener: &'a Listener,
    ) -> Option<&'a Arc<FilterChain>> {
        let query = self.query();
        match told {
            Some(destination) => destination.chains.select(&query),
            None => listener.chains.select(&query),
        }
    }

    /// The SPIFFE ID that the client has proven.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.peer.as_ref().and_then(|peer| peer.spiffe.as_ref()).map(|id| id.as_str())
    }

    /// What policies of connections are asked about.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            peer: self.identity(),
            direct_remote: self.remote.ip(),
            remote: self.remote.ip(),
            local: self.destination,
            server_name: self.server_name.as_deref(),
            head: None,
        }
    }

    /// What a chain says about the way on from here. Where a connection was going counts even if a route leads it
    /// elsewhere.
    fn passage<'a>(
        &self,
        chain: &'a FilterChain,
        surroundings: &Surroundings,
        to: Destination,
    ) -> Option<Passage<'a>> {
        let guard = chain.egress.as_ref()?;
        let passage = guard.decide(surroundings, to);
        if !self.redirected || self.destination == to.address {
            return Some(passage);
        }
        let asked = guard.decide(surroundings, Destination { address: self.destination, is_known: true });
        Some(if asked.mode > passage.mode { asked } else { passage })
    }

    /// Whether a connection that was let in before may go on under this chain.
    fn may_stay(&self, before: &FilterChain, chain: &FilterChain) -> bool {
        let same_protocol = matches!(
            (&before.protocol, &chain.protocol),
            (ChainProtocol::Http(_), ChainProtocol::Http(_)) | (ChainProtocol::Tcp(_), ChainProtocol::Tcp(_))
        );
        let trusted = match (&chain.tls, &self.peer) {
            (None, _) => !self.secure,
            (Some(_), _) if !self.secure => false,
            (Some(tls), None) => !tls.require_client_certificate,
            (Some(tls), Some(peer)) => tls.settings.expects(peer),
        };
        let subject = self.subject();
        same_protocol && trusted && chain.policies.iter().all(|filter| filter.decide(&subject).is_allowed())
    }
}

impl Standing {
    /// A connection that was let in under this chain.
    #[must_use]
    pub fn new(facts: Facts, chain: &Arc<FilterChain>, cutoff: &Rc<Cutoff>) -> Self {
        Self {
            facts,
            cutoff: Rc::clone(cutoff),
            chain: RefCell::new(Arc::clone(chain)),
            changes: Cell::new(0),
            waiting: RefCell::default(),
            ended: Cell::new(None),
            number: Cell::new(0),
            reached: Cell::new(None),
        }
    }

    /// What holds now about the way on to this destination; `None` where nothing watches over it.
    #[must_use]
    pub fn passage<T>(
        &self,
        surroundings: &Surroundings,
        to: Destination,
        of: impl FnOnce(Passage<'_>) -> T,
    ) -> Option<T> {
        self.facts.passage(&self.chain.borrow(), surroundings, to).map(of)
    }

    /// Whether anything watches over the way on.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.chain.borrow().egress.is_some()
    }

    /// Remembers where an opaque connection has led, so that it is held to what is said about that later.
    pub fn has_reached(&self, to: Destination) {
        self.reached.set(Some(to));
    }

    /// Holds it to what its destination, where that was told on demand, or its listener says now. Whether it was ended.
    pub fn follow(
        &self,
        told: Option<&ToldDestination>,
        listener: &Listener,
        surroundings: &Surroundings,
    ) -> bool {
        let may_go_on = |chain: &FilterChain| {
            let passage = self.reached.get().and_then(|to| self.facts.passage(chain, surroundings, to));
            passage.is_none_or(|passage| passage.mode != Mode::Refuse)
        };
        let chain = self.facts.chain(told, listener);
        let stays =
            |chain: &&Arc<FilterChain>| self.facts.may_stay(&self.chain.borrow(), chain) && may_go_on(chain);
        let Some(chain) = chain.filter(stays) else {
            return self.end(Reason::PolicyChanged);
        };
        *self.chain.borrow_mut() = Arc::clone(chain);
        self.look_again();
        false
    }

    /// Holds it to the roots that are believed now. Whether it was ended.
    pub fn review(&self) -> bool {
        let chain = Arc::clone(&self.chain.borrow());
        let refused = chain.tls.as_ref().zip(self.cutoff.vouched.get());
        refused.is_some_and(|(tls, peer)| tls.still_trusts(peer).is_err()) && self.end(Reason::PolicyChanged)
    }

    /// Holds it to the time of the certificates that it was opened with. Whether it was ended.
    pub fn expire(&self, now: UnixTime) -> bool {
        match self.cutoff.vouched.get().map(|peer| peer.stage(now)) {
            Some(Stage::Over) => self.end(Reason::IdentityExpired),
            Some(Stage::Retiring) => {
                self.cutoff.retire();
                false
            }
            Some(Stage::Good) | None => false,
        }
    }

    /// Since when nothing new is to be begun on it, if it stands on a certificate that ends soon.
    #[must_use]
    pub fn retired(&self) -> Option<Instant> {
        self.cutoff.retired()
    }

    /// Holds it to what is revoked now. Whether it was ended.
    pub fn revoke(&self, revoked: &Revoked) -> bool {
        self.facts.peer.as_ref().is_some_and(|peer| revoked.covers(peer)) && self.end(Reason::IdentityRevoked)
    }

    /// Ends it as its listener has been drained for long enough. Whether it was ended.
    pub fn overdue(&self) -> bool {
        self.end(Reason::DrainTimeout)
    }

    /// Lets the requests under way ask again whether they may go on.
    pub fn look_again(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
        for waker in self.waiting.borrow_mut().iter_mut().filter_map(|place| place.waker.take()) {
            waker.wake();
        }
    }

    fn end(&self, reason: Reason) -> bool {
        if self.ended.get().is_some() {
            return false;
        }
        self.ended.set(Some(reason));
        self.cutoff.cut();
        true
    }

    /// Its number where faults are drawn by connection.
    #[must_use]
    pub fn number(&self, faults: &FaultSet) -> u64 {
        if self.number.get() == 0 {
            self.number.set(faults.next_connection());
        }
        self.number.get()
    }

    /// Why it was ended, if it was.
    #[must_use]
    pub const fn ended(&self) -> Option<Reason> {
        self.ended.get()
    }

    /// The HTTP settings that hold now.
    #[must_use]
    pub fn http(&self) -> Option<Arc<HttpChain>> {
        match &self.chain.borrow().protocol {
            ChainProtocol::Http(chain) => Some(Arc::clone(chain)),
            ChainProtocol::Tcp(_) => None,
        }
    }

    /// Counts the changes that may concern requests under way.
    #[must_use]
    pub const fn changes(&self) -> u32 {
        self.changes.get()
    }

    /// Asks to be woken at the next change, in a place that [`Self::leave`] gives back.
    pub fn wait(&self, place: &mut Option<usize>, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        let index = *place.get_or_insert_with(|| {
            waiting.iter().position(|place| !place.taken).unwrap_or_else(|| {
                waiting.push(Place::default());
                waiting.len() - 1
            })
        });
        if let Some(place) = waiting.get_mut(index) {
            place.taken = true;
            if !place.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                place.waker = Some(waker.clone());
            }
        }
    }

    /// Gives a place back.
    pub fn leave(&self, place: Option<usize>) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(place) = place.and_then(|index| waiting.get_mut(index)) {
            *place = Place::default();
        }
    }
}
