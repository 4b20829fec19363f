//! What is said of handshakes that came to nothing: enough for an operator to see whose, and no more than a log can bear.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often one source is warned of.
const PAUSE: Duration = Duration::from_secs(60);
/// Sources that are remembered: of more at a time only these are warned of.
const MAX_SOURCES: usize = 256;

/// Who was warned of, and when.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<IpAddr, Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// Those that were not said since.
    more: u64,
}

impl Refusals {
    /// Says it at the level of a warning, or where that was done lately, so that only who looks for it finds it.
    pub(super) fn say(&self, address: SocketAddr, error: &std::io::Error) {
        match self.unsaid(address.ip(), Instant::now()) {
            Some(0) => tracing::warn!(%address, %error, "no TLS connection (TLS 1.3 is asked for)"),
            Some(more) => tracing::warn!(%address, %error, more, "no TLS connection (TLS 1.3 is asked for)"),
            None => tracing::debug!(%address, %error, "no TLS connection"),
        }
    }

    /// How many of a source have not been said before this one; `None` when this one is not to be said either.
    fn unsaid(&self, source: IpAddr, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&source) && all.len() >= MAX_SOURCES {
            all.retain(|_, said| now.duration_since(said.at) < PAUSE);
            if all.len() >= MAX_SOURCES {
                return None;
            }
        }
        let Some(said) = all.get_mut(&source) else {
            all.insert(source, Said { at: now, more: 0 });
            return Some(0);
        };
        if now.duration_since(said.at) < PAUSE {
            said.more += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.more))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_source_is_said_once_in_a_while_and_a_flood_is_not() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let source = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(number));
        assert_eq!(refusals.unsaid(source(1), start), Some(0));
        assert_eq!(refusals.unsaid(source(1), start), None);
        assert_eq!(refusals.unsaid(source(2), start), Some(0), "another one is heard");
        assert_eq!(refusals.unsaid(source(1), start + PAUSE), Some(1));
        let said = (3..10_000).filter(|number| refusals.unsaid(source(*number), start + PAUSE).is_some());
        assert_eq!(said.count(), MAX_SOURCES - 1);
        assert_eq!(refusals.unsaid(source(3), start + 2 * PAUSE), Some(0), "there is room again");
    }
}
