//! How many certificates one holder gets: a token that has leaked, or a proxy in a loop, must not keep the authority busy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// At once: all instances of a service may start together with the same token.
const BURST: u32 = 1000;
/// How often one more.
const EVERY: Duration = Duration::from_millis(100);
/// Holders that are remembered.
const MAX_HOLDERS: usize = 20_000;

/// One bucket for each holder (the generic cell rate algorithm): the time at which it is full again.
#[derive(Debug, Default)]
pub(super) struct Limit {
    full_at: HashMap<Arc<str>, Instant>,
}

impl Limit {
    /// Takes one, if there is one left.
    pub(super) fn allows(&mut self, holder: &Arc<str>, now: Instant) -> bool {
        if self.full_at.len() >= MAX_HOLDERS && !self.full_at.contains_key(holder) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_HOLDERS {
                return false;
            }
        }
        let full_at = self.full_at.get(holder).map_or(now, |full_at| (*full_at).max(now));
        let next = full_at + EVERY;
        if next > now + EVERY * BURST {
            return false;
        }
        self.full_at.insert(Arc::clone(holder), next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_gets_so_many_and_then_one_at_a_time() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        for _ in 0..BURST {
            assert!(limit.allows(&one, now));
        }
        assert!(!limit.allows(&one, now) && limit.allows(&other, now));
        assert!(limit.allows(&one, now + EVERY) && !limit.allows(&one, now + EVERY));
        let mut limit = Limit::default();
        for number in 0..MAX_HOLDERS {
            assert!(limit.allows(&number.to_string().into(), now));
        }
        assert!(!limit.allows(&one, now), "no room to remember it");
        assert!(limit.allows(&one, now + EVERY), "the others are full again, and forgotten");
    }
}
