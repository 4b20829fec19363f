//! As many requests at a time as the service answers without getting slower: the gradient algorithm that Envoy's
//! adaptive concurrency filter documents, shared by the workers without a lock.
//!
//! Now and then few requests are let in at a time, which shows how fast the service is at rest. In between the limit
//! is multiplied, every interval, by how much slower it is now, and given a little room to grow.
//!
//! Unlike in Envoy, what takes very long is no longer waited for: streams and long polls would hold their places all
//! their lives, and three of them at the time of a measurement would leave none for anybody else until one ended.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::bucket::nanos;
use super::places::{OLDEST_S, Places};
use crate::model::limits::Priority;

/// Steps of latency: eight for each doubling, from a microsecond to two minutes.
const STEPS: usize = 8 * 27;
/// The limit may be halved or doubled at a time.
const GRADIENTS: (f64, f64) = (0.5, 2.0);
/// One place in so many is added for what is of high priority, and one at least.
const RESERVE: u32 = 10;
/// With the least limit this often in a row, the service at rest is measured anew.
const MINIMUMS: u32 = 5;
/// In a second.
const NANOS: u64 = 1_000_000_000;
/// So many times as long as the service takes at rest is long.
const LONG_FACTOR: u64 = 10;
/// Seconds that are not long in any case, and such as are in any case.
const LONG_S: (u32, u32) = (5, 60);
const _: () = assert!(LONG_S.1 <= OLDEST_S, "ages are known that far");

/// Its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which latency counts, in percent of the requests that are faster.
    pub percentile: f64,
    /// The limit at most.
    pub max_limit: u32,
    /// Between two changes of the limit.
    pub update: Duration,
    /// Between two measurements at rest.
    pub measure: Duration,
    /// What is added to that at most, by chance, as a part of it.
    pub jitter: f64,
    /// Requests of a measurement.
    pub requests: u32,
    /// Requests at a time meanwhile, and at least.
    pub min_limit: u32,
    /// How much slower than at rest is not slow, as a part of it.
    pub buffer: f64,
    /// What is answered to one too many.
    pub status: StatusCode,
}

/// The limit and what it goes by.
pub struct Gradient {
    settings: Settings,
    begun: Instant,
    limit: AtomicU32,
    under_way: Places,
    samples: Box<[AtomicU32]>,
    count: AtomicU32,
    /// Held by who changes what follows.
    changing: AtomicBool,
    measuring: AtomicBool,
    /// Requests that began before are not counted.
    epoch_ns: AtomicU64,
    update_at_ns: AtomicU64,
    measure_at_ns: AtomicU64,
    at_rest_us: AtomicU64,
    saved_limit: AtomicU32,
    minimums: AtomicU32,
}

impl std::fmt::Debug for Gradient {
    /// Without what changes, so that what is compiled alike is shown alike.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gradient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Gradient {
    /// Begins with a measurement.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            begun: Instant::now(),
            limit: AtomicU32::new(settings.min_limit),
            under_way: Places::new(),
            samples: std::iter::repeat_with(AtomicU32::default).take(STEPS).collect(),
            count: AtomicU32::new(0),
            changing: AtomicBool::new(false),
            measuring: AtomicBool::new(true),
            epoch_ns: AtomicU64::new(0),
            update_at_ns: AtomicU64::new(0),
            measure_at_ns: AtomicU64::new(0),
            at_rest_us: AtomicU64::new(0),
            saved_limit: AtomicU32::new(settings.min_limit),
            minimums: AtomicU32::new(0),
        }
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The limit now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes a place; whether there was one. Each must be given back by [`Self::leave`]. What is of high priority finds
    /// one beyond the limit too, so that the rest is refused first. Where there is none, those who are under way for
    /// long lose theirs.
    #[must_use]
    pub fn enter(&self, priority: Priority, now: Instant, random: u64) -> bool {
        let now_ns = self.since(now);
        let take = || {
            let limit = self.limit();
            let limit = match priority {
                Priority::Default => limit,
                Priority::High => limit.saturating_add((limit / RESERVE).max(1)),
            };
            self.under_way.take(limit, second(now_ns))
        };
        take() || (self.release_long(now_ns, random) && take())
    }

    /// Gives a place back; how long it took counts if the request was answered.
    pub fn leave(&self, began: Instant, whole: bool, now: Instant, random: u64) {
        let (began_ns, now_ns) = (self.since(began), self.since(now));
        let held = self.under_way.give_back(second(began_ns));
        if held && whole && began_ns >= self.epoch_ns.load(Ordering::Relaxed) {
            self.sample((now_ns - began_ns.min(now_ns)) / 1000, 1);
            self.change_when_due(now_ns, random);
        }
    }

    /// Takes their places from those who have been under way for long. They count as if they had been answered now;
    /// so a service that has stopped answering is found slow. Whether there were any.
    fn release_long(&self, now_ns: u64, random: u64) -> bool {
        let at_rest_s = self.at_rest_us.load(Ordering::Relaxed).saturating_mul(LONG_FACTOR) / 1_000_000;
        let long_s = u32::try_from(at_rest_s).unwrap_or(u32::MAX).clamp(LONG_S.0, LONG_S.1);
        let epoch_ns = self.epoch_ns.load(Ordering::Relaxed);
        let mut any = false;
        self.under_way.clear(second(now_ns).saturating_sub(long_s), |began_s, count| {
            any = true;
            if u64::from(began_s) * NANOS >= epoch_ns {
                self.sample(u64::from(long_s) * 1_000_000, count);
            }
        });
        if any {
            self.change_when_due(now_ns, random);
        }
        any
    }

    fn sample(&self, took_us: u64, count: u32) {
        if let Some(sample) = self.samples.get(step(took_us)) {
            sample.fetch_add(count, Ordering::Relaxed);
        }
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    fn change_when_due(&self, now_ns: u64, random: u64) {
        let due = if self.measuring.load(Ordering::Relaxed) {
            self.count.load(Ordering::Relaxed) >= self.settings.requests
        } else {
            now_ns >= self.update_at_ns.load(Ordering::Relaxed)
        };
        if due && !self.changing.swap(true, Ordering::Acquire) {
            self.change(now_ns, random);
            self.changing.store(false, Ordering::Release);
        }
    }

    fn change(&self, now_ns: u64, random: u64) {
        let settings = &self.settings;
        let found_us = self.take_samples();
        if self.measuring.load(Ordering::Relaxed) {
            let Some(at_rest_us) = found_us else { return };
            self.at_rest_us.store(at_rest_us, Ordering::Relaxed);
            self.measuring.store(false, Ordering::Relaxed);
            self.limit.store(self.saved_limit.load(Ordering::Relaxed), Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "chance needs no more digits")]
            let chance = (random % 1000) as f64 / 1000.0;
            let pause = settings.measure.mul_f64(1.0 + settings.jitter * chance);
            self.measure_at_ns.store(now_ns.saturating_add(nanos(pause)), Ordering::Relaxed);
            self.minimums.store(0, Ordering::Relaxed);
        } else if now_ns >= self.measure_at_ns.load(Ordering::Relaxed) {
            self.saved_limit.store(self.limit().max(settings.min_limit), Ordering::Relaxed);
            self.limit.store(settings.min_limit, Ordering::Relaxed);
            self.epoch_ns.store(now_ns, Ordering::Relaxed);
            self.measuring.store(true, Ordering::Relaxed);
        } else if let Some(found_us) = found_us {
            let limit = next_limit(settings, self.limit(), self.at_rest_us.load(Ordering::Relaxed), found_us);
            self.limit.store(limit, Ordering::Relaxed);
            let minimums =
                if limit == settings.min_limit { self.minimums.load(Ordering::Relaxed) + 1 } else { 0 };
            self.minimums.store(minimums, Ordering::Relaxed);
            if minimums >= MINIMUMS {
                self.measure_at_ns.store(now_ns, Ordering::Relaxed);
            }
        }
        self.update_at_ns.store(now_ns.saturating_add(nanos(settings.update)), Ordering::Relaxed);
    }

    /// The latency that counts, in microseconds, and an end to the samples that it comes from.
    fn take_samples(&self) -> Option<u64> {
        let taken: Vec<u32> = self.samples.iter().map(|sample| sample.swap(0, Ordering::Relaxed)).collect();
        self.count.store(0, Ordering::Relaxed);
        let total: u64 = taken.iter().map(|count| u64::from(*count)).sum();
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among samples"
        )]
        let rank = ((total as f64 * self.settings.percentile / 100.0).ceil() as u64).clamp(1, total);
        let mut seen = 0_u64;
        let at = taken.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        at.map(latency_us)
    }

    fn since(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.begun))
    }
}

/// The second, of those since it was made, that a moment falls in.
fn second(since_ns: u64) -> u32 {
    u32::try_from(since_ns / NANOS).unwrap_or(u32::MAX)
}

/// The limit that follows.
fn next_limit(settings: &Settings, limit: u32, at_rest_us: u64, found_us: u64) -> u32 {
    #[expect(clippy::cast_precision_loss, reason = "latencies are short")]
    let (at_rest, found) = (at_rest_us as f64 * (1.0 + settings.buffer), found_us.max(1) as f64);
    let gradient = (at_rest / found).clamp(GRADIENTS.0, GRADIENTS.1);
    let scaled = f64::from(limit) * gradient;
    // The room to grow.
    let grown = scaled + scaled.sqrt();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let grown = grown as u32;
    grown.clamp(settings.min_limit, settings.max_limit.max(settings.min_limit))
}

/// In which step a latency falls.
fn step(took_us: u64) -> usize {
    let took = took_us.max(1);
    let doublings = took.ilog2();
    let eighth = if doublings >= 3 { (took >> (doublings - 3)) & 7 } else { (took << (3 - doublings)) & 7 };
    (doublings as usize * 8 + usize::try_from(eighth).unwrap_or(7)).min(STEPS - 1)
}

/// The shortest latency of a step.
fn latency_us(step: usize) -> u64 {
    let (doublings, eighth) = (step / 8, step as u64 % 8);
    ((8 + eighth) << doublings) / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            percentile: 50.0,
            max_limit: 1000,
            update: Duration::from_millis(100),
            measure: Duration::from_secs(60),
            jitter: 0.0,
            requests: 50,
            min_limit: 3,
            buffer: 0.25,
            status: StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    #[test]
    fn latencies_fall_into_steps_of_an_eighth() {
        for took in [1, 2, 3, 7, 8, 9, 100, 1000, 1_234_567, 60_000_000] {
            let found = latency_us(step(took));
            assert!(found <= took && found * 9 / 8 + 1 >= took, "{took} {found}");
        }
        assert_eq!(step(u64::MAX), STEPS - 1);
    }

    #[test]
    fn the_limit_follows_how_slow_the_service_is() {
        let settings = settings();
        // As fast as at rest, with the buffer: it grows.
        assert_eq!(next_limit(&settings, 100, 1000, 1000), 125 + 11);
        assert_eq!(next_limit(&settings, 100, 1000, 1250), 110);
        // Twice as slow as that: it is nearly halved, ten times as slow no more.
        assert_eq!(next_limit(&settings, 100, 1000, 2500), 50 + 7);
        assert_eq!(next_limit(&settings, 100, 1000, 12_500), 57);
        assert_eq!(next_limit(&settings, 3, 1000, 90_000), 3);
        assert_eq!(next_limit(&settings, 1000, 1000, 10), 1000);
    }

    /// A service that does eight requests at a time, in ten milliseconds each, is asked by very many.
    #[test]
    fn it_finds_what_a_service_can_do() {
        let gradient = Gradient::new(settings());
        let (mut now, mut slots) = (Instant::now(), vec![Instant::now(); 8]);
        let mut under_way: Vec<(Instant, Instant)> = Vec::new();
        let (mut done, mut longest) = (0_u32, Duration::ZERO);
        for millisecond in 0..20_000 {
            now += Duration::from_millis(1);
            under_way.retain(|(began, ends)| {
                if *ends <= now {
                    gradient.leave(*began, true, now, 0);
                    if millisecond > 5000 {
                        done += 1;
                        longest = longest.max(now - *began);
                    }
                }
                *ends > now
            });
            while gradient.enter(Priority::Default, now, 0) {
                let slot = slots.iter_mut().min().unwrap();
                *slot = (*slot).max(now) + Duration::from_millis(10);
                under_way.push((now, *slot));
            }
        }
        // Eight hundred a second are possible.
        assert!(done > 15 * 800 * 9 / 10, "{done}");
        assert!(longest < Duration::from_millis(60), "{longest:?}");
        assert!((8..=40).contains(&gradient.limit()), "{}", gradient.limit());
    }

    #[test]
    fn what_is_of_high_priority_is_refused_last() {
        let gradient = Gradient::new(settings());
        let now = Instant::now();
        let entered = |priority| (0..1000).take_while(|_| gradient.enter(priority, now, 0)).count();
        let limit = usize::try_from(gradient.limit()).unwrap();
        assert_eq!(entered(Priority::Default), limit);
        assert_eq!(entered(Priority::High), (limit / 10).max(1));
        assert!(!gradient.enter(Priority::Default, now, 0));
    }

    #[test]
    fn what_began_before_a_measurement_is_no_part_of_it() {
        let gradient =
            Gradient::new(Settings { measure: Duration::ZERO, update: Duration::ZERO, ..settings() });
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let ask = |began, ended| {
            assert!(gradient.enter(Priority::Default, at(began), 0));
            gradient.leave(at(began), true, at(ended), 0);
        };
        (0..50).for_each(|_| ask(10, 20));
        assert!(!gradient.measuring.load(Ordering::Relaxed));
        ask(30, 40);
        assert!(gradient.measuring.load(Ordering::Relaxed));
        (0..60).for_each(|_| ask(35, 60));
        assert_eq!(gradient.count.load(Ordering::Relaxed), 0);
        ask(45, 46);
        assert_eq!(gradient.count.load(Ordering::Relaxed), 1);
    }

    /// Three streams begin when the proxy does, and never end.
    #[test]
    fn streams_do_not_keep_others_out_for_ever() {
        let gradient = Gradient::new(settings());
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let streams = 3;
        (0..streams).for_each(|_| assert!(gradient.enter(Priority::Default, at(0), 0)));
        assert!(!gradient.enter(Priority::Default, at(4000), 0));
        for request in 0..u64::from(gradient.settings.requests) {
            let began = at(6000 + request * 10);
            assert!(gradient.enter(Priority::Default, began, 0), "{request}");
            gradient.leave(began, true, began + Duration::from_millis(5), 0);
        }
        // That was the measurement, and the limit follows what it has found.
        assert!(!gradient.measuring.load(Ordering::Relaxed));
        assert!((4_500..=5_000).contains(&gradient.at_rest_us.load(Ordering::Relaxed)));
        (0..streams).for_each(|_| gradient.leave(at(0), true, at(100_000), 0));
        let entered = (0..100).take_while(|_| gradient.enter(Priority::Default, at(100_000), 0)).count();
        assert_eq!(entered, gradient.limit() as usize, "each place was given back once");
    }

    #[test]
    fn a_service_that_stops_answering_is_asked_by_few() {
        let gradient = Gradient::new(settings());
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        for millisecond in 0..5000 {
            assert!(gradient.enter(Priority::Default, at(millisecond), 0));
            gradient.leave(at(millisecond), true, at(millisecond + 1), 0);
        }
        assert!(gradient.limit() > 100, "{}", gradient.limit());
        let entered = |seconds: std::ops::Range<u64>| {
            let all = seconds.start * 1000..seconds.end * 1000;
            all.filter(|millisecond| gradient.enter(Priority::Default, at(*millisecond), 0)).count()
        };
        entered(6..60);
        assert!(entered(60..120) <= 120 / 5 * settings().min_limit as usize * 2, "{}", gradient.limit());
    }
}
