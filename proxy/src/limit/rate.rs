//! How many requests of which kind are let in.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::bucket::{Bucket, Rate};
use super::descriptor::{Descriptor, Part, Subject};
use super::keyed::Keyed;
use crate::model::headers::HeaderChanges;
use crate::model::parse::Share;

/// A limit on requests, with its tokens, which all workers share.
#[derive(Debug)]
pub struct RateLimit {
    /// The name in metrics.
    pub name: Arc<str>,
    /// The requests that it looks at.
    pub enabled: Option<Share>,
    /// Those of them that it refuses; the others are only counted.
    pub enforced: Option<Share>,
    /// What is answered.
    pub status: StatusCode,
    /// What is added to the answer.
    pub response_headers: HeaderChanges,
    /// gRPC clients are told RESOURCE_EXHAUSTED.
    pub grpc_exhausted: bool,
    /// The answer says when to come again.
    pub retry_after: bool,
    /// Every answer says how many requests are left.
    pub tells: bool,
    /// For all requests.
    pub all: Option<Tokens>,
    /// Also for those that a limit of their own was found for.
    pub all_always: bool,
    /// How descriptors are made.
    pub rules: Vec<Vec<Part>>,
    /// What descriptors are limited to, the slowest first.
    pub kinds: Vec<Kind>,
}

/// A bucket and how it fills.
#[derive(Debug)]
pub struct Tokens {
    /// How it fills.
    pub rate: Rate,
    /// The tokens.
    pub bucket: Bucket,
}

/// A kind of request and its tokens.
#[derive(Debug)]
pub struct Kind {
    /// The parts of its descriptor; any value where there is none.
    pub parts: Vec<(Box<str>, Option<Box<str>>)>,
    /// The tokens.
    pub tokens: KindTokens,
}

/// The tokens of a kind of request.
#[derive(Debug)]
pub enum KindTokens {
    /// Of all its requests together.
    Together(Tokens),
    /// Of each value by itself.
    Each(Rate, Keyed),
}

/// What a client is told of the tokens that its request took one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The most that there can be.
    pub limit: u32,
    /// Those that are left.
    pub left: u32,
    /// How long until there is one.
    pub wait: Duration,
}

impl Quota {
    /// Keeps whichever has less left.
    pub fn tighten(known: &mut Option<Box<Self>>, other: Self) {
        if known.as_ref().is_none_or(|known| other.left < known.left) {
            *known = Some(Box::new(other));
        }
    }
}

/// A request too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Whether it is refused, or only counted.
    pub enforced: bool,
    /// How long until there is a token.
    pub wait: Duration,
}

impl Tokens {
    /// Takes one; whether there was one.
    #[must_use]
    pub fn take_one(&self) -> bool {
        self.bucket.take(self.rate, Instant::now())
    }

    fn quota(&self, now: Instant) -> Quota {
        let (left, wait) = (self.bucket.left(self.rate, now), self.bucket.wait(self.rate, now));
        Quota { limit: self.rate.burst, left, wait }
    }

    fn take(&self, now: Instant) -> Result<(), Duration> {
        if self.bucket.take(self.rate, now) { Ok(()) } else { Err(self.bucket.wait(self.rate, now)) }
    }
}

impl Kind {
    fn rate(&self) -> Rate {
        match &self.tokens {
            KindTokens::Together(tokens) => tokens.rate,
            KindTokens::Each(rate, _) => *rate,
        }
    }

    fn is_of(&self, descriptor: &Descriptor<'_>) -> bool {
        self.parts.len() == descriptor.len()
            && self.parts.iter().zip(descriptor.parts()).all(|((key, wanted), (name, value))| {
                **key == *name && wanted.as_ref().is_none_or(|wanted| wanted.as_bytes() == value)
            })
    }

    fn take(&self, descriptor: &Descriptor<'_>, now: Instant) -> Result<(), Duration> {
        match &self.tokens {
            KindTokens::Together(tokens) => tokens.take(now),
            KindTokens::Each(rate, keyed) => keyed.take(self.open(descriptor), *rate, now),
        }
    }

    fn quota(&self, descriptor: &Descriptor<'_>, now: Instant) -> Quota {
        match &self.tokens {
            KindTokens::Together(tokens) => tokens.quota(now),
            KindTokens::Each(rate, keyed) => {
                let (left, wait) = keyed.left(self.open(descriptor), *rate, now);
                Quota { limit: rate.burst, left, wait }
            }
        }
    }

    /// The values for which there are tokens of their own.
    fn open<'a>(&'a self, descriptor: &'a Descriptor<'_>) -> impl Iterator<Item = &'a [u8]> {
        let parts = self.parts.iter().zip(descriptor.parts());
        parts.filter(|((_, wanted), _)| wanted.is_none()).map(|(_, (_, value))| value)
    }
}

impl RateLimit {
    /// The slowest first, as in Envoy: a request that is one too many there takes no other token.
    #[must_use]
    pub fn sorted(mut kinds: Vec<Kind>) -> Vec<Kind> {
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.rate().interval));
        kinds
    }

    /// Takes the tokens of a request; `None` when it may go on. Allocates nothing but what is told to the client, where
    /// a limit tells it.
    #[must_use]
    pub fn limits(
        &self,
        subject: &Subject<'_>,
        (now, draw): (Instant, u64),
        quota: &mut Option<Box<Quota>>,
    ) -> Option<Limited> {
        if !self.enabled.is_some_and(|share| share.covers(draw)) {
            return None;
        }
        let wait = self.take(subject, now, quota).err()?;
        Some(Limited { enforced: self.enforced.is_some_and(|share| share.covers(draw >> 20)), wait })
    }

    fn take(
        &self,
        subject: &Subject<'_>,
        now: Instant,
        quota: &mut Option<Box<Quota>>,
    ) -> Result<(), Duration> {
        let mut found = false;
        if !self.kinds.is_empty() {
            for kind in &self.kinds {
                let descriptors = self.rules.iter().filter_map(|rule| Descriptor::of(rule, subject));
                for descriptor in descriptors.filter(|descriptor| kind.is_of(descriptor)) {
                    found = true;
                    let taken = kind.take(&descriptor, now);
                    if self.tells {
                        Quota::tighten(quota, kind.quota(&descriptor, now));
                    }
                    taken?;
                }
            }
        }
        match &self.all {
            Some(tokens) if self.all_always || !found => {
                let taken = tokens.take(now);
                if self.tells {
                    Quota::tighten(quota, tokens.quota(now));
                }
                taken
            }
            Some(_) | None => Ok(()),
        }
    }
}
