//! Established connections, held to what is known of their peers now: who is revoked, whose certificate has ended and
//! whose roots are gone.

use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::UnixTime;

use super::Worker;
use crate::identity::Revoked;
use crate::observe::Reason;

/// Connections whose peers are looked at before others get their turn: each may cost the check of some signatures.
const REVIEWED_AT_ONCE: usize = 8;

impl Worker {
    /// Closes connections of peers that are revoked.
    pub fn revoke(&self, revoked: &Arc<Revoked>) {
        if Arc::ptr_eq(&self.revoked.replace(Arc::clone(revoked)), revoked) {
            return;
        }
        let ended = self.standings.alive().iter().filter(|standing| standing.revoke(revoked)).count();
        self.count_cut(Reason::IdentityRevoked, ended + self.clusters.revoke(revoked));
    }

    /// Begins nothing new on connections that stand on a certificate which ends soon, and closes those whose peer's
    /// has ended.
    pub fn expire(&self, now: UnixTime) {
        let mut ended = 0;
        self.standings.for_each(|standing| ended += usize::from(standing.expire(now)));
        self.count_cut(Reason::IdentityExpired, ended + self.clusters.expire(now));
    }

    /// Takes note that roots may be gone that peers of established connections stand on.
    pub fn review_is_due(&self) {
        self.review_due.set(true);
    }

    /// Closes connections whose peers are not vouched for any more, if that may have changed: by itself, or with this
    /// number of the trust.
    pub fn review(self: &Rc<Self>, trust: u64) {
        let changed = self.trust.replace(trust) != trust;
        if self.review_due.take() || changed {
            tokio::task::spawn_local(review(Rc::clone(self), changed));
        }
    }
}

async fn review(worker: Rc<Worker>, changed: bool) {
    let mut ended = 0;
    for standings in worker.standings.alive().chunks(REVIEWED_AT_ONCE) {
        ended += standings.iter().filter(|standing| standing.review()).count();
        tokio::task::yield_now().await;
    }
    let snapshot = worker.snapshot();
    for links in worker.clusters.secured().chunks(REVIEWED_AT_ONCE) {
        let lost = links.iter().filter(|link| !link.is_cut()).filter(|link| {
            let peer = link.vouched.get();
            peer.is_some_and(|peer| {
                let cluster = snapshot.clusters.get(&peer.context);
                let tls = cluster.and_then(|cluster| cluster.config.tls.as_ref());
                // A cluster that is gone cannot say whom it would trust now. What is under way on its connections goes on until
                // somebody is trusted no longer: it may be them.
                tls.map_or(changed, |tls| tls.still_trusts(peer).is_err())
            })
        });
        ended += lost.map(|link| link.cut()).count();
        tokio::task::yield_now().await;
    }
    worker.count_cut(Reason::PolicyChanged, ended);
}
